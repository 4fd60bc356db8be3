"""How much memory an architecture will need, from the peaks of the runs that have been seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

PRIOR_EXPONENT = 1.0
"""Without evidence, memory is expected to grow in proportion to each numeric parameter."""
PRIOR_WEIGHT = 0.05
"""Weight of that expectation against the runs, in squared log units; small, so that a few runs overrule it."""


@dataclass(frozen=True)
class MemoryForecast:
    """``log(peak) = intercept + sum(exponent * log(parameter))``, fitted by ridge regression towards the prior."""

    names: tuple[str, ...]
    exponents: tuple[float, ...]
    intercept: float
    residual: float
    """Largest error of the fit on its own runs, in log units: added to every prediction."""

    def predict(self, parameters: Mapping[str, Any]) -> int:
        """Peak bytes that these parameters are expected to need, on the safe side."""
        logs = [math.log(parameters[name]) for name in self.names]
        return int(math.exp(self.intercept + float(np.dot(self.exponents, logs)) + self.residual))


def fit(runs: Sequence[tuple[Mapping[str, Any], int]]) -> MemoryForecast | None:
    """Fit to pairs of (parameters, peak bytes); None without a single known peak."""
    known = [(parameters, peak) for parameters, peak in runs if peak > 0]
    if not known:
        return None
    names = tuple(name for name in known[0][0] if all(_positive(parameters.get(name)) for parameters, _ in known))
    logs = np.array([[math.log(parameters[name]) for name in names] for parameters, _ in known]).reshape(len(known), len(names))
    peaks = np.array([math.log(peak) for _, peak in known])
    centre, level = logs.mean(axis=0), peaks.mean()
    prior = np.full(len(names), PRIOR_EXPONENT)
    centred = logs - centre
    surprise = peaks - level - centred @ prior
    exponents = prior + np.linalg.solve(centred.T @ centred + PRIOR_WEIGHT * np.eye(len(names)), centred.T @ surprise)
    intercept = float(level - centre @ exponents)
    residual = float(np.max(peaks - intercept - logs @ exponents))
    return MemoryForecast(names, tuple(float(value) for value in exponents), intercept, max(0.0, residual))


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
