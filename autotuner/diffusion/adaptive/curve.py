"""The last touch, pixel by pixel: a piecewise-linear curve that pushes values to where the data has them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autotuner.diffusion.blas import mx

KNOTS = 8
OUTERMOST = (0.01, 0.99)
"""Quantiles of the solutions' values between which the knots lie evenly."""


@dataclass(frozen=True, eq=False)
class Curve:
    """a + b v + sum of c_i max(v - t_i, 0): few steps leave values between those that the data has, or beyond them."""

    knots: np.ndarray
    """t, shape (number,)."""
    weights: np.ndarray
    """a, b, c; shape (number + 2,)."""

    def __call__(self, image: mx.array) -> mx.array:
        """The curve at every value of an image of any shape."""
        a, b, *bends = (float(weight) for weight in self.weights)
        if self.straight:
            return image
        total = a + b * image
        for knot, bend in zip(self.knots, bends, strict=True):
            total = total + bend * mx.maximum(image - float(knot), 0)
        return total

    @property
    def straight(self) -> bool:
        """Whether it leaves every value as it is."""
        return bool(self.weights[0] == 0 and self.weights[1] == 1 and not self.weights[2:].any())

    def slope(self, image: np.ndarray) -> np.ndarray:
        """Its derivative at every value."""
        total = np.full(image.shape, self.weights[1])
        for knot, bend in zip(self.knots, self.weights[2:], strict=True):
            total += bend * (image > knot)
        return total


def identity() -> Curve:
    """Every value stays as it is."""
    return Curve(np.zeros(0), np.array([0.0, 1.0]))


def fit_curve(images: np.ndarray, ends: np.ndarray, knots: int = KNOTS) -> Curve:
    """The curve that brings ``images`` nearest to ``ends`` in the mean square."""
    low, high = np.quantile(ends, OUTERMOST)
    places = np.linspace(low, high, knots)
    value = images.ravel().astype(np.float64)
    columns = np.stack([np.ones_like(value), value, *(np.maximum(value - place, 0) for place in places)])
    matrix = columns @ columns.T
    held = 1e-9 * np.trace(matrix) * np.eye(len(matrix))
    return Curve(places, np.linalg.solve(matrix + held, columns @ ends.ravel().astype(np.float64)))
