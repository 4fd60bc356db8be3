"""The pictures of one optimizer step as a pure function of what the step asks for: prepared ahead of it, off the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from autotuner.diffusion.data import Dataset
from autotuner.diffusion.multires import Shown, View, show


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one step asks for."""

    first_image: int
    """Images of the run before it."""
    count: int
    step: int
    views: tuple[View, ...]
    """Consecutive parts of the batch."""


class Given(NamedTuple):
    """What it gets."""

    labels: np.ndarray
    """(count,), in the order of the views."""
    shown: list[Shown]
    """The pictures of each view."""
    weights: np.ndarray
    """float32 (count,): 0 for a picture that only fills up the shape."""


def preparing(dataset: Dataset, seed: int, full: int, patch: int) -> Callable[[Wanted], Given]:
    """What prepares the steps of one training; ``full`` is the edge of a whole picture, ``patch`` that of a token."""

    def prepare(wanted: Wanted) -> Given:
        generator = np.random.default_rng([seed, wanted.step, 2])
        first, labels, shown, weights = wanted.first_image, [], [], []
        for view in wanted.views:
            batch = dataset.batch(first, view.count(wanted.count), seed, full if view.crop else view.edge)
            labels.append(batch.labels)
            weights.append(batch.weights)
            shown.append(show(view, batch.images, full, patch, generator))
            first += len(batch.labels)
        return Given(np.concatenate(labels), shown, np.concatenate(weights))

    return prepare
