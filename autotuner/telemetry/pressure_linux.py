"""Memory pressure of a Linux machine, from pressure stall information (kernel 4.20 and later)."""

from __future__ import annotations

import math

from autotuner.telemetry.host import Host
from autotuner.telemetry.sensor import Absent, Reading, Unavailable, checked

# Percent of the last ten seconds in which some task, or all of them, waited for memory. Our choice: a training step that
# stalls a tenth of its time is already slower than one with a smaller batch. systemd-oomd kills at 60.
CRITICAL_FULL = 10.0
WARN_FULL = 1.0
WARN_SOME = 10.0


def parse_pressure(text: str) -> dict[str, float]:
    """The ten-second averages in percent, by ``some`` and ``full``; raises Unavailable for a text of another form."""
    averages = {}
    for line in text.splitlines():
        kind, *fields = line.split() or [""]
        values = dict(field.split("=", 1) for field in fields if "=" in field)
        try:
            averages[kind] = float(values["avg10"])
        except (KeyError, ValueError):
            continue
    if not {"some", "full"} <= set(averages) or not all(map(math.isfinite, averages.values())):
        raise Unavailable(f"no avg10 of some and full in {text[:80]!r}")
    return averages


def pressure_of(some: float, full: float) -> int:
    """0 normal, 1 warn, 2 critical."""
    if full >= CRITICAL_FULL:
        return 2
    return 1 if full >= WARN_FULL or some >= WARN_SOME else 0


class PressureLinux:
    """Stalls on memory of the whole machine, as a pressure level."""

    name = "pressure_psi"
    source = "/proc/pressure/memory"

    def __init__(self, host: Host) -> None:
        self._host = host

    def read(self, now: float) -> tuple[Reading, ...]:
        """The pressure level of the last ten seconds."""
        if not self._host.paths("proc/pressure/memory"):
            raise Absent("this kernel has no pressure stall information")
        averages = parse_pressure(self._host.text("proc/pressure/memory"))
        return (checked("memory_pressure", pressure_of(averages["some"], averages["full"]), self.source),)
