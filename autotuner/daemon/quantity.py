"""Numbers as people read them: with a unit, few digits, and a dash for what is unknown."""

from __future__ import annotations

import math

UNKNOWN = "–"  # noqa: RUF001 - a dash, not a minus
_BYTE_STEPS = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_TIME_STEPS = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))


def number(value: float | None, digits: int = 4) -> str:
    """``0.1234``, ``12,345``; four significant digits."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def byte_count(value: float | None) -> str:
    """``1.5 GiB``."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    for size, unit in _BYTE_STEPS:
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}" if abs(value) < 1000 * size else f"{value / size:,.0f} {unit}"
    return f"{value:.0f} B"


def duration(seconds: float | None) -> str:
    """``1 h 20 min``, ``3.2 s``, ``45 ms``."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    if seconds < 0.9995:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    for size, unit, rest_size, rest_unit in _TIME_STEPS:
        if seconds >= size:
            whole, rest = divmod(seconds, size)
            return f"{whole:.0f} {unit}" + (f" {rest // rest_size:.0f} {rest_unit}" if rest >= rest_size else "")
    return UNKNOWN


def percent(share: float | None) -> str:
    """``42 %``."""
    return UNKNOWN if share is None or not math.isfinite(share) else f"{share * 100:.0f} %"


def with_unit(value: float, unit: str) -> str:
    """A knob's value in its own unit: bytes are scaled, the rest is a number."""
    return byte_count(value) if unit == "bytes" else number(value)
