"""A memory model of one run, learned from its own peaks: what would another shape need?"""

from __future__ import annotations

from autotuner.messages import Sample

STAGE_FACTOR = 1.5
"""Assumed growth when a student joins the teacher and no step of that kind was seen yet."""
LINE_MARGIN = 1.05
"""Added to a fitted line, whose points are peaks of short windows."""


def used_bytes(sample: Sample) -> int:
    """Framework memory that the machine must hold for this sample: the peak, or live plus cached if larger."""
    return max(sample.peak_bytes, sample.active_bytes + sample.cache_bytes)


class MemoryModel:
    """Highest use seen for each (pixels a micro-batch, student present), and predictions for others.

    Activations grow linearly in ``pixels = micro_batch x resolution^2`` above a base of weights and optimizer state:
    ``used = base + slope x pixels``. With one shape seen the base is unknown and all of it is assumed to grow.
    """

    def __init__(self) -> None:
        self.peaks: dict[tuple[int, bool], int] = {}

    def observe(self, pixels: int, student: bool, used: int) -> None:
        """Remember the highest use of one shape."""
        key = (pixels, student)
        if used > self.peaks.get(key, 0):
            self.peaks[key] = used

    def forget_above(self, pixels: int, student: bool, used: int) -> None:
        """Lower one shape's peak, after the script lowered its cache limit."""
        self.peaks[pixels, student] = used

    def predict(self, pixels: int, student: bool) -> float | None:
        """Expected use in bytes of a shape; None while nothing was seen."""
        if (pixels, student) in self.peaks:
            return float(self.peaks[pixels, student])
        points = [(p, used) for (p, with_student), used in self.peaks.items() if with_student == student]
        if points:
            return _extrapolate(points, pixels)
        others = [(p, used) for (p, _), used in self.peaks.items()]
        if not others:
            return None
        return _extrapolate(others, pixels) * (STAGE_FACTOR if student else 1.0)


def _extrapolate(points: list[tuple[int, int]], pixels: int) -> float:
    if len(points) == 1:
        seen, used = points[0]
        return used * max(1.0, pixels / seen) if pixels > seen else used * (0.5 + 0.5 * pixels / seen)
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = max(0.0, sum((x - mean_x) * (y - mean_y) for x, y in points) / spread)
    return max(0.0, mean_y + slope * (pixels - mean_x)) * LINE_MARGIN
