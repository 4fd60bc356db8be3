"""What a run's own window says of its future: images a second, memory, learning curve. Fitted anew at every call, by hand.

Every estimate comes with its spread, so that a search can tell a fact from a guess.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from autotuner.controller.observation import predicted_bytes
from autotuner.controller.window import RunWindow

SEEN = 0.02
"""Relative spread of images a second at a shape that was seen."""
LAW, PRIOR = 0.3, 0.45
"""Spread of a fitted law and of the prior, as shares of the difference to the nearest shape that was seen: the sign is sure."""
PASS_SHARE = 0.2
"""Prior share of a step that does not shrink with the pixels of a pass: launches, weights read, optimizer."""
TAIL = 8
"""Evaluations that the tail of the learning curve is fitted to."""
Shape = tuple[float, float]
"""Resolution and micro-batch; 0 is undeclared."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """An expected value and its standard deviation, in the same unit."""

    mean: float
    spread: float


def image_seconds(window: RunWindow, shape: Shape, stage: int) -> Estimate | None:
    """Seconds an image of a cool machine at ``shape``: seen, else by the fitted law, else by the prior; None before any."""
    seen = {key[:2]: 1.0 / rate for key, rate in window.best_rate.items() if key[2] == stage and rate > 0}
    if not seen:
        seen = {key[:2]: 1.0 / rate for key, rate in window.best_rate.items() if rate > 0}
    if not seen:
        return None
    if shape in seen:
        return Estimate(seen[shape], SEEN * seen[shape])
    near = min(seen, key=lambda other: abs(math.log(_pixels(other) / _pixels(shape))))
    law = _cost_law(seen)
    if law is not None:
        seconds = seen[near] * _by_law(law, shape) / _by_law(law, near)
        return Estimate(seconds, LAW * abs(seconds - seen[near]))
    passes = (near[1] or 1.0) / (shape[1] or 1.0)
    pixels = ((shape[0] or 1.0) / (near[0] or 1.0)) ** 2
    seconds = seen[near] * (PASS_SHARE * passes + (1 - PASS_SHARE) * pixels)
    return Estimate(seconds, PRIOR * abs(seconds - seen[near]))


def _pixels(shape: Shape) -> float:
    return (shape[0] or 1.0) ** 2 * (shape[1] or 1.0)


def _by_law(law: tuple[float, float], shape: Shape) -> float:
    return law[0] / (shape[1] or 1.0) + law[1] * (shape[0] or 1.0) ** 2


def _cost_law(seen: dict[Shape, float]) -> tuple[float, float] | None:
    """Seconds a pass and seconds a pixel by least squares of relative errors; None when the shapes do not tell them apart."""
    if len(seen) < 2:
        return None
    rows = [(1.0 / (mb or 1.0) / y, (res or 1.0) ** 2 / y) for (res, mb), y in seen.items()]
    aa, bb = sum(a * a for a, _ in rows), sum(b * b for _, b in rows)
    ab, a1, b1 = sum(a * b for a, b in rows), sum(a for a, _ in rows), sum(b for _, b in rows)
    determinant = aa * bb - ab * ab
    if determinant < 1e-4 * aa * bb:
        return None
    per_pass, per_pixel = (a1 * bb - b1 * ab) / determinant, (b1 * aa - a1 * ab) / determinant
    return max(0.0, per_pass), max(0.0, per_pixel)  # never both 0: the times that they fit are positive


def memory_share(window: RunWindow, positions: tuple[int, ...]) -> Estimate | None:
    """Expected share of what the run may use that ``positions`` take, its trend of the last intervals carried on."""
    limit, predicted = window.limit_bytes, predicted_bytes(window, positions)
    if not limit or predicted is None:
        return None
    seen = (window.pixels(positions), window.student(positions)) in window.memory.peaks
    share = predicted / limit
    return Estimate(share + 4.0 * max(0.0, memory_trend(window)), (0.02 if seen else 0.08) * share)


def memory_trend(window: RunWindow) -> float:
    """Growth of the used share an interval while no change of ours explains it: a leak, or other programs."""
    quiet = min((window.since_change(knob) for knob in ("resolution", "micro_batch", "distill", "cache_limit")), default=0)
    shares = [i.memory_share for i in list(window.intervals)[-min(quiet, 12) :] if math.isfinite(i.memory_share)]
    if quiet < 4 or len(shares) < 4:
        return 0.0
    slope, _, spread = line([(float(i), share) for i, share in enumerate(shares)])
    noise = spread / math.sqrt(sum((i - (len(shares) - 1) / 2) ** 2 for i in range(len(shares))))
    return slope if abs(slope) > 2.0 * noise else 0.0


def exceeds(share: Estimate | None, limit: float) -> float:
    """Probability that a share is above ``limit``; 0 where nothing is known."""
    if share is None:
        return 0.0
    return 0.5 * (1.0 + math.erf((share.mean - limit) / (math.sqrt(2.0) * max(share.spread, 1e-3))))


def line(points: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Least squares: slope, value at abscissa 0, standard deviation of the residuals."""
    n = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    squares = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / squares if squares else 0.0
    residual = sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in points)
    return slope, mean_y - slope * mean_x, math.sqrt(residual / max(1, n - 2))


def learning_slope(window: RunWindow) -> float | None:
    """``-d log(held-out loss) / d log(step)`` of the teacher's last evaluations, at least 0; None for fewer than three."""
    points = [(math.log(max(e.step, 1)), math.log(e.held_out_loss)) for e in window.evaluations if e.stage == 0][-TAIL:]
    if len(points) < 3 or points[-1][0] <= points[0][0]:
        return None
    slope, _, _ = line(points[-max(3, len(points) // 2) :])
    return max(0.0, -slope)


def evaluation_share(window: RunWindow, now: float) -> float:
    """Share of the time that evaluations and previews took since the one a few before the last."""
    recent = list(window.evaluations)[-6:]
    if window.first_time is None or not recent:
        return 0.0
    if len(recent) < 2:
        return window.evaluation_seconds / max(now - window.first_time, 1e-9) if now > window.first_time else 0.0
    span = recent[-1].time - recent[0].time
    return min(0.9, _total(e.seconds for e in recent[1:]) / span) if span > 0 else 0.0


def preview_share(window: RunWindow, now: float) -> float:
    """Share of the time that previews took: half of a plain evaluation, a prior that each move down tests."""
    recent = [e.seconds for e in window.evaluations if e.seconds > 0][-6:]
    if not recent:
        return 0.0
    return 0.5 * evaluation_share(window, now) * min(recent) / (_total(recent) / len(recent))


def _total(values: Iterable[float]) -> float:
    return sum(value for value in values if math.isfinite(value))
