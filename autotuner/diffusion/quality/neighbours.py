"""Precision, recall, density and coverage: who lies within reach of whose nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autotuner.diffusion.quality.sets import require_comparable

NEIGHBOURS = 5
"""k everywhere here: Naeem et al. 2020 use 5; Kynkaanniemi et al. 2019 use 3 with 50,000 pictures, which is noisy with few."""


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """Shares; density alone may pass 1."""

    precision: float
    """Generated pictures that lie where real ones do (Kynkaanniemi et al. 2019, Eq. 1 and 2): are they good?"""
    recall: float
    """Real pictures that lie where generated ones do (the same, sets swapped): are they various?"""
    density: float
    """Real neighbourhoods that a generated picture lies in, over k (Naeem et al. 2020, Sec. 3.1): outliers count for less."""
    coverage: float
    """Real pictures whose neighbourhood holds a generated one (Naeem et al. 2020, Sec. 3.2)."""


def neighbourhood(generated: np.ndarray, real: np.ndarray, k: int = NEIGHBOURS) -> Neighbourhood:
    """All four of features (count, dimensions); raises ComparisonError for unequal counts or not more than k pictures."""
    require_comparable(generated, real, least=k + 1)
    between = _distances(generated, real)
    in_real = between <= _reach(real, k)[None, :]
    in_generated = between <= _reach(generated, k)[:, None]
    return Neighbourhood(
        precision=float(in_real.any(axis=1).mean()),
        recall=float(in_generated.any(axis=0).mean()),
        density=float(in_real.sum() / (k * len(generated))),
        coverage=float(in_real.any(axis=0).mean()),
    )


def _reach(features: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each row from its k-th nearest other row."""
    return np.sort(_distances(features, features), axis=1)[:, k]


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.maximum(np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)[None, :] - 2 * a @ b.T, 0)
