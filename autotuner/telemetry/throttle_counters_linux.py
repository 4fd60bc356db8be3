"""Heat of a Linux machine: the throttle counters of x86 processors."""

from __future__ import annotations

import math
from collections.abc import Iterable

from autotuner.telemetry.host import Host
from autotuner.telemetry.sensor import Absent, Reading, Unavailable, checked

THROTTLED_SECONDS = 10.0
"""A throttle counter that rose within so many seconds means heavy heat."""


class ThrottleCounters:
    """Thermal throttling that x86 processors counted: heavy while it goes on, nominal when it does not."""

    name = "throttle_counters"
    source = "/sys/devices/system/cpu/*/thermal_throttle"

    def __init__(self, host: Host) -> None:
        self._host = host
        self._count: int | None = None
        self._rose = -math.inf

    def read(self, now: float) -> tuple[Reading, ...]:
        """The level; the first reading has nothing to compare with and is Unavailable."""
        paths = self._host.paths("sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count")
        if not paths:
            raise Absent("this processor has no thermal_throttle counters")
        count, before = sum_counts(self._host.text(path) for path in paths), self._count
        self._count = count
        if before is None:
            raise Unavailable("throttle counters were read for the first time: a level needs two readings")
        if count > before:
            self._rose = now
        return (checked("thermal_level", 2 if now - self._rose < THROTTLED_SECONDS else 0, self.source),)


def sum_counts(texts: Iterable[str]) -> int:
    """Sum of counter files; raises Unavailable for one that is no count."""
    total = 0
    for text in texts:
        if not text.strip().isdigit():
            raise Unavailable(f"throttle counter says {text.strip()!r}; expected a count")
        total += int(text)
    return total
