"""Memory and swap of a Linux machine, from /proc/meminfo."""

from __future__ import annotations

from autotuner.telemetry.host import Host
from autotuner.telemetry.sensor import Reading, Unavailable, checked

_KIB = 1024


def parse_meminfo(text: str) -> dict[str, int]:
    """Bytes by name; lines that are no amount are left out."""
    amounts = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            amounts[name.strip()] = int(words[0]) * (_KIB if words[1:] == ["kB"] else 1)
    return amounts


class MemoryLinux:
    """MemTotal, MemAvailable and the swap in use."""

    name = "memory_meminfo"
    source = "/proc/meminfo"

    def __init__(self, host: Host) -> None:
        self._host = host

    def read(self, now: float) -> tuple[Reading, ...]:
        """Total and available memory, and swap in use."""
        amounts = parse_meminfo(self._host.text("proc/meminfo"))
        if "MemTotal" not in amounts or "MemAvailable" not in amounts:
            raise Unavailable(f"{self.source} lacks MemTotal or MemAvailable")
        readings = [
            checked("memory_total_bytes", amounts["MemTotal"], self.source),
            checked("memory_available_bytes", amounts["MemAvailable"], self.source),
        ]
        if "SwapTotal" in amounts and "SwapFree" in amounts:
            readings.append(checked("swap_used_bytes", amounts["SwapTotal"] - amounts["SwapFree"], self.source))
        return tuple(readings)
