"""Heat of macOS as pmset tells it: of Intel Macs alone."""

from __future__ import annotations

import re

from autotuner.telemetry.host import Host
from autotuner.telemetry.sensor import Reading, Unavailable, checked

PMSET_COMMAND = ("/usr/bin/pmset", "-g", "therm")

_THROTTLED = 2  # pmset tells only that the clock is limited, which is what heavy means


def parse_pmset_therm(text: str) -> int:
    """Throttled or not, from the speed limit in percent; notes alone are no information, not nominal."""
    found = re.search(r"^\s*CPU_Speed_Limit\s*=\s*(\d+)\s*$", text, re.MULTILINE)
    if found is None:
        raise Unavailable("pmset reports no CPU_Speed_Limit: no information about heat")
    return _THROTTLED if int(found[1]) < 100 else 0


class Pmset:
    """The speed limit that Intel Macs report."""

    name = "thermal_pmset"
    source = " ".join(PMSET_COMMAND)

    def __init__(self, host: Host) -> None:
        self._host = host

    def read(self, now: float) -> tuple[Reading, ...]:
        """The thermal level: throttled or not."""
        return (checked("thermal_level", parse_pmset_therm(self._host.output(*PMSET_COMMAND)), self.source),)
