"""Memory of macOS: its size, and the kernel's own free percentage."""

from __future__ import annotations

from autotuner.telemetry.host import Host
from autotuner.telemetry.sensor import Reading, Unavailable, checked
from autotuner.telemetry.sysctl_darwin import sysctl_integer

TOTAL = "hw.memsize"

FREE_PERCENT = "kern.memorystatus_level"


def available_bytes(total_bytes: int, free_percent: int) -> int:
    """What the kernel's free percentage means in bytes; 0 and more than 100 are invalid."""
    if not 0 < free_percent <= 100:
        raise Unavailable(f"sysctl {FREE_PERCENT} says {free_percent}; possible is 1 to 100")
    return total_bytes * free_percent // 100


class MemoryDarwin:
    """Total memory, and what the kernel's own free percentage leaves of it."""

    name = "memory_sysctl"
    source = f"sysctl {FREE_PERCENT}"

    def __init__(self, host: Host) -> None:
        self._host = host

    def read(self, now: float) -> tuple[Reading, ...]:
        """Total and available memory."""
        total = sysctl_integer(self._host, TOTAL)
        available = available_bytes(total, sysctl_integer(self._host, FREE_PERCENT))
        return (checked("memory_total_bytes", total, self.source), checked("memory_available_bytes", available, self.source))
