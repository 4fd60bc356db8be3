"""What a report compares: common target losses and the time that each run took to reach them. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autotuner.tracking.report_run import ReportRun
from autotuner.tracking.result_file import LossPoint

LEVELS = (0.5, 0.8, 1.0)
"""How far down from the worst first loss to the worst last loss, in logarithms, the common targets lie."""
GIBIBYTE = 2**30
UNKNOWN = "-"


@dataclass(frozen=True)
class Row:
    """One line of the comparison: a fact, and its text for each run."""

    name: str
    cells: tuple[str, ...]
    best: int | None = None
    """Which run has the best value; None where there is no better or worse, or no second run."""


def targets(runs: Sequence[ReportRun]) -> tuple[float, ...]:
    """Held-out losses that every run reached within its budget; the last is the worst of their last ones."""
    curves = [[point.loss for point in run.held_out if math.isfinite(point.loss)] for run in runs]
    if not curves or not all(curves):
        return ()
    first, final = max(curve[0] for curve in curves), max(curve[-1] for curve in curves)
    if not 0 < final < first:
        return (final,)
    return tuple(first * (final / first) ** level for level in LEVELS)


def final_loss(run: ReportRun) -> float | None:
    """The last held-out loss within or after the budget."""
    if run.result.final_held_out_loss is not None:
        return run.result.final_held_out_loss
    return run.held_out[-1].loss if run.held_out else None


def best_loss(run: ReportRun) -> float | None:
    """The lowest held-out loss of the run."""
    known = [point.loss for point in run.held_out if math.isfinite(point.loss)]
    final = final_loss(run)
    return min([*known, final] if final is not None else known, default=None)


def seconds_to(curve: Sequence[LossPoint], target: float) -> float | None:
    """Time of the first evaluation at or below ``target``; None when there was none."""
    return next((point.seconds for point in curve if point.loss <= target), None)


def table(runs: Sequence[ReportRun]) -> tuple[Row, ...]:
    """The runs side by side."""
    rows = [
        _row("policy", runs, lambda run: f"{run.policy or UNKNOWN} ({run.mode})" if run.mode else run.policy or UNKNOWN),
        _row("budget", runs, _budget),
        _row("outcome", runs, lambda run: run.outcome or "live"),
        _ranked("optimizer steps", runs, lambda run: run.steps, "{:,.0f}", lower=None),
        _ranked("images", runs, lambda run: run.images, "{:,.0f}", lower=None),
        _ranked("final held-out loss", runs, final_loss, "{:.4f}"),
        _ranked("best held-out loss", runs, best_loss, "{:.4f}"),
        *(_ranked(f"seconds to loss {target:.4f}", runs, _timer(target), "{:.1f}") for target in targets(runs)),
        *_quality_rows(runs),
        _ranked("seconds lost to injected slowdown", runs, lambda run: run.result.injected_seconds, "{:.1f}", lower=None),
        _ranked("peak memory, GiB", runs, lambda run: run.peak_bytes / GIBIBYTE if run.peak_bytes else None, "{:.2f}"),
        _ranked("changes made", runs, lambda run: len(run.changes), "{:.0f}", lower=None),
        _ranked("wishes vetoed by the guard", runs, lambda run: run.vetoes, "{:.0f}", lower=None),
    ]
    return tuple(row for row in rows if any(cell != UNKNOWN for cell in row.cells))


def text_lines(runs: Sequence[ReportRun]) -> tuple[str, ...]:
    """The same table as aligned text; the best value of a row is starred."""
    lines = [["", *(f"{run.label}  " for run in runs)], *(_starred(row) for row in table(runs))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return tuple("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines)


def _starred(row: Row) -> list[str]:
    return [row.name, *(f"{cell}{' *' if row.best == index else '  '}" for index, cell in enumerate(row.cells))]


def _timer(target: float) -> Callable[[ReportRun], float | None]:
    return lambda run: seconds_to(run.held_out, target)


def _quality_rows(runs: Sequence[ReportRun]) -> list[Row]:
    keys = dict.fromkeys((final.who, final.steps) for run in runs for final in run.result.final_quality)
    rows = []
    for who, steps in keys:
        metric = next((run.declaration.quality_metric for run in runs if run.declaration.quality_metric), "quality")

        def value(run: ReportRun, who: str = who, steps: int = steps) -> float | None:
            found = [final.value for final in run.result.final_quality if (final.who, final.steps) == (who, steps)]
            return found[0] if found else None

        rows.append(_ranked(f"{metric}, {who} at {steps} steps", runs, value, "{:.3f}"))
    return rows


def _budget(run: ReportRun) -> str:
    seconds, steps = run.declaration.budget_seconds, run.declaration.budget_steps
    return f"{seconds:g} s" if seconds is not None else f"{steps:,} steps" if steps is not None else UNKNOWN


def _row(name: str, runs: Sequence[ReportRun], text: Callable[[ReportRun], str]) -> Row:
    return Row(name, tuple(text(run) for run in runs))


def _ranked(
    name: str,
    runs: Sequence[ReportRun],
    value: Callable[[ReportRun], float | None],
    form: str,
    lower: bool | None = True,
) -> Row:
    """A row of numbers; with ``lower`` the lowest is marked as best and the others say their ratio to the first run."""
    values = [value(run) for run in runs]
    cells = [UNKNOWN if number is None else form.format(number) for number in values]
    known = [number for number in values if number is not None]
    if lower is None or len(known) < 2:
        return Row(name, tuple(cells))
    if values[0]:
        cells[1:] = [
            cell if number is None else f"{cell} ({number / values[0]:.2f}x)"
            for cell, number in zip(cells[1:], values[1:], strict=True)
        ]
    return Row(name, tuple(cells), values.index(min(known)) if len(set(known)) > 1 else None)
