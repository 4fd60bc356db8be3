"""Sampling where every sample has its own number of evaluations: what has finished leaves the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autotuner.diffusion.adaptive.allocation import Forecast, choose
from autotuner.diffusion.adaptive.head import Head, mix
from autotuner.diffusion.blas import mx
from autotuner.diffusion.sample import Network
from autotuner.errors import ConfigurationError

SIZES = (1, 2, 4, 8, 16, 32)
"""Batches that the network is asked for, the last and largest as long as there are enough samples: six shapes to compile."""

MOST_WASTE = 0.25
"""Share of a batch that may be there only to fill it up, if a smaller batch exists."""


@dataclass(frozen=True, eq=False)
class Adaptive:
    """Heads that begin alike, and how each sample comes to one of them."""

    heads: tuple[Head, ...]
    """In rising numbers of evaluations; rows, levels and weights of the stages before ``shared`` are the same in all."""
    shared: int
    """Evaluations that are made before the choice."""
    forecast: Forecast
    price: float
    """Squared error that one more evaluation has to save."""

    def __post_init__(self) -> None:
        """ConfigurationError unless the heads rise, share what they must, and the forecast is of as many."""
        counts = self.evaluations
        first = self.heads[0]
        alike = all(
            np.array_equal(head.table.rows[stage, : stage + 1], first.table.rows[stage, : stage + 1])
            and np.array_equal(head.table.levels[stage], first.table.levels[stage])
            and np.array_equal(head.weights[stage], first.weights[stage])
            for head in self.heads
            for stage in range(self.shared)
        )
        if not alike or list(counts) != sorted(set(counts)) or not 0 < self.shared <= counts[0]:
            raise ConfigurationError(
                f"heads of {counts} evaluations that share {self.shared}: allowed are rising numbers, at least one evaluation "
                "shared, and the same rows, levels and weights before it"
            )
        if len(self.forecast.coefficients) != len(counts):
            raise ConfigurationError(f"forecast for {len(self.forecast.coefficients)} heads; there are {len(counts)}")

    @property
    def evaluations(self) -> tuple[int, ...]:
        """Of each head."""
        return tuple(head.table.evaluations for head in self.heads)

    def pick(self, known: Sequence[mx.array], label: mx.array) -> np.ndarray:
        """Index of the head of each sample, from the start and the ``shared`` first outputs."""
        predicted = self.forecast(np.array(self.heads[0].seen(self.shared, known, label)))
        return choose(predicted, np.array(self.evaluations), self.price)


@dataclass(frozen=True, eq=False)
class Sampled:
    """Images and what they cost."""

    images: np.ndarray
    """float32 (count, height, width, channels)."""
    evaluations: np.ndarray
    """Of each sample."""
    computed: int
    """Evaluations of the network with those that only filled a batch up."""


@dataclass(eq=False)
class Group:
    """Samples of one head on their way."""

    head: Head
    which: np.ndarray
    known: list[mx.array]
    label: mx.array


def sample(
    network: Network, noise: np.ndarray, labels: np.ndarray, adaptive: Adaptive, *, sizes: Sequence[int] = SIZES
) -> Sampled:
    """An image for each label from ``noise`` (count, height, width, channels) of deviation 1.

    The network is asked stage by stage for all samples that are not finished, in batches of ``sizes``. A group of samples has
    the same head; after ``adaptive.shared`` evaluations the first group parts.
    """
    first = adaptive.heads[0]
    start = mx.array(noise) * first.table.sigma_max
    groups = [Group(first, np.arange(len(labels)), [start], mx.array(labels.astype(np.int32)))]
    computed = 0
    for stage in range(adaptive.evaluations[-1]):
        if stage == adaptive.shared:
            groups = _part(groups[0], adaptive)
        computed += _advance(network, [group for group in groups if group.head.table.evaluations > stage], stage, sizes)
    images, spent = np.empty(noise.shape, np.float32), np.empty(len(labels), np.int64)
    for group in groups if adaptive.evaluations[-1] > adaptive.shared else _part(groups[0], adaptive):
        count = group.head.table.evaluations
        made = mix(group.known, group.head.decide(count, group.known, group.label)[0])
        images[group.which] = np.array(group.head.curve(made))
        spent[group.which] = count
    return Sampled(images, spent, computed)


def _part(group: Group, adaptive: Adaptive) -> list[Group]:
    picked = adaptive.pick(group.known, group.label)
    parts = []
    for index, head in enumerate(adaptive.heads):
        which = np.flatnonzero(picked == index)
        if len(which):
            taken = mx.array(which)
            parts.append(Group(head, group.which[which], [array[taken] for array in group.known], group.label[taken]))
    return parts


def _advance(network: Network, groups: list[Group], stage: int, sizes: Sequence[int]) -> int:
    """Make one evaluation for every sample of ``groups``; returns how many the network computed."""
    if not groups:
        return 0
    decided = [group.head.decide(stage, group.known, group.label) for group in groups]
    inputs = mx.concatenate([mix(group.known, row) for group, (row, _) in zip(groups, decided, strict=True)])
    levels = mx.concatenate([level for _, level in decided])
    outputs, computed = _batched(network, inputs, levels, mx.concatenate([group.label for group in groups]), sizes)
    ends = np.cumsum([len(group.which) for group in groups])
    for group, output in zip(groups, mx.split(outputs, ends[:-1].tolist()), strict=True):
        group.known.append(output)
    return computed


def _batched(network: Network, x: mx.array, level: mx.array, label: mx.array, sizes: Sequence[int]) -> tuple[mx.array, int]:
    """The network's outputs in batches of ``sizes``; the last is filled up with repetitions that are thrown away."""
    outputs, begin, computed = [], 0, 0
    for size in batches(len(label), sizes):
        end = min(begin + size, len(label))
        index = mx.minimum(mx.arange(begin, begin + size), end - 1)
        outputs.append(network(x[index], level[index], label[index])[: end - begin])
        mx.eval(outputs[-1])
        begin, computed = end, computed + size
    return mx.concatenate(outputs), computed


def batches(count: int, sizes: Sequence[int]) -> list[int]:
    """Sizes of the batches for ``count`` samples: large ones first, the last filled up where that wastes little."""
    chosen, left = [], count
    while left > 0:
        enough = min((size for size in sizes if size >= left), default=max(sizes))
        below = max((size for size in sizes if size <= left), default=enough)
        chosen.append(enough if enough - left <= MOST_WASTE * enough else below)
        left -= chosen[-1]
    return chosen
