"""The picture of what fewer steps cost: distance over steps, and over seconds per image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from autotuner.diffusion.distillation.interval import Interval
from autotuner.diffusion.distillation.report import Report, Row
from autotuner.diffusion.distillation.table import title

TEACHER, STUDENTS = "#444444", ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's colours, which colour-blind readers tell apart."""
MARKS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", ":", "-.")
SUBS = (1.0, 2.0, 5.0)
"""Ticks in each power of ten."""
FLOOR, FRONT = "#999999", "#bbbbbb"
SIZE, DOTS = (12.0, 5.2), 110
STYLE = {
    "font.size": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
}


def save(report: Report, path: Path) -> None:
    """Draw the report as a PNG of SIZE times DOTS pixels. Needs matplotlib."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        over_steps, over_time = figure.subplots(1, 2, sharey=True)
        _draw(over_steps, report, lambda row: float(row.steps))
        _draw(over_time, report, _milliseconds)
        _draw_front(over_time, report)
        _label(figure, over_steps, over_time, report)
        figure.savefig(path, dpi=DOTS, facecolor="white")


def _milliseconds(row: Row) -> float:
    return row.seconds_per_image * 1e3


def _draw(axes: Any, report: Report, place: Callable[[Row], float]) -> None:
    axes.set(xscale="log", yscale="log", xmargin=0.07)
    axes.axhspan(report.floor.low, report.floor.high, color=FLOOR, alpha=0.25, linewidth=0)
    axes.axhline(report.floor.value, color=FLOOR, linestyle="--", linewidth=1.2, label="held-out pictures")
    for rows, look in _series(report):
        found = [row.frechet for row in rows]
        label = f"{title(report, rows[0])} ({rows[0].parameters / 1e6:.2g} M)"
        values = [each.value for each in found]
        axes.errorbar([place(row) for row in rows], values, yerr=_bars(found), label=label, capsize=3, **look)


def _series(report: Report) -> Iterator[tuple[list[Row], dict[str, Any]]]:
    """The rows that make one line each, with how it looks: teachers are grey, students have a colour for each run."""
    groups: dict[tuple[str, str, float], list[Row]] = {}
    for row in report.rows:
        groups.setdefault((row.who, row.run, row.guidance), []).append(row)
    counts = {"teacher": 0, "student": 0}
    for (who, _, _), rows in groups.items():
        index, counts[who] = counts[who], counts[who] + 1
        yield sorted(rows, key=lambda row: row.steps), _look(who, index)


def _look(who: str, index: int) -> dict[str, Any]:
    if who == "teacher":
        return {"color": TEACHER, "marker": MARKS[0], "markersize": 5, "linestyle": DASHES[index % len(DASHES)], "zorder": 3}
    colour, mark = STUDENTS[index % len(STUDENTS)], MARKS[1 + index % (len(MARKS) - 1)]
    return {"color": colour, "marker": mark, "markersize": 5.5, "linestyle": "-", "linewidth": 1.2, "zorder": 4}


def _bars(found: Sequence[Interval]) -> list[list[float]]:
    return [[each.value - each.low for each in found], [each.high - each.value for each in found]]


def _draw_front(axes: Any, report: Report) -> None:
    """The curve of trade-offs as a staircase, and how many steps each point is."""
    best = sorted((row for row in report.rows if row.best), key=_milliseconds)
    places, values = [_milliseconds(row) for row in best], [row.frechet.value for row in best]
    axes.step(places, values, where="post", color=FRONT, linewidth=5, alpha=0.6, zorder=2, label="nothing as fast is better")
    for row in report.rows:
        axes.annotate(
            str(row.steps),
            (_milliseconds(row), row.frechet.value),
            xytext=(7, 5),
            textcoords="offset points",
            fontsize=9,
            color=TEACHER,
        )


def _label(figure: Any, over_steps: Any, over_time: Any, report: Report) -> None:
    from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator, StrMethodFormatter

    figure.suptitle(f"{report.dataset}: what fewer steps cost", x=0.01, ha="left", fontsize=13)
    over_steps.set(title="over steps", xlabel="sampling steps", ylabel=report.features)
    over_time.set(title="over time (numbers are steps)", xlabel=f"milliseconds an image, batch of {report.batch}")
    over_steps.xaxis.set_major_locator(FixedLocator(sorted({row.steps for row in report.rows})))
    over_steps.xaxis.set_minor_locator(NullLocator())
    over_steps.yaxis.set_major_locator(LogLocator(subs=SUBS))
    over_time.xaxis.set_major_locator(LogLocator(subs=SUBS))
    for axis in (over_steps.xaxis, over_steps.yaxis, over_time.xaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    figure.legend(*over_time.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9.5)
