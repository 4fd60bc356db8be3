"""The penultimate layer of a trained network as a feature space."""

from __future__ import annotations

import numpy as np

from autotuner.diffusion.blas import mx
from autotuner.diffusion.data import resize
from autotuner.diffusion.features import Features
from autotuner.diffusion.loss import to_model
from autotuner.diffusion.quality.weights import TRAINED, load

CHUNK = 256


class Classifier(Features):
    """Features of the network that was trained for one dataset; pictures of another size are area-averaged to its edge."""

    def __init__(self, name: str, images: np.ndarray) -> None:
        super().__init__(images)
        self.metric = TRAINED[name].metric
        self._network, self._head = load(name)

    def project(self, images: np.ndarray) -> np.ndarray:
        """Features (count, FEATURES) of uint8 images, each about 0 in mean and 1 in variance over the training images."""
        return np.concatenate([self._project(images[start : start + CHUNK]) for start in range(0, len(images), CHUNK)])

    def classify(self, features: np.ndarray) -> np.ndarray | None:
        """The class that the network sees in each row of features; None where it knows no classes."""
        if self._head is None:
            return None
        return np.array(self._head(mx.array(features.astype(np.float32))).argmax(axis=1))

    def _project(self, images: np.ndarray) -> np.ndarray:
        edge = self._network.edge
        fitting = images if images.shape[1] == edge else resize(images, edge)
        return np.array(self._network(to_model(mx.array(fitting)))).astype(np.float64)
