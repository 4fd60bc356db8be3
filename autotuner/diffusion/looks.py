"""When a training is measured: at its interval, seldomer where that costs a student much, at once where a gate waits."""

from __future__ import annotations

import math

from autotuner.diffusion.config import TrainerConfig
from autotuner.diffusion.evaluation import Evaluated

MEASURING_SHARE = 0.15
"""Most of a student's time that its evaluations take."""


class Looks:
    """The times of one training's evaluations. ``gated`` says everywhere whether it is the gate that ends stages."""

    def __init__(self, config: TrainerConfig) -> None:
        self._config = config
        self._at = -math.inf
        self._entering = False

    def enter(self) -> None:
        """A student enters a gated stage: look at it as it is, for one that can do it already should not be taught it."""
        self._entering = self._config.evaluation_interval is not None

    def due(self, step: int, seconds: float, last: Evaluated | None, *, gated: bool) -> bool:
        """Whether to look after this step; ``last`` is the newest evaluation."""
        interval = self._config.evaluation_interval
        if interval is None:
            return step % (self._config.evaluate_every_steps or 1) == 0
        return self._entering or seconds - self._at >= max(interval, self._patience(last, gated=gated))

    def with_quality(self, count: int, last: Evaluated | None, *, gated: bool) -> bool:
        """Whether the next look, after ``count`` others, samples: every so often, and always where it may end a stage."""
        return self._entering or self._passed(last, gated=gated) or count % self._config.quality_every == 0

    def taken(self, seconds: float) -> bool:
        """A look is taken now; whether it is at a student as it entered, which has learned nothing yet."""
        entering, self._entering, self._at = self._entering, False, seconds
        return entering

    def _patience(self, last: Evaluated | None, *, gated: bool) -> float:
        """Seconds between two looks at a student below which they would take too much of its time."""
        if last is None or not last.stage or self._passed(last, gated=gated):
            return 0.0
        return last.took_seconds / MEASURING_SHARE

    def _passed(self, last: Evaluated | None, *, gated: bool) -> bool:
        """Whether one more look may end a stage that is not the last one."""
        if not gated or last is None:
            return False
        return 0 < last.stage < len(self._config.student_ladder) and last.gap <= self._config.bounds.advance
