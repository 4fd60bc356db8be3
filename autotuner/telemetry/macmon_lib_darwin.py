"""Temperature and power of Apple Silicon inside our process, by the optional package ``macmon-lib``."""

from __future__ import annotations

import math
from typing import Any

from autotuner.telemetry.host import Host
from autotuner.telemetry.sensor import Reading, Unavailable, checked

PACKAGE = "macmon-lib"
MODULE = "macmon"


def understand(metrics: Any) -> dict[str, float]:
    """Celsius of the hotter of the two averages, and watts of the board or else of the package; 0 means that it is not told.

    ``metrics`` is what ``macmon.Sampler().metrics()`` returns. Raises Unavailable for an object of another form.
    """
    try:
        temperature, power = metrics.temperature, metrics.power
        degrees = [float(value) for value in (temperature.cpu_average, temperature.gpu_average) if value]
        watts = float(power.board or power.package or 0.0)
    except (AttributeError, TypeError, ValueError) as error:
        raise Unavailable(f"{PACKAGE} told {type(metrics).__name__} without temperature and power: {error}") from None
    found = {"celsius": max(degrees, default=0.0), "power_watts": watts}
    return {quantity: value for quantity, value in found.items() if math.isfinite(value) and value > 0}


class MacmonLib:
    """One sampler that is kept open; a sample costs no process and no waiting."""

    name = "power_macmon_lib"
    source = PACKAGE

    def __init__(self, host: Host) -> None:
        self._host = host
        self._sampler: Any = None

    def read(self, now: float) -> tuple[Reading, ...]:
        """Temperature and power; Absent without the package, Unavailable where it finds neither."""
        if self._sampler is None:
            module = self._host.module(MODULE, PACKAGE)
            if not hasattr(module, "Sampler"):  # the package that is called macmon on PyPI is another program
                raise Unavailable(f"the module {MODULE} has no Sampler: it is not that of {PACKAGE}")
            self._sampler = module.Sampler()
        try:
            metrics = self._sampler.metrics()
        except Exception as error:
            self._sampler = None  # opened anew when it is asked again
            raise Unavailable(f"{PACKAGE}: {type(error).__name__}: {error}") from None
        self._host.note(self.source, repr(metrics))
        found = understand(metrics)
        if not found:
            raise Unavailable(f"{PACKAGE} finds no temperature and no power on this machine")
        return tuple(checked(quantity, value, self.source) for quantity, value in found.items())
