"""Memory, its pressure and swap of macOS, as the command sysctl prints them."""

from __future__ import annotations

from autotuner.telemetry.host import Host
from autotuner.telemetry.memory_sysctl_darwin import FREE_PERCENT, TOTAL, available_bytes
from autotuner.telemetry.pressure_darwin import PRESSURE, PRESSURE_LEVELS, pressure_of
from autotuner.telemetry.sensor import Reading, Unavailable, checked
from autotuner.telemetry.swap_darwin import SWAP, parse_swapusage

SYSCTL_COMMAND = ("/usr/sbin/sysctl", TOTAL, FREE_PERCENT, PRESSURE, SWAP)


def parse_sysctl(text: str) -> dict[str, str]:
    """Values by name, from lines like ``hw.memsize: 17179869184``."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}


class SysctlCommand:
    """The same values as printed by the sysctl command, where the library does not answer."""

    name = "sysctl_command"
    source = SYSCTL_COMMAND[0]

    def __init__(self, host: Host) -> None:
        self._host = host

    def read(self, now: float) -> tuple[Reading, ...]:
        """Whatever of memory, pressure and swap was printed and is valid."""
        values = parse_sysctl(self._host.output(*SYSCTL_COMMAND))
        total, percent, dispatch = (_whole(values.get(name, "")) for name in (TOTAL, FREE_PERCENT, PRESSURE))
        readings = []
        if total is not None:
            readings.append(checked("memory_total_bytes", total, self.source))
        if total is not None and percent is not None and 0 < percent <= 100:
            readings.append(checked("memory_available_bytes", available_bytes(total, percent), self.source))
        if dispatch in PRESSURE_LEVELS:
            readings.append(checked("memory_pressure", pressure_of(dispatch, percent), self.source))
        if SWAP in values:
            readings.append(checked("swap_used_bytes", parse_swapusage(values[SWAP]), self.source))
        if not readings:
            raise Unavailable(f"{self.source} printed none of {', '.join(SYSCTL_COMMAND[1:])}")
        return tuple(readings)


def _whole(text: str) -> int | None:
    return int(text) if text.isdigit() else None
