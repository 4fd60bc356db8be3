"""Temperature and power of macOS by macmon, where somebody installed it: the system itself tells neither without root."""

from __future__ import annotations

import json
from typing import Any

from autotuner.telemetry.host import Host
from autotuner.telemetry.sensor import Absent, Reading, Unavailable, checked

MACMON_PATHS = ("opt/homebrew/bin/macmon", "usr/local/bin/macmon")
"""Where Homebrew and MacPorts put vladkens/macmon; the package of that name on PyPI is another program."""

MACMON_ARGUMENTS = ("pipe", "-s", "1", "-i", "100")


def parse_macmon(text: str) -> dict[str, float]:
    """Celsius and watts of one line of ``macmon pipe``; a temperature of 0 means that there is no such sensor."""
    try:
        sample: Any = json.loads(text.strip().splitlines()[-1])
        degrees = [float(sample["temp"][name]) for name in ("cpu_temp_avg", "gpu_temp_avg")]
        watts = float(sample["sys_power"] or sample["all_power"])
    except (ValueError, KeyError, TypeError, IndexError):
        raise Unavailable(f"macmon printed {text[:80]!r}; expected an object with temp, sys_power and all_power") from None
    found = {"celsius": max(degrees), "power_watts": watts}
    return {quantity: value for quantity, value in found.items() if value > 0}


class Macmon:
    """The hottest of the two averages, and what the whole machine draws."""

    name = "power_macmon"
    source = "macmon"

    def __init__(self, host: Host) -> None:
        self._host = host

    def read(self, now: float) -> tuple[Reading, ...]:
        """Temperature and power; takes a tenth of a second, which macmon needs to measure."""
        program = next((path for path in MACMON_PATHS if self._host.paths(path)), None)
        if program is None:
            raise Absent("macmon is not installed; without it macOS tells neither temperature nor power")
        found = parse_macmon(self._host.output(f"/{program}", *MACMON_ARGUMENTS))
        if not found:
            raise Unavailable("macmon finds no temperature and no power on this machine")
        return tuple(checked(quantity, value, self.source) for quantity, value in found.items())
