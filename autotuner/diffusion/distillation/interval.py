"""Means with Student's intervals, from a few independent measurements of one thing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

FEWEST = 3
"""Measurements below which no interval is given: Student's factor is 12.7 for two."""
NORMAL = 1.959964
"""97.5 % quantile of the normal distribution."""


class Interval(NamedTuple):
    """A value and the ends of its 95 % interval; NaN where there were too few measurements or one is not a number."""

    value: float
    low: float
    high: float


UNKNOWN = Interval(math.nan, math.nan, math.nan)


def student(freedom: int) -> float:
    """97.5 % quantile of Student's t: Abramowitz and Stegun 1964, Eq. 26.7.5, within 1 % from 2 degrees of freedom on."""
    z, n = NORMAL, freedom
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / n ** (order + 1) for order, term in enumerate(terms))


def of_mean(values: Sequence[float]) -> Interval:
    """The mean of independent ``values``."""
    mean = float(np.mean(values))
    if len(values) < FEWEST:
        return Interval(mean, math.nan, math.nan)
    half = student(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def of_ratio(values: Sequence[float], to: Sequence[float]) -> Interval:
    """The geometric mean of the ratios of pairs, which shared their noise; NaN unless all values are positive."""
    if min(*values, *to) <= 0:
        return UNKNOWN
    return Interval(*(math.exp(end) for end in of_mean(list(np.log(values) - np.log(to)))))


def of_root_mean_square(squares: Sequence[float]) -> Interval:
    """The root of the mean of independent ``squares``, its interval that of the mean, no lower than 0."""
    return Interval(*(math.sqrt(max(end, 0.0)) for end in of_mean(squares)))
