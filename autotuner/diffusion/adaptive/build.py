"""The rung above the ladder: adapt the schedule that it ended with to each sample, and judge that on what none of them saw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autotuner.diffusion.adaptive import artefact
from autotuner.diffusion.adaptive.head import entries
from autotuner.diffusion.adaptive.learn import Effort, Learned, Told, learn, silent
from autotuner.diffusion.adaptive.sampling import sample
from autotuner.diffusion.sample import CHUNK, Network
from autotuner.diffusion.schedules import ladder
from autotuner.diffusion.schedules.build import Sets
from autotuner.diffusion.schedules.ladder import Interval, Rung
from autotuner.diffusion.schedules.pairs import Pairs
from autotuner.diffusion.solvers.generalised import Table

SHARED = 2
"""Evaluations, at most, that are made before a sample's own way is read."""
EFFORT = Effort(iterations=4, ridge=0.1)
LARGEST_SLOPES = 512 * 2**20
"""Bytes of the derivatives of all images by all numbers, which the fit holds at once: large images get fewer noises."""


@dataclass(frozen=True, eq=False)
class Adapted:
    """An adaptive sampler as the judging set found it."""

    learned: Learned
    error: float
    """Paired error on the judging set."""
    gain: Interval
    """1 - that over the error of the schedule that it began with, by pairs of noises."""
    noises: int

    @property
    def kept(self) -> bool:
        """Whether the whole interval is above 0, as for a level of the ladder."""
        return self.gain.low > 0

    def save(self, network: str, folder: Path) -> Path:
        """Write it beside the schedules; ``network`` is what ``schedules.artefact.identify`` calls the weights."""
        adaptive = self.learned.adaptive
        path = artefact.path_of(folder, adaptive.evaluations[0])
        artefact.save(artefact.Saved(network, adaptive, self.learned.mean_evaluations, self.gain, self.noises), path)
        return path


def adapt(network: Network, sets: Sets, best: Rung, classes: int, effort: Effort = EFFORT, tell: Told = silent) -> Adapted:
    """Weights of traits and a curve upon the table of ``best``, judged on ``sets.judging``, on which ``best`` was.

    Every sample gets as many evaluations as the table has: a number of its own gains nothing (docs/few-steps.md).
    """
    count = best.table.evaluations
    learned = learn(
        network, affordable(sets.training, best.table), sets.choosing, best.table, classes,
        evaluations=[count], shared=min(SHARED, count), effort=effort, tell=tell,
    )  # fmt: skip
    images = sample(network, sets.judging.noise, sets.judging.labels, learned.adaptive).images
    squares = np.square(images - sets.judging.ends).reshape(len(images), -1).mean(axis=1)
    above = Rung(best.level + 1, "adaptive", best.table, squares)
    return Adapted(learned, above.error, ladder.gain(best, above), len(squares))


def affordable(pairs: Pairs, table: Table) -> Pairs:
    """The first of the pairs, as many as ``LARGEST_SLOPES`` lets the fit differentiate at once; one chunk at least."""
    numbers = sum(entries(table, stage) for stage in range(table.evaluations + 1))
    each = np.dtype(np.float64).itemsize * numbers * pairs.ends[0].size
    return pairs.first(max(CHUNK, LARGEST_SLOPES // each))
