"""The knob ``lr_scale`` on an optimizer of PyTorch: the rates of a schedule, multiplied for the duration of one step."""

from __future__ import annotations

from typing import Any

RAMP_STEPS = 50
"""Fewest optimizer steps in which the learning rate doubles or halves."""
LR_SCALES = (0.25, 0.5, 1.0, 2.0)


class RateScale:
    """Multiplies before a step and puts back after it, so that whoever keeps the schedule never sees it; moments stay."""

    def __init__(self) -> None:
        self._scale = 1.0
        self._kept: list[tuple[Any, Any]] = []

    def apply(self, groups: list[dict[str, Any]], wanted: float) -> None:
        """Before the step. The scale moves towards ``wanted`` by at most a RAMP_STEPS-th of a doubling."""
        self.restore()
        if wanted == 1.0 and self._scale == 1.0:
            return
        most = 2.0 ** (1.0 / RAMP_STEPS)
        self._scale = min(max(wanted, self._scale / most), self._scale * most)
        self._kept = [(group, group["lr"]) for group in groups]
        for group, rate in self._kept:
            group["lr"] = rate * self._scale

    def restore(self) -> None:
        """After the step."""
        for group, rate in self._kept:
            group["lr"] = rate
        self._kept = []
