"""The sensors' part of ``autotuner doctor``: what is known of this machine and by whom, what is not, and what that costs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from autotuner.cli.finding import FAIL, GOOD, NONE, WARN, Finding
from autotuner.cli.status import HEATS, PRESSURES, word
from autotuner.cli.text import size
from autotuner.config import Config
from autotuner.telemetry.registry import Registry
from autotuner.telemetry.sensor import Reading
from autotuner.telemetry.slot import FIRST_RETRY_SECONDS, SensorStatus


@dataclass(frozen=True)
class Known:
    """One row of the answer: a quantity, how its value is shown, and what it costs not to know it."""

    quantity: str
    subject: str
    shown: Callable[[float], str]
    level: str
    """Of the line when nobody tells it."""
    cost: str


KNOWN: tuple[Known, ...] = (
    Known(
        "memory_available_bytes", "available memory", size, FAIL,
        "micro-batches do not grow, and memory that runs short is seen only when the system reports pressure",
    ),
    Known(
        "memory_total_bytes", "total memory", size, WARN,
        "the status page cannot show memory as a share",
    ),
    Known(
        "memory_pressure", "memory pressure", lambda value: word(PRESSURES, int(value)), WARN,
        "load is taken away only for memory that is counted, not when the system itself runs short",
    ),
    Known(
        "swap_used_bytes", "swap in use", size, WARN,
        "policies do not see when memory is moved out to disk",
    ),
    Known(
        "thermal_level", "heat level", lambda value: word(HEATS, int(value)), WARN,
        "pace is not lowered for heat, and nothing is held back in it; that steps get slower is still seen from the run itself",
    ),
    Known("celsius", "temperature", lambda value: f"{value:.0f} °C", NONE, "it is not shown; nothing is decided by it"),
    Known("power_watts", "power", lambda value: f"{value:.1f} W", NONE, "it is not shown; nothing is decided by it"),
)  # fmt: skip
"""In this order; every quantity that a sensor may tell has a row."""

REMEDIES = {("darwin", quantity): "pip install 'diffusion-autotuner[mac-sensors]'" for quantity in ("celsius", "power_watts")}
"""What brings a quantity, where something does, by platform."""


def sensors(config: Config) -> Iterator[Finding]:
    """What is known, then how each sensor fares."""
    injected = Path(config.injected_readings).expanduser() if config.injected_readings else None
    yield from findings(Registry(injected=injected))


def findings(
    registry: Registry, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Finding]:
    """The same of any machine. A sensor that fails is asked twice, since counters tell nothing at their first reading."""
    registry.sample(clock())
    if not all(status.up for status in registry.statuses(clock())):
        sleep(FIRST_RETRY_SECONDS)
        registry.sample(clock())
    for row in KNOWN:
        yield _known(row, registry.readings.get(row.quantity), registry.platform)
    for status in registry.statuses(clock()):
        yield _sensor(status)
    for name, reason in registry.absences().items():
        yield Finding(NONE, f"sensor {name}", reason)


def _known(row: Known, reading: Reading | None, platform: str = sys.platform) -> Finding:
    if reading is not None:
        return Finding(GOOD, row.subject, f"{row.shown(reading.value)}, by {reading.source}")
    remedy = REMEDIES.get((platform, row.quantity))
    return Finding(row.level, row.subject, f"no sensor tells it, so {row.cost}" + (f": {remedy}" if remedy else ""))


def _sensor(status: SensorStatus) -> Finding:
    if status.up:
        return Finding(GOOD, f"sensor {status.name}", f"{status.source}, read in {status.seconds * 1000:.1f} ms")
    return Finding(WARN, f"sensor {status.name}", status.reason)
