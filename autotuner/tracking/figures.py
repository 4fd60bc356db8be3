"""The plots of a report as inline SVG whose colours follow the page, so that they are right on light and dark screens."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import Any

import matplotlib

from autotuner.tracking.report_run import KnobSeries, ReportRun

# Stand-ins that are replaced by CSS variables in the finished SVG.
INK, GRID, SHADE = "#010101", "#020202", "#030303"
RUNS = tuple(f"#0000f{digit}" for digit in range(6))
_VARIABLES = {INK: "var(--ink)", GRID: "var(--grid)", SHADE: "var(--shade)"} | {
    colour: f"var(--run-{index})" for index, colour in enumerate(RUNS)
}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "autotuner",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}
GIBIBYTE = 2**30
WIDTH_INCHES = 11.6
HALF_INCHES = 5.7
LEVELS = ("nominal", "moderate", "heavy", "trapping", "sleeping")


def colour(index: int) -> str:
    """The stand-in colour of the run at this place; runs beyond the palette share its last colour."""
    return RUNS[min(index, len(RUNS) - 1)]


def held_out(runs: Sequence[ReportRun]) -> str:
    """Held-out loss over wall time, one line a run; empty without a measured loss."""
    curves = {index: [(p.seconds, p.loss) for p in run.held_out if p.loss > 0] for index, run in enumerate(runs)}
    return _lines(runs, curves, "held-out loss (log scale)", logarithmic=True)


def quality(runs: Sequence[ReportRun]) -> str:
    """Distance of few-step samples over wall time, one line a run; empty without a measured distance."""
    curves = {index: [(point.seconds, point.value) for point in run.quality] for index, run in enumerate(runs)}
    return _lines(runs, curves, "distance (log scale)", logarithmic=True)


def _lines(runs: Sequence[ReportRun], curves: dict[int, list[tuple[float, float]]], label: str, logarithmic: bool) -> str:
    if not any(curves.values()):
        return ""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _subplots(1, 1, (WIDTH_INCHES, 4.0))
        for index, curve in curves.items():
            axes.plot(
                *zip(*curve, strict=True), color=colour(index), marker="o", markersize=3.5, label=runs[index].label
            ) if curve else None
        if logarithmic:
            axes.set_yscale("log")
            _plain_log_ticks(axes)
        axes.set_ylabel(label)
        axes.set_xlabel("wall time, seconds")
        axes.set_xlim(left=0)
        axes.legend()
        return _svg(figure)


def knobs(runs: Sequence[ReportRun]) -> str:
    """One panel for each knob that any run moved, at ladder positions, one step line a run; empty when none moved."""
    names = [
        name
        for name in dict.fromkeys(k.name for run in runs for k in run.knobs)
        if any(k.name == name and k.moved for run in runs for k in run.knobs)
    ]
    if not names:
        return ""
    with matplotlib.rc_context(_STYLE):
        figure, panels = _subplots(len(names), 1, (WIDTH_INCHES, 0.5 + 1.25 * len(names)), sharex=True)
        for axes, name in zip(panels if len(names) > 1 else [panels], names, strict=True):
            series = {index: knob for index, run in enumerate(runs) for knob in run.knobs if knob.name == name}
            _knob_panel(axes, runs, series)
        axes.set_xlabel("wall time, seconds")
        figure.axes[0].legend(loc="lower left", bbox_to_anchor=(0.3, 1.0), ncols=len(runs), borderaxespad=0.1)
        return _svg(figure)


def _knob_panel(axes: Any, runs: Sequence[ReportRun], series: dict[int, KnobSeries]) -> None:
    ladder = sorted({value for knob in series.values() for value in knob.ladder})
    some = next(iter(series.values()))
    for index, knob in series.items():
        shift = 0.07 * (index - (len(runs) - 1) / 2)  # so that runs at the same value stay apart
        heights = [ladder.index(value) + shift for _, value in knob.points]
        axes.step([seconds for seconds, _ in knob.points], heights, where="post", color=colour(index), label=runs[index].label)
    axes.set_yticks(range(len(ladder)), [value_text(value, some.unit) for value in ladder])
    axes.set_ylim(-0.4, len(ladder) - 0.6)
    axes.set_xlim(left=0)
    axes.set_title(f"{some.name} ({some.unit})" if some.unit not in ("bytes", "index", "stage") else some.name)


def value_text(value: float, unit: str) -> str:
    """A knob's value as a person would write it."""
    if unit == "bytes":
        return f"{value / GIBIBYTE:g} GiB" if value >= GIBIBYTE else f"{value / 2**20:g} MiB"
    return f"{value:g}"


