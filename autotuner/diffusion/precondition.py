"""EDM preconditioning: turns a network F into a denoiser D(x, sigma) (Karras et al. 2022, Table 1 and Eq. 7)."""

from __future__ import annotations

import mlx.nn as nn

from autotuner.diffusion.blas import mx


def c_skip(sigma: mx.array, sigma_data: float) -> mx.array:
    """Share of the noisy input in the output (Table 1)."""
    return sigma_data**2 / (mx.square(sigma) + sigma_data**2)


def c_out(sigma: mx.array, sigma_data: float) -> mx.array:
    """Scale of the network's output (Table 1)."""
    return sigma * sigma_data * mx.rsqrt(mx.square(sigma) + sigma_data**2)


def c_in(sigma: mx.array, sigma_data: float) -> mx.array:
    """Scale that gives the network's input unit variance (Table 1)."""
    return mx.rsqrt(mx.square(sigma) + sigma_data**2)


def c_noise(sigma: mx.array) -> mx.array:
    """What the network is told of the noise level (Table 1)."""
    return mx.log(sigma) / 4


def weight(sigma: mx.array, sigma_data: float) -> mx.array:
    """Loss weight lambda(sigma) = 1 / c_out^2, so that every level starts at loss 1 (Eq. 8)."""
    return (mx.square(sigma) + sigma_data**2) / mx.square(sigma * sigma_data)


class Denoiser(nn.Module):
    """D(x, sigma, label) = c_skip x + c_out F(c_in x; c_noise, label) around any network F of this package."""

    def __init__(self, network: nn.Module, sigma_data: float) -> None:
        super().__init__()
        self.network = network
        self.sigma_data = sigma_data

    def __call__(self, x: mx.array, sigma: mx.array, label: mx.array) -> mx.array:
        """Denoise images (batch, height, width, channels) whose noise has standard deviation ``sigma`` (batch,)."""
        level = sigma.reshape(-1, 1, 1, 1)
        output = self.network(c_in(level, self.sigma_data) * x, c_noise(sigma), label)
        return c_skip(level, self.sigma_data) * x + c_out(level, self.sigma_data) * output
