"""What may be changed in a sampler: each form makes a table out of a vector that is 0 where it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from autotuner.diffusion.solvers.generalised import Table, trace
from autotuner.diffusion.solvers.walk import Solver

LEAST_SIGMA = 0.1
"""Levels stay above this share of the start's lowest one: networks have not seen much less noise."""


class Form(Protocol):
    """A family of samplers; ``table(zeros(size))`` is the start, and all entries move it by about as much."""

    size: int

    def table(self, theta: np.ndarray) -> Table:
        """The sampler at ``theta`` (size,); ConfigurationError where there is none."""
        ...


class Grid:
    """Times of a solver: ``theta`` adds to the logarithms of the inner levels of its grid."""

    def __init__(self, solver: Solver, sigmas: Sequence[float]) -> None:
        self.solver = solver
        self.sigmas = np.array(sigmas, dtype=np.float64)
        self.size = len(self.sigmas) - 2

    def table(self, theta: np.ndarray) -> Table:
        """The solver's own table on the moved grid; ConfigurationError where it no longer falls."""
        moved = self.sigmas.copy()
        moved[1:-1] *= np.exp(theta)
        return trace(self.solver, list(moved))


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
        """The start with all its numbers moved; levels are held between the lowest useful one and the first."""
        count = self.start.evaluations
        low, rows = LEAST_SIGMA * float(self.start.levels.min()), self.start.rows.copy()
        rows[tuple(np.transpose(self._at))] += theta[count:] * self._scale
        levels = np.clip(self.start.levels * np.exp(theta[:count]), low, self.start.sigma_max)
        return replace(self.start, levels=levels, rows=rows)
