"""Heat of a Linux machine: thermal zones with their trip points."""

from __future__ import annotations

import math
from collections.abc import Mapping

from autotuner.telemetry.host import Host
from autotuner.telemetry.sensor import Absent, Reading, Unavailable, checked

NEAR_KELVIN = 5.0
"""So close below a trip point counts as its forecourt."""


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
