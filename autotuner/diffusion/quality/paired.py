"""Paired error: how far few steps end from where the same network's exact path leads from the same noise.

It needs few images, has no bias, and sees the solver alone; a student is held against its teacher's path, which a
consistency student is free to leave (its distances then judge it, not this).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from autotuner.diffusion.quality.sets import require_comparable

SOLVER = "heun"
"""For the converged solution: of second order, without memory, and not among the samplers that are judged by default."""
FIRST_STEPS, MOST_STEPS = 16, 128
TOLERANCE = 1 / 255
"""Root mean square of half a grey level, for pixels in [-1, 1]."""


@dataclass(frozen=True, slots=True)
class Converged:
    """Where the path leads, and how far that is certain."""

    images: np.ndarray
    """float32 (count, height, width, channels), about in [-1, 1]."""
    steps: int
    change: float
    """Root mean square difference from the solution with half the steps, in pixels: the floor of a paired error."""

    @property
    def reached(self) -> bool:
        """Whether doubling the steps changed no more than TOLERANCE."""
        return self.change <= TOLERANCE


def converge(
    solve: Callable[[int], np.ndarray], first: int = FIRST_STEPS, most: int = MOST_STEPS, tolerance: float = TOLERANCE
) -> Converged:
    """Double the steps of ``solve`` until the solution stands still, or to ``most``; ``reached`` tells which it was.

    For a method of order p the error that is left is about ``change`` / (2^p - 1) (Richardson's estimate).
    """
    steps, images = first, solve(first)
    while True:
        coarse, steps = images, 2 * steps
        images = solve(steps)
        change = rms(images, coarse)
        if not change > tolerance or 2 * steps > most:
            return Converged(images, steps, change)


def rms(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square difference of two arrays of one shape, before anything is rounded or cut off."""
    return float(np.sqrt(np.mean(np.square(a - b))))


def feature_error(generated: np.ndarray, converged: np.ndarray) -> float:
    """Root mean square difference of features (count, dimensions), row by row; raises ComparisonError for unequal counts."""
    require_comparable(generated, converged, least=1)
    return float(np.sqrt(np.mean(np.square(generated - converged))))
