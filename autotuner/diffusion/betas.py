"""Variance-preserving beta schedules as tables of 1,000 steps, and the way between a step and sigma = sqrt(1 / abar - 1)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from autotuner.diffusion.blas import mx
from autotuner.errors import ConfigurationError

STEPS = 1000
MAX_BETA = 0.999


def linear(start: float = 1e-4, end: float = 0.02) -> np.ndarray:
    """Equal steps in beta (Ho et al. 2020, Sec. 4)."""
    return np.linspace(start, end, STEPS)


def scaled_linear(start: float = 0.00085, end: float = 0.012) -> np.ndarray:
    """Equal steps in sqrt(beta): latent diffusion (Rombach et al. 2022)."""
    return np.square(np.linspace(math.sqrt(start), math.sqrt(end), STEPS))


def cosine(offset: float = 0.008) -> np.ndarray:
    """Cumulated signal cos^2((t + s) / (1 + s) pi / 2), beta at most MAX_BETA (Nichol and Dhariwal 2021, Eq. 17)."""
    signal = np.cos((np.arange(STEPS + 1) / STEPS + offset) / (1 + offset) * math.pi / 2) ** 2
    return np.minimum(1 - signal[1:] / signal[:-1], MAX_BETA)


BETAS: dict[str, Callable[..., np.ndarray]] = {"linear": linear, "scaled_linear": scaled_linear, "cosine": cosine}


def sigmas(schedule: str, **parameters: float) -> np.ndarray:
    """Noise level of each step in the coordinates x = y + sigma n, ascending, float64 (STEPS,).

    ``parameters`` are those of the schedule's function. Raises ConfigurationError for an unknown schedule.
    """
    if schedule not in BETAS:
        raise ConfigurationError(f"beta_schedule {schedule!r}; allowed: {', '.join(BETAS)}")
    kept = np.cumprod(1 - BETAS[schedule](**parameters))
    return np.asarray(np.sqrt((1 - kept) / kept))


def timestep_of_sigma(sigma: mx.array, ln_table: mx.array) -> mx.array:
    """Fractional step 0 to STEPS - 1 of each noise level, linear in ln sigma between two steps, held at the ends.

    ``ln_table`` are the logarithms of ``sigmas(...)``.
    """
    ln_sigma = mx.log(mx.maximum(sigma, 1e-10))
    below = mx.sum(ln_sigma[..., None] >= ln_table, axis=-1) - 1
    low = mx.clip(below, 0, STEPS - 2)
    bottom, top = ln_table[low], ln_table[low + 1]
    return low + mx.clip((ln_sigma - bottom) / (top - bottom), 0.0, 1.0)


def sigma_of_timestep(step: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The inverse of ``timestep_of_sigma``, for steps in [0, STEPS - 1]; ``table`` is what ``sigmas`` answers."""
    return np.exp(np.interp(step, np.arange(STEPS), np.log(table)))
