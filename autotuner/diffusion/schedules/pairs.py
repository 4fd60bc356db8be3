"""Noises and where the same network's exact path leads from each: what samplers are learned from and judged by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autotuner.diffusion.quality import paired
from autotuner.diffusion.sample import Network
from autotuner.diffusion.schedules.grids import karras
from autotuner.diffusion.schedules.sampling import noises, solve
from autotuner.diffusion.solvers import SOLVERS
from autotuner.diffusion.solvers.generalised import Table, trace

SOLVER = "unipc"
"""For the ends of paths: half the evaluations of ``paired.SOLVER`` for the same error, which matters for hundreds of noises."""
PROBES = 16
"""Noises on which the number of steps is found that the others are then walked in."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """One label, noise and end of its path in each row."""

    labels: np.ndarray
    noise: np.ndarray
    """float32 (count, height, width, channels), of deviation 1."""
    ends: np.ndarray
    """float32, as ``noise``: the converged solutions, about in [-1, 1]."""
    change: float
    """Root mean square change of the ends when their steps were doubled last: no error below it means anything."""

    def __len__(self) -> int:
        """How many."""
        return len(self.labels)

    def first(self, count: int) -> Pairs:
        """The first ``count`` of them."""
        return Pairs(self.labels[:count], self.noise[:count], self.ends[:count], self.change)


def find_pairs(
    denoiser: Network,
    labels: np.ndarray,
    shape: tuple[int, int, int],
    seed: int,
    sigma_min: float,
    sigma_max: float,
    solver: str = SOLVER,
) -> Pairs:
    """Walk the paths of one noise for each label to their ends: 16 to 128 steps, as many as ``paired.TOLERANCE`` needs.

    Another seed gives other noise: sets for learning, choosing and judging differ in it.
    """
    noise = noises(len(labels), shape, seed)

    def walked(steps: int, count: int) -> np.ndarray:
        table = trace(SOLVERS[solver], list(karras(steps, sigma_min, sigma_max)))
        return solve(denoiser, labels[:count], noise[:count], table)

    probe = paired.converge(lambda steps: walked(steps, PROBES))
    return Pairs(labels, noise, walked(probe.steps, len(labels)), probe.change)


def errors(denoiser: Network, pairs: Pairs, table: Table) -> np.ndarray:
    """Mean square difference from the path's end for each pair, float64 (count,); infinite where the sampler blew up."""
    found = solve(denoiser, pairs.labels, pairs.noise, table).astype(np.float64)
    each = np.square(found - pairs.ends).reshape(len(pairs), -1).mean(axis=1)
    return np.where(np.isfinite(each), each, np.inf)


def rmse(squares: np.ndarray) -> float:
    """The paired error of several pairs: root of the mean of what ``errors`` gives."""
    return float(np.sqrt(np.mean(squares)))
