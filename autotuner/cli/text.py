"""How numbers, times and tables look on a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence

UNKNOWN = "-"
_BYTE_UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_SECOND_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def number(value: float | None, digits: int = 4) -> str:
    """Four significant digits; ``-`` is unknown."""
    return UNKNOWN if value is None else f"{value:.{digits}g}" if abs(value) < 1e5 else f"{value:,.0f}"


def size(value: float | None) -> str:
    """``1.5 GiB``; ``-`` is unknown."""
    if value is None:
        return UNKNOWN
    factor, unit = next(((factor, unit) for factor, unit in _BYTE_UNITS if abs(value) >= factor), (1, "B"))
    return f"{value / factor:.3g} {unit}"


def duration(seconds: float | None) -> str:
    """``2 h 5 min``: the two largest units."""
    if seconds is None:
        return UNKNOWN
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    rest, parts = round(seconds), []
    for length, unit in _SECOND_UNITS:
        count, rest = divmod(rest, length)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def percent(share: float | None) -> str:
    """``45 %``; ``-`` is unknown."""
    return UNKNOWN if share is None else f"{share * 100:.0f} %"


def clock(unix: float | None) -> str:
    """Local time of day; ``-`` is unknown."""
    return UNKNOWN if unix is None else time.strftime("%H:%M:%S", time.localtime(unix))


def day(unix: float | None) -> str:
    """Local date and time of day."""
    return UNKNOWN if unix is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(unix))


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = (), indent: str = "") -> str:
    """Aligned columns under a head; columns in ``right`` are aligned to the right."""
    lines = [[str(cell) for cell in line] for line in (head, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    shown = []
    for line in lines:
        cells = [cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))]
        shown.append((indent + "  ".join(cells)).rstrip())
    return "\n".join(shown)
