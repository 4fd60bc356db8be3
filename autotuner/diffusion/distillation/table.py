"""A report on what fewer steps cost, as lines of text."""

from __future__ import annotations

import math

from autotuner.diffusion.distillation.interval import Interval
from autotuner.diffusion.distillation.report import Report, Row

HEAD = ("", "steps", "NFE", "parameters", "ms/image", "Frechet", "ratio", "kernel", "agreement", "paired", "")


def lines(report: Report) -> list[str]:
    """The table, row by row; what was not measured is a dash, and a star marks the curve of trade-offs.

    ``NFE`` are network evaluations for one image.
    """
    floor = ("held-out pictures", "", "", "", "", _mean(report.floor), "", _mean(report.kernel_floor), "", "", "")
    cells = [HEAD, floor, *(_cells(report, row) for row in report.rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    texts = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return [
        f"{report.features} on {report.dataset}, {report.seeds} draws of {report.images} pictures of each kind, 95 % intervals",
        *texts,
        *_notes(report),
    ]


def title(report: Report, row: Row) -> str:
    """Who a row is, with the run where there are several and the guidance where there is any."""
    several = len({row.run for row in report.rows}) > 1
    return f"{row.who}{f' of {row.run}' if several else ''}{f', guidance {row.guidance:g}' if row.guidance != 1 else ''}"


def _cells(report: Report, row: Row) -> tuple[str, ...]:
    return (
        title(report, row),
        str(row.steps),
        str(row.evaluations),
        f"{row.parameters:,}",
        _number(row.seconds_per_image * 1e3),
        _mean(row.frechet),
        _ratio(row.ratio),
        _mean(row.kernel),
        _mean(row.class_agreement),
        _mean(row.paired_error),
        "*" if row.best else "",
    )


def _mean(found: Interval) -> str:
    """Value and half the interval, both to the interval's second digit."""
    half = (found.high - found.low) / 2
    if not half > 0:
        return _number(found.value)
    digits = max(0, 1 - math.floor(math.log10(half)))
    return f"{found.value:.{digits}f} ± {half:.{digits}f}"


def _ratio(found: Interval) -> str:
    return "-" if math.isnan(found.value) else f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _notes(report: Report) -> list[str]:
    notes = [
        f"ratio: to the Frechet distance of its teacher in {report.most_steps} steps, from the same noise; the bias that both "
        "share draws it towards 1",
        f"ms/image: a batch of {report.batch}, on {report.machine}; *: nothing as fast has a smaller Frechet distance",
    ]
    if any(row.who == "student" and not math.isnan(row.paired_error.value) for row in report.rows):
        notes.append("paired: from where the teacher's exact path ends; a consistency student is free to leave that path")
    if not report.disjoint:
        notes.append("draws share training pictures, there are too few for all: the intervals are too narrow")
    return notes
