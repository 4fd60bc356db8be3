"""One tick's time on both clocks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Moment:
    """``now`` is monotonic (what records carry and intervals are measured in), ``unix`` the wall clock of the same instant."""

    now: float
    unix: float

    def unix_at(self, time: float) -> float:
        """The wall clock of a monotonic ``time``."""
        return self.unix - (self.now - time)

    def monotonic_at(self, unix: float) -> float:
        """The monotonic time of a wall clock time."""
        return self.now - (self.unix - unix)
