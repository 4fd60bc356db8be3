"""Injected experiments: a scripted machine state that slows this trainer down as heat or swapping would."""

from __future__ import annotations

from pathlib import Path

from autotuner.telemetry.scripted import InjectedState, slowdown
from autotuner.telemetry.sensor import Unavailable

READ_EVERY_SECONDS = 0.25


class Injection:
    """The state of one file, read at most every READ_EVERY_SECONDS; without a fresh state nothing slows down."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state: InjectedState | None = None
        self._read_at = float("-inf")
        self.seconds = 0.0
        """Time that this trainer was slowed down by, in total."""

    def extra_seconds(self, step_seconds: float, used_bytes: int, now: float) -> float:
        """How much longer the step would have taken on the scripted machine."""
        if now - self._read_at >= READ_EVERY_SECONDS:
            self._read_at = now
            try:
                self._state = InjectedState.read(self._path)
            except Unavailable:
                self._state = None
        if self._state is None or not self._state.fresh(now):
            return 0.0
        extra = step_seconds * max(slowdown(self._state, used_bytes) - 1, 0.0)
        self.seconds += extra
        return extra
