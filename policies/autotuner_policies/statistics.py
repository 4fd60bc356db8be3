"""Interquartile means over paired scenarios, with bootstrap intervals (Agarwal et al. 2021, in NumPy)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST_FOR_INTERVAL = 10
"""Percentile-bootstrap intervals of an interquartile mean cover too little below this."""
RESAMPLES = 2000

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """An interquartile mean and its 95 % interval; the interval is None below FEWEST_FOR_INTERVAL pairs."""

    value: float
    low: float | None
    high: float | None
    count: int

    def __str__(self) -> str:
        """``0.12 [0.08, 0.16]``."""
        return f"{self.value:+.3f}" if self.low is None else f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def interquartile_mean(values: Array, axis: int = -1) -> Array:
    """The mean of the middle half, the two scores at its edges weighted so that exactly half counts."""
    ordered = np.sort(values, axis=axis)
    n = ordered.shape[axis]
    edges = np.arange(n + 1) / n
    weights = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0.0, None)
    return np.asarray(np.average(ordered, axis=axis, weights=weights))


def estimate(values: Sequence[float], strata: Sequence[str], seed: int = 0) -> Estimate:
    """The interquartile mean of ``values``, resampled within each stratum (a family) so that none loses its share."""
    scores = np.asarray(values, dtype=np.float64)
    point = float(interquartile_mean(scores))
    if len(scores) < FEWEST_FOR_INTERVAL or len(scores) == len(set(strata)):  # one a stratum: nothing to resample
        return Estimate(point, None, None, len(scores))
    random = np.random.default_rng(seed)
    names = np.asarray(strata)
    columns = []
    for name in dict.fromkeys(strata):
        members = np.flatnonzero(names == name)
        columns.append(members[random.integers(len(members), size=(RESAMPLES, len(members)))])
    resampled = interquartile_mean(scores[np.concatenate(columns, axis=1)])
    low, high = np.percentile(resampled, (2.5, 97.5))
    return Estimate(point, float(low), float(high), len(scores))
