"""Throttling as the run itself shows it: step time against the best at the same knob vector, whatever the system says.

The system's thermal level may stay nominal while the clock is limited (llama.cpp issue 10444), and it may rise long
before steps get longer. Both are told, side by side; ``told`` says it in words.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from statistics import median

SLOW_RATIO = 1.15
"""Steps that take so many times as long as at their best are slow, if noise does not explain it."""
NOISE_MARGIN = 6.0
"""...and by so many standard errors of a block's median: the best of many blocks is lucky by two or three of them."""
BLOCK_STEPS = 8
BLOCK_SECONDS = 2.0
"""A block is at least so many steps and so much computing: shorter ones would show every hiccup."""
STEPS_KEPT = 128
"""Step durations kept of one block; a median needs no more."""
CONFIRM_BLOCKS = 2
"""So many blocks in a row must say the same before it is believed."""
SETTLE_STEPS = 2
"""Steps left out after a change of knobs: they may compile, fill caches, or belong to the old values."""
VECTORS_KEPT = 64
"""Knob vectors whose best is remembered; the oldest is forgotten first."""
HEAVY = 2
_MAD_TO_DEVIATION, _MEDIAN_ERROR = 1.4826, 1.2533  # of a normal distribution


class Slowdown:
    """Fed with the computing seconds of ordinary steps; says how many times as long as at their best they take."""

    def __init__(self) -> None:
        self.ratio: float | None = None
        """Last block against the best at the same knob vector, 1 or more; None until there is something to compare."""
        self.slow = False
        """Whether enough blocks in a row were slower than noise explains."""
        self._at: tuple[Hashable, float] | None = None
        self._best: dict[Hashable, dict[float, float]] = {}  # seconds by knob vector and pace
        self._contrary = 0
        self._begin(0)

    def _begin(self, left_out: int) -> None:
        self._seconds: list[float] = []
        self._total = 0.0
        self._left_out = left_out

    def step(self, vector: Hashable, pace: float, seconds: float) -> None:
        """Take one step: every other knob that its duration depends on, the pace, and its seconds with the pauses for pace.

        Durations that are unknown (NaN), zero or negative are left out.
        """
        if self._at != (vector, pace):
            first = self._at is None
            self._at, self.ratio, self.slow, self._contrary = (vector, pace), None, False, 0
            self._begin(0 if first else SETTLE_STEPS)
        if not 0.0 < seconds < math.inf:
            return
        if self._left_out:
            self._left_out -= 1
            return
        self._total += seconds
        self._seconds.append(seconds)
        if len(self._seconds) >= BLOCK_STEPS and (self._total >= BLOCK_SECONDS or len(self._seconds) >= STEPS_KEPT):
            self._close()

    def _close(self) -> None:
        now, error = _median_with_error(self._seconds)
        self.ratio = now / self._best_with(now)
        says_slow = self.ratio > max(SLOW_RATIO, 1.0 + NOISE_MARGIN * error)
        self._contrary = self._contrary + 1 if says_slow != self.slow else 0
        if self._contrary >= CONFIRM_BLOCKS:
            self.slow, self._contrary = says_slow, 0
        self._begin(0)

    def _best_with(self, now: float) -> float:
        """Remember a block's median; the shortest that a step may take at this vector and pace, by all that was measured.

        At another pace a step computed no longer than it took, and pauses never exceed what the pace says (they may be
        cut short), so that its best over this pace is the most that a step should take here.
        """
        assert self._at is not None, "a block has steps"
        vector, pace = self._at
        paces = self._best.pop(vector, {})
        self._best[vector] = paces  # the newest is last
        if len(self._best) > VECTORS_KEPT:
            del self._best[next(iter(self._best))]
        paces[pace] = min(now, paces.get(pace, now))
        elsewhere = min(paces.values()) / pace if pace > 0 else math.inf
        return min(paces[pace], elsewhere)


def _median_with_error(seconds: list[float]) -> tuple[float, float]:
    """The median, and its standard error relative to it, both without minding single long steps."""
    middle = median(seconds)
    deviation = _MAD_TO_DEVIATION * median(abs(value - middle) for value in seconds)
    return middle, _MEDIAN_ERROR * deviation / math.sqrt(len(seconds)) / middle


def told(ratio: float | None, slow: bool, thermal_level: int | None) -> str:
    """What run and system say of throttling, where either says anything; empty when both are content or know nothing."""
    hot = thermal_level is not None and thermal_level >= HEAVY
    if slow and ratio is not None:
        seen = f"steps take {ratio:.2f} times as long as at their best with these knobs"
        if hot:
            return f"{seen}, and the system is hot"
        if thermal_level is None:
            return f"{seen}; nothing tells how hot the system is"
        return f"{seen}, while the system reports no heavy heat: another program, low-power mode or swap may be the cause"
    if hot and ratio is not None:
        return "the system is hot, but steps are as fast as ever"
    return ""
