"""A training with PyTorch under somebody else's loop: what its callbacks have in common."""

from __future__ import annotations

from typing import Any

from autotuner.adapters import device_memory, environment
from autotuner.adapters.learning_rate import LR_SCALES, RateScale
from autotuner.adapters.pieces import divisors
from autotuner.adapters.table import offer
from autotuner.adapters.training import PACES, Training
from autotuner.hook import attach


class TorchTraining(Training):
    """Attaches for an adapter whose loop keeps its batches: pace is offered, and ``lr_scale`` when ``knobs`` names it."""

    def __init__(
        self, adapter: str, name: str, model: Any, batch: int, knobs: tuple[str, ...], budget_steps: int | None = None
    ) -> None:
        import torch

        parameter = next(model.parameters(), None)
        device = parameter.device.type if parameter is not None else "cpu"
        offered = {}
        if batch > 1:
            offered["micro_batch"] = offer(adapter, "micro_batch", batch, divisors(batch))
        if "pace" in knobs:
            offered["pace"] = offer(adapter, "pace", 1.0, PACES)
        if "lr_scale" in knobs:
            offered["lr_scale"] = offer(adapter, "lr_scale", 1.0, LR_SCALES)
        run = attach(
            name,
            knobs=offered,
            model={
                "model": type(model).__name__,
                "parameters": sum(part.numel() for part in model.parameters()),
                "batch": batch,
            },
            framework=f"{adapter}-{device}",
            budget_steps=budget_steps if budget_steps and budget_steps > 0 else None,
            clear_cache=device_memory.torch_cache_clearing(torch, device),
        )
        environment.note_run(run.directory)
        super().__init__(run, memory=device_memory.of_torch(torch, device))
        self._rates = RateScale()
        self._hooked = False

    def before_optimizer(self, optimizer: Any) -> None:
        """Right before ``optimizer.step()``."""
        optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper has no hooks
        if not self._hooked:
            self._hooked = True
            optimizer.register_step_post_hook(lambda *_: self.after_optimizer())
        self._rates.apply(optimizer.param_groups, float(self.knob("lr_scale", 1.0)))

    def after_optimizer(self) -> None:
        """Right after it, before any scheduler steps."""
        self._rates.restore()
