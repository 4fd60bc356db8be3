"""Level 2: a sampler learned for one network and one number of evaluations; minutes.

A few samplers of the levels below are refined for a short while, first their grids and then all numbers of their tables: where
such a descent ends depends on where it began more than on how good that was. The best goes on with all pairs. What is kept is
the best on noises that no derivative has seen. Everything is deterministic unless a deadline cuts it short.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from autotuner.diffusion.sample import Network
from autotuner.diffusion.schedules.candidates import SAMPLERS, Candidate
from autotuner.diffusion.schedules.forms import Form, Free, Grid
from autotuner.diffusion.schedules.newton import DAMPINGS, Look, iterate, pixels
from autotuner.diffusion.schedules.pairs import Pairs, errors, rmse
from autotuner.diffusion.solvers.generalised import Table

FIRST_BATCH = 64
"""Pairs of the short descents and of the first iteration of the long one, which then doubles them until all are used."""
FIRST_DAMPING = 0.1
PATIENCE, MATTERS = 1, 0.003
"""Iterations on all pairs that lower the error on the others by less than the share MATTERS, after which a descent ends."""
FULL_MEMORY, LONG = 8, 4
"""Up to so many evaluations all past outputs are used; of longer samplers the latest LONG."""


@dataclass(frozen=True)
class Effort:
    """What one learning may cost."""

    grid_iterations: int = 2
    short_iterations: int = 3
    free_iterations: int = 14
    starts: int = 4
    """Candidates that are refined for a short while."""
    deadline: float = float("inf")
    """On ``clock``: no iteration begins after it."""
    clock: Callable[[], float] = time.monotonic

    @property
    def over(self) -> bool:
        """Whether the deadline has passed."""
        return self.clock() >= self.deadline


DEFAULT = Effort()


@dataclass(frozen=True, eq=False)
class Learned:
    """The result."""

    table: Table
    error: float
    """Paired error on the pairs that chose it: a little flattered, so not what a gate may read."""
    start: str
    """Name of the candidate that it began with."""
    iterations: int
    """Of the descents that led to it."""


def learn(
    denoiser: Network,
    training: Pairs,
    choosing: Pairs,
    starts: Sequence[Candidate],
    effort: Effort = DEFAULT,
    look: Look = pixels,
) -> Learned:
    """Refine the first of ``starts``, all of equally many evaluations, on ``training``; keep what is best on ``choosing``.

    ``look`` says what of the images is compared while learning; what is kept is chosen by pixels. Never worse on ``choosing``
    than the starts.
    """

    def descend(best: Learned, form: Form, pairs: Pairs, most: int) -> Learned:
        return _descend(denoiser, pairs, choosing, form, best, most, effort, look)

    def short(start: Candidate) -> Learned:
        few, grid = training.first(FIRST_BATCH), Grid(SAMPLERS[start.solver], list(start.sigmas), start.table.sigma_max)
        moved = descend(_of_start(denoiser, choosing, start), grid, few, effort.grid_iterations)
        return descend(moved, _free(moved), few, effort.short_iterations)

    best = min((short(start) for start in starts[: effort.starts]), key=lambda each: each.error)
    return descend(best, _free(best), training, effort.free_iterations)


def memory_of(evaluations: int) -> int:
    """How many past outputs each input of a learned sampler uses."""
    return evaluations if evaluations <= FULL_MEMORY else LONG


def work(evaluations: int) -> int:
    """Network evaluations of one iteration on one pair, at most; FIRST_BATCH and the other constants aside."""
    memory = memory_of(evaluations)
    columns = sum((2 + min(row, memory)) * (evaluations - row) for row in range(evaluations))
    return columns + evaluations * (1 + len(DAMPINGS))


def _free(found: Learned) -> Free:
    return Free(found.table, memory_of(found.table.evaluations))


def _of_start(denoiser: Network, choosing: Pairs, start: Candidate) -> Learned:
    return Learned(start.table, rmse(errors(denoiser, choosing, start.table)), start.name, 0)


def _descend(
    denoiser: Network, training: Pairs, choosing: Pairs, form: Form, best: Learned, most: int, effort: Effort, look: Look
) -> Learned:
    theta, damping, waited, before = np.zeros(form.size), FIRST_DAMPING, 0, best.iterations
    for iteration in range(most if form.size else 0):
        if effort.over or waited > PATIENCE:
            break
        batch = training.first(FIRST_BATCH << iteration)
        theta, damping, _, moved = iterate(denoiser, batch, form, theta, damping, look)
        table = form.table(theta)
        error = rmse(errors(denoiser, choosing, table)) if moved else best.error
        lowers = error < (1 - MATTERS) * best.error
        if error < best.error:
            best = Learned(table, error, best.start, before + iteration + 1)
        waited = 0 if lowers else waited + (len(batch) == len(training))
    return best
