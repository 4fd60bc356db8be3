"""Averages of weights: the exponential one, its horizon in images, and the power-function ones of post-hoc EMA."""

from __future__ import annotations

import math

import numpy as np

from autotuner.diffusion.blas import mx

SIGMA_RELS = (0.05, 0.10)
"""Relative widths of the two power-function averages that a training keeps (Karras et al. 2024, Sec. 3.1)."""


def decay(images_seen: float, batch: int, half_life_images: float, ramp_up: float = 0.05) -> float:
    """Decay beta of one step; early in training the half-life is at most ``ramp_up`` of the images seen."""
    horizon = min(half_life_images, max(images_seen, batch) * ramp_up)
    return float(0.5 ** (batch / horizon))


def update(average: mx.array, weights: mx.array, beta: mx.array) -> mx.array:
    """beta * average + (1 - beta) * weights."""
    return weights + beta * (average - weights)


def exponent(sigma_rel: float) -> float:
    """gamma of the profile tau^gamma whose standard deviation is ``sigma_rel`` of the training so far.

    The positive root of sigma_rel^2 (gamma + 2)^2 (gamma + 3) = gamma + 1 (Karras et al. 2024, Sec. 3.1). Raises ValueError
    where there is none: a uniform average already has sigma_rel = 1 / sqrt(12).
    """
    if not 0 < sigma_rel < 1 / math.sqrt(12):
        raise ValueError(f"sigma_rel {sigma_rel!r}; allowed is more than 0 and less than {1 / math.sqrt(12):.4f}")
    inverse = sigma_rel**-2
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    return float(roots.real.max())


def power_decay(updates: mx.array, gamma: float) -> mx.array:
    """Decay of the ``updates``-th update, (1 - 1 / t)^(gamma + 1): 0 at the first (Karras et al. 2024, Sec. 3.1)."""
    return mx.power(1 - 1 / updates, gamma + 1)
