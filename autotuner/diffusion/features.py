"""Distance between image sets on named features: Frechet distance on the 64 first principal components of the pixels.

It is called frechet_pca64, not FID: no Inception network is involved, and only equal numbers of images compare.
"""

from __future__ import annotations

import numpy as np

NAME = "frechet_pca64"
COMPONENTS = 64
FIT_IMAGES = 8192


class PrincipalComponents:
    """Pixels projected on the main directions of the training images, and the statistics of those images there."""

    def __init__(self, images: np.ndarray, components: int = COMPONENTS) -> None:
        pixels = _flat(images[:FIT_IMAGES])
        self._mean = pixels.mean(axis=0)
        centred = pixels - self._mean
        _, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
        self._basis = vectors[:, ::-1][:, : min(components, len(pixels) - 1)]
        self._statistics = statistics(self.project(images[:FIT_IMAGES]))

    def project(self, images: np.ndarray) -> np.ndarray:
        """Features (count, components) of uint8 images."""
        return np.asarray((_flat(images) - self._mean) @ self._basis)

    def distance(self, images: np.ndarray) -> float:
        """Frechet distance of uint8 images from the training images."""
        return frechet(*statistics(self.project(images)), *self._statistics)


def _flat(images: np.ndarray) -> np.ndarray:
    return np.asarray(images.reshape(len(images), -1).astype(np.float64) / 127.5 - 1)


def statistics(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance."""
    return features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False))


def frechet(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)): squared Wasserstein-2 distance of two Gaussians."""
    root_a = _root(cov_a)
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root_a @ cov_b @ root_a), 0)).sum()
    return float(np.square(mean_a - mean_b).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T)
