"""The real pictures that samples are compared with: several draws, each of training and of held-out pictures of its own."""

from __future__ import annotations

import hashlib
from functools import cached_property

import numpy as np

from autotuner.diffusion import features
from autotuner.diffusion.data import Dataset
from autotuner.diffusion.evaluation import CHOICE_SEED
from autotuner.diffusion.features import Features
from autotuner.diffusion.quality.classifier import Classifier
from autotuner.diffusion.quality.frechet import frechet_distance
from autotuner.diffusion.quality.kernel import kernel_distance
from autotuner.diffusion.sample import to_pixels


class References:
    """``seeds`` draws of ``images`` pictures; where a dataset has fewer than that in all, later draws repeat earlier ones."""

    def __init__(self, dataset: Dataset, images: int, seeds: int) -> None:
        self.dataset, self.images, self.seeds = dataset, images, seeds
        self._chosen = _cut(np.random.default_rng(CHOICE_SEED).permutation(len(dataset.images)), images, seeds)
        self._held_out = _cut(np.arange(len(dataset.held_out_images)), images, seeds)

    @property
    def disjoint(self) -> bool:
        """Whether no training picture is in two draws."""
        return self.images * self.seeds <= len(self.dataset.images)

    @property
    def metric(self) -> str:
        """Name of the Frechet distance."""
        return features.metric_name("classifier", self.dataset)

    def labels(self, draw: int) -> np.ndarray:
        """Of the training pictures, (images,): what samples are asked for."""
        return self.dataset.labels[self._chosen[draw]]

    def compare(self, solutions: np.ndarray, draw: int) -> tuple[float, float, float]:
        """Frechet distance, kernel distance and class agreement of solutions (images, height, width, channels).

        Class agreement is the share in which the classifier sees the label; NaN without classes.
        """
        found = self._space.project(to_pixels(solutions) if self.dataset.images.dtype == np.uint8 else solutions)
        seen = self._space.classify(found) if isinstance(self._space, Classifier) else None
        return *self._distances(found, draw), np.nan if seen is None else float((seen == self.labels(draw)).mean())

    def floor(self, draw: int) -> tuple[float, float]:
        """Frechet and kernel distance of held-out pictures, with the labels that they happen to have.

        Samples have exactly those of the training pictures: of few pictures, good ones may come out below this.
        """
        return self._distances(self._space.project(self.dataset.held_out_images[self._held_out[draw]]), draw)

    def identity(self, draw: int) -> str:
        """Which pictures, compared by which features."""
        pictures = hashlib.sha256(self.dataset.images[self._chosen[draw]].tobytes())
        pictures.update(self.dataset.held_out_images[self._held_out[draw]].tobytes())
        return f"{self.images} pictures {pictures.hexdigest()[:16]} by {self.metric}"

    @cached_property
    def _space(self) -> Features:
        return features.find("classifier", self.dataset)

    @cached_property
    def _real(self) -> list[np.ndarray]:
        return [self._space.project(self.dataset.images[chosen]) for chosen in self._chosen]

    def _distances(self, found: np.ndarray, draw: int) -> tuple[float, float]:
        return frechet_distance(found, self._real[draw]), kernel_distance(found, self._real[draw]).value


def _cut(order: np.ndarray, images: int, draws: int) -> np.ndarray:
    """Rows of ``images`` indices, one after the other, from the beginning again where they run out."""
    return np.resize(order, (draws, images))
