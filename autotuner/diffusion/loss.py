"""The denoising loss, one formula for training and for the held-out measurement."""

from __future__ import annotations

import mlx.nn as nn

from autotuner.diffusion.blas import mx
from autotuner.diffusion.precondition import weight


def weighted_error(denoised: mx.array, target: mx.array, sigma: mx.array, sigma_data: float) -> mx.array:
    """lambda(sigma) * mean squared error of each image, shape (batch,) (Karras et al. 2022, Eq. 8)."""
    return weight(sigma, sigma_data) * mx.mean(mx.square(denoised - target), axis=(1, 2, 3))


def denoising_errors(denoiser: nn.Module, images: mx.array, labels: mx.array, noise: mx.array, sigma: mx.array) -> mx.array:
    """Loss of each image, shape (batch,), for given noise: deterministic, so micro-batches add up to the batch."""
    noisy = images + sigma.reshape(-1, 1, 1, 1) * noise
    return weighted_error(denoiser(noisy, sigma, labels), images, sigma, denoiser.sigma_data)


def to_model(images: mx.array) -> mx.array:
    """uint8 pixels as float32 in [-1, 1]."""
    return images.astype(mx.float32) / 127.5 - 1
