"""Diffusion processes as a table: how each one turns a network F into a denoiser D(x, sigma).

All of them are written in the coordinates x = y + sigma n (Karras et al. 2022, Eq. 7): D = c_skip x + c_out F(c_in x; c_noise).
The adapters are exact: the variance-preserving x is x / sqrt(1 + sigma^2), and flow matching's x_t = (1 - t) y + t n is
x / (1 + sigma) with t = sigma / (1 + sigma).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import mlx.nn as nn
import numpy as np

from autotuner.diffusion import betas
from autotuner.diffusion.blas import mx
from autotuner.errors import ConfigurationError

TIMESTEPS = 1000
"""Networks of diffusers count noise levels in thousandths; ``Process.of_order_one`` divides by it."""

Coefficient = Callable[[mx.array, float], mx.array]
"""A function of sigma (any shape) and of the data's standard deviation."""


def c_skip(sigma: mx.array, sigma_data: float) -> mx.array:
    """Share of the noisy input in the output (Karras et al. 2022, Table 1)."""
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


def _one(sigma: mx.array, sigma_data: float) -> mx.array:
    return mx.ones_like(sigma)


def _vp_scale(sigma: mx.array, sigma_data: float) -> mx.array:
    return mx.rsqrt(1 + mx.square(sigma))


def _flow_scale(sigma: mx.array, sigma_data: float) -> mx.array:
    return 1 / (1 + sigma)


def _vp_timestep(schedule: str, **parameters: float) -> Callable[[mx.array], mx.array]:
    table = mx.array(np.log(betas.sigmas(schedule, **parameters)).astype(np.float32))
    return lambda sigma: betas.timestep_of_sigma(sigma, table)


@dataclass(frozen=True)
class Process:
    """One row of the table."""

    name: str
    c_skip: Coefficient
    c_out: Coefficient
    c_in: Coefficient
    c_noise: Callable[[mx.array], mx.array]
    sentence: str

    def of_order_one(self) -> Process:
        """The same process for networks of this package, which take levels of order one instead of timesteps."""
        if self.name == "edm":
            return self
        native = self.c_noise
        return replace(self, c_noise=lambda sigma: native(sigma) / TIMESTEPS)


PROCESSES: dict[str, Process] = {
    row.name: row
    for row in (
        Process("edm", c_skip, c_out, c_in, c_noise, "Karras et al. 2022, Table 1: unit variance in and out"),
        Process(
            "vp_epsilon",
            _one,
            lambda sigma, _: -sigma,
            _vp_scale,
            _vp_timestep("linear"),
            "F predicts the noise n (Ho et al. 2020): D = x - sigma F",
        ),
        Process(
            "vp_v",
            lambda sigma, _: 1 / (1 + mx.square(sigma)),
            lambda sigma, data: -sigma * _vp_scale(sigma, data),
            _vp_scale,
            _vp_timestep("linear"),
            "F predicts v = alpha n - sigma_vp y (Salimans and Ho 2022, App. D)",
        ),
        Process(
            "flow",
            _flow_scale,
            lambda sigma, data: -sigma * _flow_scale(sigma, data),
            _flow_scale,
            lambda sigma: TIMESTEPS * sigma / (1 + sigma),
            "F predicts the velocity n - y of x_t = (1 - t) y + t n (Lipman et al. 2023; Esser et al. 2024)",
        ),
    )
}


def find_process(name: str, beta_schedule: str = "linear", **beta_parameters: float) -> Process:
    """The row called ``name``; the variance-preserving ones tell the network steps of ``beta_schedule``.

    Raises ConfigurationError for an unknown process or schedule.
    """
    if name not in PROCESSES:
        raise ConfigurationError(f"process {name!r}; allowed: {', '.join(PROCESSES)}")
    if not name.startswith("vp_"):
        return PROCESSES[name]
    return replace(PROCESSES[name], c_noise=_vp_timestep(beta_schedule, **beta_parameters))


class Denoiser(nn.Module):
    """D(x, sigma, label) = c_skip x + c_out F(c_in x; c_noise, label) around any network F of this package."""

    def __init__(self, network: nn.Module, sigma_data: float, process: Process = PROCESSES["edm"]) -> None:
        super().__init__()
        self.network = network
        self.sigma_data = sigma_data
        self.process = process
        self.dtype = mx.float32
        """What the network computes in; coefficients, noise levels and the result stay in float32."""

    def __call__(self, x: mx.array, sigma: mx.array, label: mx.array, *centres: mx.array) -> mx.array:
        """Denoise images (batch, height, width, channels) whose noise has standard deviation ``sigma`` (batch,).

        Crops come with the ``centres`` of their tokens (see ``dit.DiT``).
        """
        level, process = sigma.reshape(-1, 1, 1, 1), self.process
        seen = (process.c_in(level, self.sigma_data) * x).astype(self.dtype)
        output = self.network(seen, process.c_noise(sigma), label, *centres).astype(mx.float32)
        return process.c_skip(level, self.sigma_data) * x + process.c_out(level, self.sigma_data) * output
