"""The contract of a sensor, and the table of quantities that sensors may report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from autotuner.errors import AutotunerError


class Unavailable(AutotunerError):  # noqa: N818 - a fact, not a mistake
    """A sensor has no value: the reason is a fact about this machine, to be shown and not hidden."""


class Absent(Unavailable):
    """This machine has no such thing, and that is no failure: no limit, no thermal zone, no counters."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """One row of the table: a thing that can be read, its unit and what it means."""

    name: str
    unit: str
    lower: float
    upper: float
    sentence: str


QUANTITIES: tuple[Quantity, ...] = (
    Quantity("memory_total_bytes", "bytes", 1, 2**50, "memory that this machine, or the limit around us, may hand out in all"),
    Quantity("memory_available_bytes", "bytes", 0, 2**50, "memory that can still be handed out without swapping"),
    Quantity("memory_pressure", "level", 0, 2, "0 normal, 1 warn, 2 critical"),
    Quantity("swap_used_bytes", "bytes", 0, 2**50, "memory moved out to disk"),
    Quantity("thermal_level", "level", 0, 4, "0 nominal, 1 moderate, 2 heavy, 3 trapping, 4 sleeping"),
    Quantity("celsius", "celsius", -50, 150, "hottest plausible temperature of the processors"),
    Quantity("power_watts", "watts", 0, 5000, "power drawn by the machine, or by its processors alone"),
)
_BY_NAME = {quantity.name: quantity for quantity in QUANTITIES}


@dataclass(frozen=True, slots=True)
class Reading:
    """One sensor value. ``source`` says where it came from, in words of the platform."""

    quantity: str
    value: float
    source: str


class Sensor(Protocol):
    """Reads one thing of one platform.

    ``read`` returns at least one reading of quantities in ``QUANTITIES``, each within its bounds, or raises
    ``Unavailable`` with the reason (``Absent`` where the machine has no such thing); it never invents a value and never
    returns an old one. It is called about once a second, never twice at a time, and from changing threads. It
    should come back within half a second: the registry waits no longer, and does not ask again while a call hangs.
    ``now`` is ``time.monotonic()`` of the caller. Anything else that it raises is a defect, which the registry isolates.
    """

    @property
    def name(self) -> str:
        """Short and unique: what metrics and ``doctor`` call it."""

    @property
    def source(self) -> str:
        """File, call or command that it reads."""

    def read(self, now: float) -> tuple[Reading, ...]:
        """The values at this moment."""


def checked(quantity: str, value: float, source: str) -> Reading:
    """A reading within the bounds of its quantity; raises Unavailable for a value that no machine can have."""
    row = _BY_NAME[quantity]
    if not row.lower <= value <= row.upper:  # also refuses NaN
        raise Unavailable(f"{source} says {quantity} = {value!r}; possible is {row.lower:g} to {row.upper:g} {row.unit}")
    return Reading(quantity, value, source)
