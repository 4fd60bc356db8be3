"""A sampler whose numbers depend on the sample: a table, and what each trait adds to each of its entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from autotuner.diffusion.adaptive.curve import Curve, identity
from autotuner.diffusion.adaptive.traits import names, traits
from autotuner.diffusion.blas import mx
from autotuner.diffusion.sample import Network
from autotuner.diffusion.solvers.generalised import Table
from autotuner.errors import ConfigurationError

FARTHEST = 3.0
"""Standard deviations at which a trait is cut off: beyond what was seen in training nothing is extrapolated."""


@dataclass(frozen=True, eq=False)
class Head:
    """Row and level of stage k (before evaluation k; the last stage makes the image) are the table's plus weights . traits.

    The level is changed by its logarithm. With weights of zero every sample gets the table.
    """

    table: Table
    classes: int
    centre: np.ndarray
    """Mean of each trait at each stage, shape (K + 1, traits)."""
    spread: np.ndarray
    """Its standard deviation; 0 switches a trait off."""
    weights: tuple[np.ndarray, ...]
    """Of stage k: shape (k + 2, traits), the row's k + 1 entries, then the log level; the last stage has no level."""
    curve: Curve = field(default_factory=identity)
    """What the image goes through at the end."""

    def __post_init__(self) -> None:
        """ConfigurationError unless the shapes agree with the table and the traits."""
        count, stages = len(names(self.classes)), self.table.evaluations + 1
        fits = self.centre.shape == self.spread.shape == (stages, count)
        shapes = [weights.shape for weights in self.weights]
        if not fits or shapes != [(entries(self.table, stage), count) for stage in range(stages)]:
            raise ConfigurationError(
                f"head with weights {shapes} and centre {self.centre.shape}; a table of {self.table.evaluations} evaluations "
                f"and {self.classes} classes needs {stages} stages of {count} traits"
            )

    def seen(self, stage: int, known: Sequence[mx.array], label: mx.array) -> mx.array:
        """Traits in standard deviations from the mean, cut off at FARTHEST; shape (batch, traits)."""
        spread = self.spread[stage]
        scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
        centred = traits(known, label, self.classes) - mx.array(self.centre[stage].astype(np.float32))
        return mx.clip(centred * mx.array(scale.astype(np.float32)), -FARTHEST, FARTHEST)

    def decide(self, stage: int, known: Sequence[mx.array], label: mx.array) -> tuple[mx.array, mx.array]:
        """Row (batch, stage + 1) and level (batch,) of each sample; the last stage's level means nothing and is 1."""
        batch, weights = known[0].shape[0], self.weights[stage]
        row = mx.array(self.table.rows[stage, : stage + 1].astype(np.float32))
        last = stage == self.table.evaluations
        level = mx.full((batch,), 1.0 if last else float(self.table.levels[stage]))
        if not weights.any():
            return mx.broadcast_to(row, (batch, stage + 1)), level
        change = self.seen(stage, known, label) @ mx.array(weights.T.astype(np.float32))
        return row + change[:, : stage + 1], level if last else level * mx.exp(change[:, -1])


def entries(table: Table, stage: int) -> int:
    """Numbers that are decided at a stage."""
    return stage + 1 + (stage < table.evaluations)


def plain(table: Table, classes: int) -> Head:
    """The head that does nothing: every sample gets the table."""
    count, stages = len(names(classes)), table.evaluations + 1
    zeros = np.zeros((stages, count))
    weights = tuple(np.zeros((entries(table, stage), count)) for stage in range(stages))
    return Head(table, classes, zeros, zeros, weights)


def mix(known: Sequence[mx.array], row: mx.array) -> mx.array:
    """The combination of the known arrays (batch, ...) that each sample's ``row`` (batch, len(known)) asks for."""
    shape = (-1, *[1] * (known[0].ndim - 1))
    parts = [row[:, index].reshape(shape) * array for index, array in enumerate(known)]
    return mx.sum(mx.stack(parts), axis=0)


def finish(network: Network, head: Head, known: Sequence[mx.array], label: mx.array) -> list[mx.array]:
    """All that a walk knows at its end: the start, every output, the image before the curve, and the image.

    ``known`` is the start (batch, height, width, channels) of deviation ``head.table.sigma_max``, and the outputs so far.
    """
    known = list(known)
    for stage in range(len(known) - 1, head.table.evaluations):
        row, level = head.decide(stage, known, label)
        known.append(network(mix(known, row), level, label))
        mx.eval(known[-1])
    row, _ = head.decide(head.table.evaluations, known, label)
    made = mix(known, row)
    return [*known, made, head.curve(made)]
