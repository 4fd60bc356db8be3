"""Every linear sampler as one table of numbers: what is evaluated where, as combinations of the noise and of past outputs.

All samplers of this package without fresh noise combine their start and the denoiser's outputs linearly, with numbers that
depend on the grid alone. ``trace`` finds these numbers by walking the solver's own code; ``follow`` samples by them. A learned
sampler is such a table with other numbers (the non-stationary solvers of Shaul et al. 2024, Section 3; the generalised solver
of Oganov et al. 2025 with its decoupled times and additive corrections is contained).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autotuner.diffusion.blas import mx
from autotuner.diffusion.solvers.walk import DenoiseFn, Solver, Step, Watch, at, unwatched
from autotuner.errors import ConfigurationError


@dataclass(frozen=True, eq=False)
class Table:
    """A linear sampler of K evaluations, in the coordinates x = y + sigma n; float64."""

    sigma_max: float
    """Deviation of the noise that it starts from."""
    levels: np.ndarray
    """Noise level that the network is told at each evaluation, shape (K,); all above 0."""
    rows: np.ndarray
    """Row k makes the input of evaluation k out of (start, D_0, ..., D_(k-1)), the last row the image; shape (K + 1, K + 1)."""

    def __post_init__(self) -> None:
        """ConfigurationError unless shapes agree, all is finite, and no row uses an output that is not there yet."""
        count = len(self.levels)
        fits = self.levels.shape == (count,) and self.rows.shape == (count + 1, count + 1) and count > 0
        if not fits or not (np.isfinite(self.rows).all() and np.isfinite(self.levels).all() and (self.levels > 0).all()):
            raise ConfigurationError(
                f"sampler with levels {self.levels.shape} and rows {self.rows.shape}; allowed are K levels above 0 and "
                "K + 1 rows of K + 1 finite numbers"
            )
        if np.triu(self.rows, 1).any() or not 0 < self.sigma_max < np.inf:
            raise ConfigurationError(f"sampler from sigma {self.sigma_max}: a row may use only outputs of earlier rows")

    @property
    def evaluations(self) -> int:
        """Of the network for one image."""
        return len(self.levels)


def trace(solver: Solver, sigmas: Sequence[float]) -> Table:
    """The table of a solver on a grid; ``follow`` with it gives what the solver gives, up to rounding.

    ConfigurationError for a grid that the solver refuses. A solver that draws noise, or is not linear, has no table.
    """
    grid = [float(sigma) for sigma in sigmas]
    rows: list[np.ndarray] = []
    levels: list[float] = []
    size = 2 * len(grid)  # heun evaluates twice a step

    def basis(x: mx.array, sigma: mx.array) -> mx.array:
        rows.append(np.array(x)[0])
        levels.append(float(np.array(sigma)[0]))
        return unit(len(rows))

    def unit(index: int) -> mx.array:
        return mx.array((np.arange(size) == index)[None].astype(np.float64).tolist(), dtype=mx.float64)

    with mx.stream(mx.cpu):  # float64 is there only
        rows.append(np.array(solver(basis, unit(0), grid))[0])
    count = len(levels)
    return Table(grid[0], np.array(levels), np.stack([row[: count + 1] for row in rows]))


def begun_at(table: Table, sigma_max: float) -> Table:
    """The same sampler for noise of a larger deviation, which it scales down at once instead of walking it down.

    Where D hardly depends on its input that costs little and saves evaluations (the analytical first step of Dockhorn et al.
    2022, Section 4, with D = 0).
    """
    rows = table.rows.copy()
    rows[:, 0] *= table.sigma_max / sigma_max
    return Table(sigma_max, table.levels, rows)


def follow(
    denoise: DenoiseFn, x: mx.array, table: Table, *, outputs: Sequence[mx.array] = (), watch: Watch = unwatched
) -> mx.array:
    """Sample from noise ``x`` of deviation ``table.sigma_max`` by a table, one evaluation of ``denoise`` for each level.

    ``outputs`` are the first ones where they are known already. ``watch`` is shown, after evaluation k, the input of the next
    one (after the last: the image).
    """
    known = [x, *outputs]
    made = combine(known, table.rows[len(outputs)])
    for index in range(len(outputs), table.evaluations):
        level = float(table.levels[index])
        denoised = at(denoise, made, level)
        known.append(denoised)
        made = combine(known, table.rows[index + 1])
        mx.eval(made)
        following = float(table.levels[index + 1]) if index + 1 < table.evaluations else 0.0
        watch(Step(index + 1, table.evaluations, level, following, made, denoised))
    return made


def combine(known: Sequence[mx.array], row: np.ndarray) -> mx.array:
    """Sum of the known arrays with the numbers of one row; zeros cost nothing."""
    total = mx.zeros_like(known[0])
    for coefficient, array in zip(row, known, strict=False):
        if coefficient != 0:
            total = total + float(coefficient) * array
    return total
