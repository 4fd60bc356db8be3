"""A run's course as one picture: loss, held-out loss, and where knobs were changed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from autotuner.daemon.history import RunHistory
from autotuner.daemon.markup import Markup, tag
from autotuner.daemon.quantity import number

WIDTH, HEIGHT, LEFT, RIGHT, TOP, FOOT = 1040, 240, 64, 6, 8, 24
MAX_POINTS = 400
"""Points of one line: more cannot be told apart at this width."""

Point = tuple[int, float]


def course(history: RunHistory) -> Markup | None:
    """The chart with its legend; None while there are fewer than two steps to draw."""
    loss = _thin(_known((row.step, row.loss) for row in history.telemetry))
    first = loss[0][0] if loss else 0
    held_out = [point for point in _known((row.step, row.held_out_loss) for row in history.evaluations) if point[0] >= first]
    points = loss + held_out
    if len({step for step, _ in points}) < 2:
        return None
    plot = _Plot(points)
    steps = {change.step for change in history.changes if change.step is not None and plot.first <= change.step <= plot.last}
    marks = [tag("line", class_="change", x1=plot.x(s), x2=plot.x(s), y1=TOP, y2=HEIGHT - FOOT) for s in sorted(steps)]
    lines = [tag("polyline", class_=name, points=plot.path(line)) for name, line in (("loss", loss), ("held-out", held_out))]
    box = f"0 0 {WIDTH} {HEIGHT}"
    svg = tag("svg", *plot.axes(), *marks, *lines, class_="chart", viewBox=box, role="img", aria_label="loss by step")
    keys = (("cache", "loss"), ("", "held-out loss"), ("predicted", "a knob changed"))
    legend = (tag("span", tag("span", class_=f"key {key}".strip()), words) for key, words in keys)
    return tag("section", svg, tag("div", *legend, class_="keys soft"), class_="card")


def _known(points: Iterable[tuple[int, float | None]]) -> list[Point]:
    return [(step, value) for step, value in points if value is not None and math.isfinite(value)]


def _thin(points: list[Point]) -> list[Point]:
    """The mean of neighbours, so that a long line keeps its level and loses its noise."""
    size = math.ceil(len(points) / MAX_POINTS)
    groups = (points[start : start + size] for start in range(0, len(points), size or 1))
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


class _Plot:
    """Scales: step to x, value to y; logarithmic when the values span more than a factor of four."""

    def __init__(self, points: Sequence[Point]) -> None:
        steps, values = [step for step, _ in points], sorted(value for _, value in points)
        self.first, self.last = min(steps), max(steps)
        # The first steps of a training lie far above the rest: one point in fifty may be drawn at the edge.
        self.low, self.high = values[0], values[math.ceil(len(values) * 0.98) - 1]
        self.logarithmic = self.low > 0 and self.high > 4 * self.low

    def x(self, step: int) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (step - self.first) / (self.last - self.first), 1)

    def y(self, value: float) -> float:
        low, high, at = (math.log(v) if self.logarithmic else v for v in (self.low, self.high, max(value, self.low)))
        share = (at - low) / (high - low) if high > low else 0.5
        return round(TOP + (HEIGHT - FOOT - TOP) * (1 - min(share, 1.0)), 1)

    def path(self, points: Sequence[Point]) -> str:
        return " ".join(f"{self.x(step)},{self.y(value)}" for step, value in points)

    def axes(self) -> list[Markup]:
        middle = math.sqrt(self.low * self.high) if self.logarithmic else (self.low + self.high) / 2
        marks: list[Markup] = []
        for value in sorted({self.low, middle, self.high}):
            height = self.y(value)
            marks.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=height, y2=height))
            marks.append(tag("text", f"{value:.3g}", x=LEFT - 8, y=height + 4, text_anchor="end"))
        marks.append(tag("text", f"step {number(self.first)}", x=LEFT, y=HEIGHT - 4))
        marks.append(tag("text", number(self.last), x=WIDTH - RIGHT, y=HEIGHT - 4, text_anchor="end"))
        return marks
