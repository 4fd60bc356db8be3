"""What the training loop tells of one optimizer step."""

from __future__ import annotations

from dataclasses import dataclass

from autotuner.diffusion.evaluation import Evaluated


@dataclass(frozen=True, slots=True)
class Progress:
    """One optimizer step."""

    step: int
    seconds: float
    """Wall time of the run so far."""
    loss: float
    images: int
    step_seconds: float
    """Wall time of this step, pacing and injected slowdown included."""
    resolution: int
    micro_batch: int
    stage: int
    flags: int
    learning_rate: float
    active_bytes: int
    cache_bytes: int
    peak_bytes: int
    evaluation: Evaluated | None
