"""Temperature and power of a Linux machine: the hardware monitors of its processors."""

from __future__ import annotations

import math

from autotuner.telemetry.host import Host
from autotuner.telemetry.sensor import Absent, Reading, Unavailable, checked
from autotuner.telemetry.thermal_zones_linux import parse_millicelsius

_PROCESSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "soc_thermal", "amdgpu", "i915", "nouveau", "xe")


class HardwareMonitors:
    """Temperature and power of the processors that have a driver below /sys/class/hwmon."""

    name = "hardware_monitors"
    source = "/sys/class/hwmon"

    def __init__(self, host: Host) -> None:
        self._host = host

    def read(self, now: float) -> tuple[Reading, ...]:
        """The hottest processor, and the sum of what processors draw."""
        monitors = [path for path in self._host.paths("sys/class/hwmon/hwmon*") if self._text(f"{path}/name") in _PROCESSORS]
        degrees = [
            parse_millicelsius(self._text(path)) for chip in monitors for path in self._host.paths(f"{chip}/temp*_input")
        ]
        warm = [celsius for celsius in degrees if not math.isnan(celsius)]
        microwatts = [self._text(path) for chip in monitors for path in self._host.paths(f"{chip}/power*_average")]
        drawn = [int(text) / 1e6 for text in microwatts if text.isdigit()]
        readings = [checked("celsius", max(warm), self.source)] if warm else []
        if drawn:
            readings.append(checked("power_watts", sum(drawn), self.source))
        if not readings:
            raise Absent("no processor below /sys/class/hwmon reports heat or power")
        return tuple(readings)

    def _text(self, path: str) -> str:
        try:
            return self._host.text(path).strip()
        except Unavailable:
            return ""
