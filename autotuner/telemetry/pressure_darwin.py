"""Memory pressure of macOS, as the kernel tells it."""

from __future__ import annotations

from autotuner.telemetry.host import Host
from autotuner.telemetry.memory_sysctl_darwin import FREE_PERCENT
from autotuner.telemetry.sensor import Reading, Unavailable, checked
from autotuner.telemetry.sysctl_darwin import sysctl_integer

PRESSURE = "kern.memorystatus_vm_pressure_level"

PRESSURE_LEVELS = {1: 0, 2: 1, 4: 2}
"""The kernel's dispatch values: 1 normal, 2 warn, 4 critical. Any other is unknown, not normal."""

LATCHED_ABOVE_PERCENT = 40
"""The kernel's level can stay up for minutes after memory was given back: with so much free, it counts one level less."""


def pressure_of(dispatch: int, free_percent: int | None) -> int:
    """0 normal, 1 warn, 2 critical, one less where the level is plainly latched; raises Unavailable for an unknown value."""
    if dispatch not in PRESSURE_LEVELS:
        raise Unavailable(f"sysctl {PRESSURE} says {dispatch}; known are {sorted(PRESSURE_LEVELS)}")
    level = PRESSURE_LEVELS[dispatch]
    latched = free_percent is not None and LATCHED_ABOVE_PERCENT < free_percent <= 100
    return max(0, level - 1) if latched else level


class PressureDarwin:
    """The kernel's memory pressure level, corrected where it is latched."""

    name = "pressure_sysctl"
    source = f"sysctl {PRESSURE}"

    def __init__(self, host: Host) -> None:
        self._host = host

    def read(self, now: float) -> tuple[Reading, ...]:
        """The pressure level."""
        try:
            free_percent: int | None = sysctl_integer(self._host, FREE_PERCENT)
        except Unavailable:
            free_percent = None
        level = pressure_of(sysctl_integer(self._host, PRESSURE), free_percent)
        return (checked("memory_pressure", level, self.source),)
