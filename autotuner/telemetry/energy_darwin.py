"""Power of Apple Silicon's processors by the energy that they used, from the optional package ``zeus-apple-silicon``."""

from __future__ import annotations

from typing import Any

from autotuner.telemetry.host import Host
from autotuner.telemetry.sensor import Reading, Unavailable, checked

PACKAGE = "zeus-apple-silicon"
MODULE = "zeus_apple_silicon"

RAILS = ("cpu_total_mj", "gpu_mj", "gpu_sram_mj", "ane_mj", "dram_mj")
"""Rails that are in no other one; what a chip does not count is None."""

LEAST_SECONDS = 0.1
"""The counters are refreshed now and then: over a shorter time they tell noise."""


def understand(metrics: Any) -> dict[str, float]:
    """Millijoules by rail, of those that are counted; raises Unavailable when none is."""
    found = {rail: getattr(metrics, rail, None) for rail in RAILS}
    counted = {rail: float(value) for rail, value in found.items() if isinstance(value, (int, float)) and value >= 0}
    if not counted:
        raise Unavailable(f"{PACKAGE} counts none of {', '.join(RAILS)}")
    return counted


def mean_watts(before: dict[str, float], after: dict[str, float], seconds: float) -> float:
    """Power between two cumulative readings; raises Unavailable for counters that stood still, began anew or changed."""
    if before.keys() != after.keys() or any(after[rail] < before[rail] for rail in after):
        raise Unavailable(f"the counters of {PACKAGE} began anew")
    used = sum(after.values()) - sum(before.values())
    if used <= 0:
        raise Unavailable(f"the counters of {PACKAGE} stand still")
    return used / 1000.0 / seconds


class EnergyDarwin:
    """What the processors drew since the reading before."""

    name = "power_zeus"
    source = PACKAGE

    def __init__(self, host: Host) -> None:
        self._host = host
        self._monitor: Any = None
        self._before: tuple[float, dict[str, float]] | None = None

    def read(self, now: float) -> tuple[Reading, ...]:
        """Power; the first reading has nothing to compare with and is Unavailable, and without the package it is Absent."""
        if self._monitor is None:
            self._monitor = self._host.module(MODULE, PACKAGE).AppleEnergyMonitor()
        metrics = self._monitor.get_cumulative_energy()
        energy, before = understand(metrics), self._before
        self._host.note(self.source, repr(energy))
        if before is not None and 0 <= now - before[0] < LEAST_SECONDS:
            raise Unavailable(f"{PACKAGE} was read {now - before[0]:.3f} s ago: power needs at least {LEAST_SECONDS:g} s")
        self._before = (now, energy)
        if before is None or now < before[0]:
            raise Unavailable(f"{PACKAGE} was read for the first time: power needs two readings")
        return (checked("power_watts", mean_watts(before[1], energy, now - before[0]), self.source),)