def has_heat(run: ReportRun) -> bool:
    """Whether any heat sensor gave a reading during the run."""
    return any(point.level is not None or point.celsius is not None for point in run.heat)


def machine(run: ReportRun, index: int, seconds: float) -> str:
    """Memory and heat during one run; empty when neither was recorded. ``seconds`` is the common time axis."""
    draw = [panel for panel, known in ((_memory_panel, bool(run.memory)), (_heat_panel, has_heat(run))) if known]
    if not draw:
        return ""
    with matplotlib.rc_context(_STYLE):
        size = (HALF_INCHES, 4.4 if len(draw) == 2 else 2.9)
        figure, panels = _subplots(len(draw), 1, size, sharex=True, squeeze=False, height_ratios=(3, 2)[: len(draw)])
        first, last = panels[0, 0], panels[-1, 0]
        for axes, panel in zip(panels.flat, draw, strict=True):
            panel(axes, run, index)
        for axes in panels[:, 0]:
            for begin, end in run.injected:
                axes.axvspan(begin, end, color=SHADE, linewidth=0, zorder=0)
        if run.injected:
            first.text(
                run.injected[0][0],
                1.0,
                " injected",
                transform=first.get_xaxis_transform(),
                va="top",
                style="italic",
                fontsize=9,
            )
        last.set_xlabel("wall time, seconds")
        last.set_xlim(0, seconds)
        return _svg(figure)


def _memory_panel(axes: Any, run: ReportRun, index: int) -> None:
    times = [point.seconds for point in run.memory]
    axes.plot(times, [point.peak_bytes / GIBIBYTE for point in run.memory], color=colour(index), label="peak in use")
    room = [math.nan if point.room_bytes is None else point.room_bytes / GIBIBYTE for point in run.memory]
    highest = max((point.peak_bytes / GIBIBYTE for point in run.memory), default=1.0)
    if any(value < 4 * highest for value in room):
        axes.plot(times, room, color=INK, linestyle="--", linewidth=1.2, label="what the machine had for it")
    elif any(not math.isnan(value) for value in room):
        axes.plot(
            [],
            [],
            " ",
            label=f"the machine had at least {min(value for value in room if not math.isnan(value)):.0f} GiB for it",
        )
    axes.set_ylim(0, 1.12 * max([highest, *(value for value in room if value < 4 * highest)]))
    axes.set_title("framework memory, GiB")
    axes.figure.legend(loc="outside lower left", ncols=2, fontsize=9)


def _heat_panel(axes: Any, run: ReportRun, index: int) -> None:
    levels = [(point.seconds, point.level) for point in run.heat if point.level is not None]
    warm = [(point.seconds, point.celsius) for point in run.heat if point.celsius is not None]
    if levels:
        axes.step(*zip(*levels, strict=True), where="post", color=colour(index))
        top = max(1, *(level for _, level in levels))
        axes.set_yticks(range(top + 1), LEVELS[: top + 1])
        axes.set_ylim(-0.2, top + 0.3)
        axes.set_title("heat level")
    if warm:
        second = axes.twinx() if levels else axes
        second.plot(*zip(*warm, strict=True), color=INK, linestyle=":", linewidth=1.2)
        second.grid(not levels)
        second.set_ylabel("°C (dotted)")
        second.spines["right"].set_visible(bool(levels))


def _plain_log_ticks(axes: Any) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    low, high = axes.get_ylim()
    subs = (
        (1.0, 2.0, 5.0)
        if high / low > 12
        else (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
        if high / low > 4
        else (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)
    )
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _subplots(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Any, Any]:
    """A figure without pyplot: no global state, no window system."""
    from matplotlib.figure import Figure

    ratios = options.pop("height_ratios", None)
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, gridspec_kw={"height_ratios": ratios} if ratios else None, **options)


def _svg(figure: Any) -> str:
    """The figure as an ``<svg>`` element that follows the page's colours and carries no ids that could clash."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="\w+_\d+">', "<g>", text)
    text = re.sub(r'(<svg [^>]*?) height="[^"]*"', r"\1", text)
    text = re.sub(r'(<svg [^>]*?) width="[^"]*"', r'\1 role="img"', text)
    return re.sub("#0[0-9a-f]{5}", lambda match: _VARIABLES.get(match.group(), match.group()), text)
