"""Pauses for pace: many and short, because an idle of more than half a second clocks a GPU down."""

from __future__ import annotations

import time
from collections.abc import Callable

LONGEST_PAUSE_SECONDS = 0.4


class Pauses:
    """Rests so that computing is ``pace`` of the time; a rest that would be too long goes on after the next pieces of work."""

    def __init__(self, sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic) -> None:
        self._sleep = sleep
        self._clock = clock
        self._since = clock()
        self._owed = 0.0

    def rest(self, pace: float) -> None:
        """Called after a piece of work on the GPU: one pause of at most LONGEST_PAUSE_SECONDS."""
        now = self._clock()
        worked, self._since = now - self._since, now
        if pace >= 1.0:
            self._owed = 0.0
            return
        self._owed += worked * (1.0 / pace - 1.0)
        pause = min(self._owed, LONGEST_PAUSE_SECONDS)
        self._owed = min(self._owed - pause, worked)  # a debt that never can be paid is not kept
        self._sleep(pause)
        self._since = self._clock()
