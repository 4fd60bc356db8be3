"""Feature spaces of pictures, and the Frechet distance from the training pictures in each.

A distance is named after its features, and none is FID: no Inception network is involved. Only equal numbers of
pictures compare.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import numpy as np

from autotuner.diffusion.data import Dataset, resize
from autotuner.diffusion.quality.frechet import frechet, statistics

NAME = "frechet_pca64"
COMPONENTS = 64
FIT_IMAGES = 8192
LARGEST_EDGE = 32
"""Larger pictures are area-averaged before their components are computed: 64 px in colour would be 12,288 dimensions."""
CHOICES = ("pca64", "classifier")


class Features(ABC):
    """Pictures as points: what ``project`` must do, and the distance that follows from it."""

    metric: str
    """Name of the Frechet distance in this space."""

    def __init__(self, images: np.ndarray) -> None:
        self._fitted = images[:FIT_IMAGES]

    @abstractmethod
    def project(self, images: np.ndarray) -> np.ndarray:
        """Features (count, dimensions) of uint8 images (count, height, width, channels)."""

    @cached_property
    def _statistics(self) -> tuple[np.ndarray, np.ndarray]:
        return statistics(self.project(self._fitted))

    def distance(self, images: np.ndarray) -> float:
        """Frechet distance of uint8 images from the first FIT_IMAGES training images."""
        return frechet(*statistics(self.project(images)), *self._statistics)


class PrincipalComponents(Features):
    """Pixels projected on the main directions of the training images."""

    metric = NAME

    def __init__(self, images: np.ndarray, components: int = COMPONENTS) -> None:
        super().__init__(images)
        pixels = _flat(self._fitted)
        self._mean = pixels.mean(axis=0)
        self._basis = _directions(pixels - self._mean, min(components, len(pixels) - 1))

    def project(self, images: np.ndarray) -> np.ndarray:
        """Features (count, components) of uint8 images."""
        return np.asarray((_flat(images) - self._mean) @ self._basis)


def _flat(images: np.ndarray) -> np.ndarray:
    if images.shape[1] > LARGEST_EDGE:
        images = resize(images, LARGEST_EDGE)
    values = images.reshape(len(images), -1).astype(np.float64)
    return np.asarray(values / 127.5 - 1 if images.dtype == np.uint8 else values)  # floats are latents


def _directions(centred: np.ndarray, components: int) -> np.ndarray:
    """The main directions (pixels, components), from whichever product of ``centred`` with itself is smaller."""
    count, pixels = centred.shape
    if count >= pixels:
        return np.asarray(np.linalg.eigh(centred.T @ centred / count)[1][:, ::-1][:, :components])
    vectors = centred.T @ np.linalg.eigh(centred @ centred.T)[1][:, ::-1][:, :components]
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=0), 1e-12))


def find(choice: str, dataset: Dataset) -> Features:
    """The feature space ``choice`` (one of CHOICES) for a dataset, fitted on its training images.

    ``classifier`` means the trained network of this very dataset; where there is none it is ``pca64`` again, and its
    ``metric`` says so. Raises ArtefactError where the network's file is not the one that belongs here.
    """
    from autotuner.diffusion.quality.classifier import Classifier
    from autotuner.diffusion.quality.weights import of_dataset

    name = of_dataset(dataset) if choice == "classifier" else None
    return PrincipalComponents(dataset.images) if name is None else Classifier(name, dataset.images)


def metric_name(choice: str, dataset: Dataset) -> str:
    """The name of the distance that ``find`` would give, without computing anything."""
    from autotuner.diffusion.quality.weights import TRAINED, of_dataset

    name = of_dataset(dataset) if choice == "classifier" else None
    return NAME if name is None else TRAINED[name].metric
