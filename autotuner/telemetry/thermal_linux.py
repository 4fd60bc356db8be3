"""Heat of a Linux machine: thermal zones with their trip points, throttle counters of x86, and hardware monitors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from autotuner.telemetry.host import Host
from autotuner.telemetry.sensor import Absent, Reading, Unavailable, checked

NEAR_KELVIN = 5.0
"""So close below a trip point counts as its forecourt."""

THROTTLED_SECONDS = 10.0
"""A throttle counter that rose within so many seconds means heavy heat."""

_PROCESSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "soc_thermal", "amdgpu", "i915", "nouveau", "xe")


def parse_millicelsius(text: str) -> float:
    """Degrees, or NaN for what no chip that still computes can have: sensors say 0, -274 or 255 for "none"."""
    try:
        celsius = int(text.strip()) / 1000
    except ValueError:
        return math.nan
    return celsius if 0 < celsius < 150 else math.nan


def level_of(celsius: float, trips: Mapping[str, float]) -> int | None:
    """Thermal level of one zone by its trip points, the lowest of each kind; None without any that throttles.

    ``passive`` is where the kernel lowers clocks: heavy (2), and 5 K below it moderate (1). ``hot``, or 5 K below
    ``critical`` where the machine switches off, is trapping (3); ``critical`` itself is sleeping (4). ``active`` are fans.
    """
    passive, hot, critical = (trips.get(kind, math.inf) for kind in ("passive", "hot", "critical"))
    if math.isinf(min(passive, hot, critical)):
        return None
    rules = (
        (4, critical),
        (3, min(hot, critical - NEAR_KELVIN)),
        (2, passive),
        (1, min(passive, hot) - NEAR_KELVIN),
    )
    return next((level for level, threshold in rules if celsius >= threshold), 0)


class ThermalZones:
    """The hottest zone, and the highest level that any zone's trip points give."""

    name = "thermal_zones"
    source = "/sys/class/thermal"

    def __init__(self, host: Host) -> None:
        self._host = host

    def read(self, now: float) -> tuple[Reading, ...]:
        """Temperature, and the level where trip points tell one."""
        zones = [(self._celsius(f"{zone}/temp"), zone) for zone in self._host.paths("sys/class/thermal/thermal_zone*")]
        warm = [(celsius, zone) for celsius, zone in zones if not math.isnan(celsius)]
        if not warm:
            raise Absent("no thermal zone with a plausible temperature below /sys/class/thermal")
        readings = [checked("celsius", max(celsius for celsius, _ in warm), self.source)]
        levels = [level for celsius, zone in warm if (level := level_of(celsius, self._trips(zone))) is not None]
        if levels:
            readings.append(checked("thermal_level", max(levels), self.source))
        return tuple(readings)

    def _trips(self, zone: str) -> dict[str, float]:
        trips: dict[str, float] = {}
        for path in self._host.paths(f"{zone}/trip_point_*_type"):
            celsius = self._celsius(path.removesuffix("_type") + "_temp")
            if not math.isnan(celsius):
                kind = self._text(path).strip()
                trips[kind] = min(celsius, trips.get(kind, math.inf))
        return trips

    def _celsius(self, path: str) -> float:
        return parse_millicelsius(self._text(path))

    def _text(self, path: str) -> str:
        try:
            return self._host.text(path)
        except Unavailable:  # a zone may be switched off, and then refuses to be read
            return ""


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
