"""Grids of noise levels for samplers: each one function (steps, sigma_min, sigma_max) -> levels that fall and end at 0.

The result has ``steps`` + 1 entries: ``steps`` levels from sigma_max to sigma_min (only sigma_max for one step), then 0.
``sigmas[:-1]`` is a grid that stops at sigma_min. The grids named uniform spend no step on sigma_min: they are even down to 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from autotuner.diffusion.noise import rho_schedule
from autotuner.errors import ConfigurationError

BETA_MIN, BETA_MAX = 0.1, 20.0
"""The linear VP schedule beta(t) = BETA_MIN + t (BETA_MAX - BETA_MIN) of Song et al. 2021, Appendix C."""
SIGMA_DATA = 0.5
"""Deviation of the data that ``arctan`` supposes (Karras et al. 2022)."""


class Schedule(Protocol):
    """A grid for a number of steps; ConfigurationError unless steps >= 1 and 0 < sigma_min < sigma_max."""

    def __call__(self, steps: int, sigma_min: float, sigma_max: float) -> np.ndarray:
        """Levels as float64, shape (steps + 1,)."""
        ...


def rho(steps: int, sigma_min: float, sigma_max: float, *, rho: float = 7.0) -> np.ndarray:
    """Even steps in sigma^(1/rho) (Karras et al. 2022, Eq. 5); 1 is even in sigma."""
    _check(steps, sigma_min, sigma_max)
    return rho_schedule(steps, sigma_min, sigma_max, rho)


def karras(steps: int, sigma_min: float, sigma_max: float) -> np.ndarray:
    """``rho`` at the paper's 7."""
    return rho(steps, sigma_min, sigma_max)


def log_snr(steps: int, sigma_min: float, sigma_max: float) -> np.ndarray:
    """Even steps in the log signal-to-noise ratio -2 ln sigma (Lu et al. 2022, Section 6)."""
    return _even(steps, sigma_min, sigma_max, np.log, np.exp)


def vp_time(steps: int, sigma_min: float, sigma_max: float) -> np.ndarray:
    """Even steps in the time of the linear VP diffusion: sigma(t)^2 = exp(BETA_MIN t + (BETA_MAX - BETA_MIN) t^2 / 2) - 1."""
    return _even(steps, sigma_min, sigma_max, _vp_time_of_sigma, _vp_sigma_of_time)


def arctan(steps: int, sigma_min: float, sigma_max: float, *, sigma_data: float = SIGMA_DATA) -> np.ndarray:
    """Even steps in arctan(sigma / sigma_data), in which the score of Gaussian data turns evenly (Sabour et al. 2024)."""
    return _even(steps, sigma_min, sigma_max, lambda s: np.arctan(s / sigma_data), lambda a: sigma_data * np.tan(a))


def uniform(steps: int, sigma_min: float, sigma_max: float) -> np.ndarray:
    """Even steps in cosine time arctan sigma, down to 0 (Salimans and Ho 2022, Section 2); ``sigma_min`` is only checked."""
    _check(steps, sigma_min, sigma_max)
    return np.append(np.tan(np.linspace(np.arctan(sigma_max), 0, steps + 1)[:-1]), 0.0)


def vp_uniform(steps: int, sigma_min: float, sigma_max: float) -> np.ndarray:
    """Even steps in the time of the linear VP diffusion, down to 0; ``sigma_min`` is only checked."""
    _check(steps, sigma_min, sigma_max)
    top = float(_vp_time_of_sigma(np.array(sigma_max, dtype=np.float64)))
    return np.append(_vp_sigma_of_time(np.linspace(top, 0, steps + 1)[:-1]), 0.0)


SCHEDULES: dict[str, Schedule] = {
    "rho": rho,
    "karras": karras,
    "log_snr": log_snr,
    "vp_time": vp_time,
    "arctan": arctan,
    "uniform": uniform,
    "vp_uniform": vp_uniform,
}

Warp = Callable[[np.ndarray], np.ndarray]


def _even(steps: int, sigma_min: float, sigma_max: float, warp: Warp, unwarp: Warp) -> np.ndarray:
    _check(steps, sigma_min, sigma_max)
    top, bottom = warp(np.array([sigma_max, sigma_min], dtype=np.float64))
    ramp = np.linspace(0, 1, steps) if steps > 1 else np.zeros(1)
    return np.append(unwarp(top + ramp * (bottom - top)), 0.0)


def _vp_time_of_sigma(sigma: np.ndarray) -> np.ndarray:
    slope = BETA_MAX - BETA_MIN
    return np.asarray((np.sqrt(BETA_MIN**2 + 2 * slope * np.log1p(sigma**2)) - BETA_MIN) / slope)


def _vp_sigma_of_time(time: np.ndarray) -> np.ndarray:
    return np.asarray(np.sqrt(np.expm1(BETA_MIN * time + (BETA_MAX - BETA_MIN) * time**2 / 2)))


def _check(steps: int, sigma_min: float, sigma_max: float) -> None:
    if steps < 1 or not 0 < sigma_min < sigma_max < np.inf:
        raise ConfigurationError(
            f"schedule of {steps} steps from {sigma_max} to {sigma_min}: allowed are 1 or more, with 0 < sigma_min < sigma_max"
        )
