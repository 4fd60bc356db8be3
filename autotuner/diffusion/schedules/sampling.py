"""Images by a table: the same noise, labels and pixels as ``diffusion.sample`` draws them from a solver and a grid."""

from __future__ import annotations

from functools import partial

import numpy as np

from autotuner.diffusion.blas import mx
from autotuner.diffusion.sample import CHUNK, Network, to_pixels
from autotuner.diffusion.solvers.generalised import Table, follow


def noises(count: int, shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """Noise of deviation 1, float32 (count, height, width, channels): what ``sample.solve`` draws for the same seed."""
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


def solve(denoiser: Network, labels: np.ndarray, noise: np.ndarray, table: Table) -> np.ndarray:
    """float32 images, one for each label and noise (of deviation 1), about in [-1, 1]."""
    parts = []
    for start in range(0, len(labels), CHUNK):
        some = slice(start, start + CHUNK)
        x = mx.array(noise[some]) * table.sigma_max
        parts.append(np.array(follow(told(denoiser, labels[some]), x, table).astype(mx.float32)))
    return np.concatenate(parts)


def generate(denoiser: Network, labels: np.ndarray, shape: tuple[int, int, int], table: Table, seed: int) -> np.ndarray:
    """uint8 images; a network of latents decodes them itself."""
    return decoded(denoiser, solve(denoiser, labels, noises(len(labels), shape, seed), table))


def decoded(denoiser: Network, images: np.ndarray) -> np.ndarray:
    """uint8 images of what was sampled, about in [-1, 1]; a network of latents decodes them itself."""
    return np.asarray(getattr(getattr(denoiser, "network", None), "decode", to_pixels)(images))


def told(denoiser: Network, labels: np.ndarray) -> partial[mx.array]:
    """D(x, sigma) for a batch of these labels."""
    return partial(_labelled, denoiser, mx.array(labels.astype(np.int32)))


def _labelled(denoiser: Network, label: mx.array, x: mx.array, sigma: mx.array) -> mx.array:
    return denoiser(x, sigma, label)
