"""What may be changed in a sampler: each form makes a table out of a vector that is 0 where it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from autotuner.diffusion.solvers.generalised import Table, begun_at, trace
from autotuner.diffusion.solvers.walk import Solver

LEAST_SIGMA, MOST_SIGMA = 0.1, 2.0
"""Levels stay between these shares of the start's lowest and highest: further off no network has learned.

The bounds must not touch the start, whose first level is the highest: at a bound a difference is 0 and the level would stay.
"""


class Form(Protocol):
    """A family of samplers; ``table(zeros(size))`` is the start, and all entries move it by about as much."""

    size: int

    def table(self, theta: np.ndarray) -> Table:
        """The sampler at ``theta`` (size,); ConfigurationError where there is none."""
        ...


class Grid:
    """Times of a solver: ``theta`` adds to the logarithms of the levels of its grid, but for the last, 0.

    The first one is free only where the sampler begins below ``sigma_max`` (see ``begun_at``).
    """

    def __init__(self, solver: Solver, sigmas: Sequence[float], sigma_max: float | None = None) -> None:
        self.solver = solver
        self.sigmas = np.array(sigmas, dtype=np.float64)
        self.sigma_max = float(sigmas[0]) if sigma_max is None else sigma_max
        self._first = int(self.sigmas[0] == self.sigma_max)
        self.size = len(self.sigmas) - 1 - self._first

    def table(self, theta: np.ndarray) -> Table:
        """The solver's own table on the moved grid; ConfigurationError where it no longer falls."""
        moved = self.sigmas.copy()
        moved[self._first : -1] *= np.exp(theta)
        return begun_at(trace(self.solver, list(moved)), self.sigma_max)


class Free:
    """Everything: the level that the network is told at each evaluation, and what its input is made of.

    In the words of Oganov et al. 2025: decoupled times, and additive corrections of all coefficients, of the state as well as
    of the past outputs in data-prediction space; at 0 the sampler is ``start``, whatever solver that was traced from.
    """

    def __init__(self, start: Table, memory: int) -> None:
        """``memory``: how many of the latest outputs each input may be made of, beside the starting noise."""
        self.start = start
        count = start.evaluations
        self._at = [(k, j) for k in range(count + 1) for j in range(k + 1) if j == 0 or j > k - memory or start.rows[k, j]]
        ahead = np.append(start.levels, start.levels[-1])
        # An entry of 0.01 moves the input by about 1 % of its own size: noise counts in sigma, outputs are of order one.
        self._scale = np.array([ahead[k] / start.sigma_max if j == 0 else np.hypot(1, ahead[k]) for k, j in self._at])
        self.size = count + len(self._at)

    def table(self, theta: np.ndarray) -> Table:
        """The start with all its numbers moved; levels are held between LEAST_SIGMA and MOST_SIGMA of the start's."""
        count = self.start.evaluations
        low, high = LEAST_SIGMA * float(self.start.levels.min()), MOST_SIGMA * float(self.start.levels.max())
        rows = self.start.rows.copy()
        rows[tuple(np.transpose(self._at))] += theta[count:] * self._scale
        levels = np.clip(self.start.levels * np.exp(theta[:count]), low, high)
        return replace(self.start, levels=levels, rows=rows)
