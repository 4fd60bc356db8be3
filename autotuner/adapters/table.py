"""Which knob takes effect when, adapter by adapter, and why so: what the adapters declare and the documents show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autotuner.hook.attach import Offer, knob


@dataclass(frozen=True)
class Effect:
    """One row: ``effect`` is a member of ``knobs.EFFECTS``."""

    adapter: str
    knob: str
    effect: str
    why: str


_CUT = "each batch is cut before the forward pass; losses are weighted so that the gradient of an optimizer step stays"
_PAUSE = "short pauses between forward and backward passes"
_FIXED = "the loop makes its batches before anybody else sees them"
_STEP_LR = "multiplies the rate for the duration of each optimizer step; offered only when asked for"

EFFECTS: tuple[Effect, ...] = (
    Effect("accelerate", "micro_batch", "boundary", _CUT),
    Effect("accelerate", "pace", "boundary", _PAUSE),
    Effect("accelerate", "lr_scale", "boundary", _STEP_LR),
    Effect("accelerate", "resolution", "none", "lies in the script's own transforms or in latents encoded before"),
    Effect("transformers", "micro_batch", "none", _FIXED),
    Effect("transformers", "pace", "boundary", _PAUSE),
    Effect("transformers", "lr_scale", "boundary", _STEP_LR),
    Effect("lightning", "micro_batch", "none", "accumulation alone could follow, which would change the effective batch"),
    Effect("lightning", "pace", "boundary", _PAUSE),
    Effect("lightning", "lr_scale", "boundary", _STEP_LR),
    Effect("mlx-lm", "micro_batch", "none", "the accumulation is captured when the step is compiled"),
    Effect("mlx-lm", "pace", "live", _PAUSE),
    Effect("mlx-lm", "cache_limit", "live", "given to MLX between two steps"),
    Effect("mlx-diffuser", "micro_batch", "none", "its step has no accumulation: a smaller batch would be another training"),
    Effect("mlx-diffuser", "pace", "live", _PAUSE),
    Effect("mlx-diffuser", "cache_limit", "live", "given to MLX between two steps"),
    Effect("mflux", "micro_batch", "none", "it trains image by image, so that a smaller batch saves little"),
    Effect("mflux", "resolution", "restart", "the latents are encoded before the loop"),
    Effect("mflux", "pace", "live", _PAUSE),
    Effect("mflux", "cache_limit", "live", "given to MLX between two steps"),
)


def effect_of(adapter: str, name: str) -> str:
    """When a change of this knob is felt in this adapter; raises KeyError for a pair that the table does not hold."""
    for row in EFFECTS:
        if (row.adapter, row.knob) == (adapter, name):
            return row.effect
    raise KeyError(f"{adapter} and {name}")


def offer(adapter: str, name: str, start: float, values: Sequence[float], *, possible: bool = True) -> Offer:
    """The knob as the hook takes it; ``none`` instead of the table's effect when this run cannot honour it."""
    return knob(start, values, effect_of(adapter, name) if possible else "none")
