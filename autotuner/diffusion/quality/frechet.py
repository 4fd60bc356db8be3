"""Frechet distance: how far two Gaussians are that have the means and covariances of two sets of features."""

from __future__ import annotations

import numpy as np

from autotuner.diffusion.quality.sets import require_comparable


def frechet_distance(generated: np.ndarray, real: np.ndarray) -> float:
    """Distance of two sets of features (count, dimensions), equal in number; biased upwards as dimensions / count.

    Raises ComparisonError. Only values of the same features and the same count compare.
    """
    require_comparable(generated, real, least=2)
    return frechet(*statistics(generated), *statistics(real))


def statistics(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance."""
    return features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False))


def frechet(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)): squared Wasserstein-2 distance (Dowson and Landau 1982).

    Heusel et al. 2017, Eq. 6, take it of Inception's features; on any others the number has another name and scale.
    """
    root_a = _root(cov_a)
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root_a @ cov_b @ root_a), 0)).sum()
    return float(np.square(mean_a - mean_b).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T)
