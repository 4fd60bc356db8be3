"""The denoising loss: weightings for training as a table, and the one fixed formula of the held-out measurement."""

from __future__ import annotations

from collections.abc import Callable

import mlx.nn as nn

from autotuner.diffusion.blas import mx
from autotuner.diffusion.precondition import Process, weight

GAMMA = 5.0
"""Where min-SNR stops growing (Hang et al. 2023, Sec. 3.4)."""

Weighting = Callable[[mx.array, float, Process], mx.array]
"""Weight on |D - y|^2 of noise levels (batch,), for a standard deviation of the data and a process."""


def edm(sigma: mx.array, sigma_data: float, process: Process) -> mx.array:
    """(sigma^2 + sigma_data^2) / (sigma sigma_data)^2, whatever the process (Karras et al. 2022, Eq. 8)."""
    return weight(sigma, sigma_data)


def min_snr(sigma: mx.array, sigma_data: float, process: Process) -> mx.array:
    """min(SNR, GAMMA) with SNR = 1 / sigma^2 (Hang et al. 2023, Sec. 3.4).

    In the network's own units that is min(SNR, GAMMA) / SNR on the noise and min(SNR, GAMMA) / (SNR + 1) on v.
    """
    return mx.minimum(1 / mx.square(sigma), GAMMA)


def uniform(sigma: mx.array, sigma_data: float, process: Process) -> mx.array:
    """1 / c_out^2: the plain squared error of what the network itself predicts (the L_simple of Ho et al. 2020, Eq. 14)."""
    return 1 / mx.square(process.c_out(sigma, sigma_data))


WEIGHTINGS: dict[str, Weighting] = {"edm": edm, "min_snr": min_snr, "uniform": uniform}


def denoising_errors(
    denoiser: nn.Module,
    images: mx.array,
    labels: mx.array,
    noise: mx.array,
    sigma: mx.array,
    weighting: Weighting = edm,
    centres: tuple[mx.array, ...] = (),
) -> mx.array:
    """Loss of each image, shape (batch,), for given noise: deterministic, so micro-batches add up to the batch.

    Measurements leave ``weighting`` alone, so that they compare across processes and weightings.
    """
    noisy = images + sigma.reshape(-1, 1, 1, 1) * noise
    error = mx.mean(mx.square(denoiser(noisy, sigma, labels, *centres) - images), axis=(1, 2, 3))
    return weighting(sigma, denoiser.sigma_data, denoiser.process) * error


def to_model(images: mx.array) -> mx.array:
    """uint8 pixels as float32 in [-1, 1]; floats are latents and pass as they are."""
    return images.astype(mx.float32) / 127.5 - 1 if images.dtype == mx.uint8 else images
