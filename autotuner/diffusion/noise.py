"""Noise levels: where training draws them (named densities as tables) and the grid that sampling walks down."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from autotuner.diffusion import betas
from autotuner.diffusion.blas import mx

BINS = 20
LN_SIGMA_MIN, LN_SIGMA_MAX = math.log(0.01), math.log(40.0)
FLOOR = 0.2 / BINS
"""Least probability of a bin, so that no noise level starves: a fifth of every density is uniform in ln sigma."""


Shape = Callable[[np.ndarray], np.ndarray]
"""An unnormalised density over ln sigma."""


def _normal(mean: float, deviation: float) -> Shape:
    return lambda u: np.exp(-0.5 * ((u - mean) / deviation) ** 2)


@dataclass(frozen=True)
class Reference:
    """The density over ln sigma whose expected loss a training minimises, and the levels that it reaches."""

    shape: Shape
    low: float = LN_SIGMA_MIN
    high: float = LN_SIGMA_MAX


P_MEAN, P_STD = -1.0, 1.2
LOG_NORMAL = Reference(_normal(P_MEAN, P_STD))
"""ln sigma ~ N(-1.0, 1.2) (Karras et al. 2022, Table 1, with a little less noise for small images)."""
LOGIT_NORMAL = Reference(_normal(0.0, 1.0))
"""t ~ logit-normal(0, 1) (Esser et al. 2024, Sec. 3.1): the logit of t = sigma / (1 + sigma) is ln sigma."""


def uniform_timesteps(schedule: str) -> Reference:
    """Every step of a beta schedule equally often (Ho et al. 2020, Algorithm 1), as a density over ln sigma."""
    levels = np.log(betas.sigmas(schedule))
    slope = np.gradient(np.arange(len(levels)), levels)
    return Reference(lambda u: np.interp(u, levels, slope, left=0.0, right=0.0), float(levels[0]), float(levels[-1]))


def reference(process: str, beta_schedule: str) -> Reference:
    """What the process draws unless the knob says otherwise."""
    if process.startswith("vp_"):
        return uniform_timesteps(beta_schedule)
    return LOGIT_NORMAL if process == "flow" else LOG_NORMAL


@dataclass(frozen=True)
class Density:
    """One row of the table: a named change of the reference."""

    name: str
    shift: float | None
    """Added to ln sigma; None: no shape at all."""
    sentence: str


DENSITIES: tuple[Density, ...] = (
    Density("lognormal", 0.0, "the process's own density and FLOOR: the reference that the loss is corrected to"),
    Density("low_noise", -0.7, "more small noise levels: fine detail"),
    Density("high_noise", 0.7, "more large noise levels: global structure"),
    Density("uniform", None, "every ln sigma equally often"),
)
"""The knob timestep_density is an index into this table: append, never reorder. Students draw times, not levels."""


def probabilities(index: int, base: Reference = LOG_NORMAL) -> np.ndarray:
    """Probability of each ln-sigma bin under the density at ``index``, none below FLOOR."""
    edges = np.linspace(base.low, base.high, BINS + 1)
    shift = DENSITIES[index].shift
    raw = np.ones(BINS) if shift is None else base.shape((edges[:-1] + edges[1:]) / 2 - shift)
    return np.asarray(FLOOR + (1 - FLOOR * BINS) * raw / raw.sum())


def importance(index: int, base: Reference = LOG_NORMAL) -> np.ndarray:
    """Weight p_reference / p_drawn of each bin: the expected loss is the reference's, whatever the density."""
    return probabilities(0, base) / probabilities(index, base)


def draw_sigma(
    key: mx.array, count: int, cumulative: mx.array, weights: mx.array, scale: mx.array, base: Reference = LOG_NORMAL
) -> tuple[mx.array, mx.array]:
    """Draw ``count`` noise levels and their importance weights from a density given as arrays (no retrace on change).

    Levels are stratified over the batch; ``scale`` is the resolution's (see ``resolution_scale``).
    """
    u = (mx.arange(count) + mx.random.uniform(shape=(count,), key=key)) / count
    bin_index = mx.minimum(mx.sum(u[:, None] >= cumulative[None, :], axis=1), BINS - 1)
    lower = mx.where(bin_index > 0, cumulative[mx.maximum(bin_index - 1, 0)], 0.0)
    within = (u - lower) / (cumulative[bin_index] - lower)
    width = (base.high - base.low) / BINS
    return mx.exp(base.low + width * (bin_index + within)) * scale, weights[bin_index]


def resolution_scale(resolution: float, full_resolution: int) -> float:
    """Factor on sigma that keeps the signal-to-noise ratio of an area-averaged image: noise averages out with sqrt(pixels)."""
    return resolution / full_resolution


def shifted_time(time: np.ndarray, shift: float) -> np.ndarray:
    """Flow time of a picture with ``shift``^2 times the pixels: t' = s t / (1 + (s - 1) t) (Esser et al. 2024, Sec. 5.3.2).

    With sigma = t / (1 - t) this is sigma' = s sigma: the same as ``resolution_scale``.
    """
    return shift * time / (1 + (shift - 1) * time)


def reference_sigmas(bins: int = 10) -> np.ndarray:
    """``bins`` equally probable levels of the log-normal reference: medians of its deciles when ``bins`` is 10."""
    grid = np.linspace(P_MEAN - 5 * P_STD, P_MEAN + 5 * P_STD, 20001)
    cumulative = np.cumsum(LOG_NORMAL.shape(grid))
    return np.exp(np.interp((np.arange(bins) + 0.5) / bins, cumulative / cumulative[-1], grid))


def rho_schedule(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> np.ndarray:
    """``steps`` levels from sigma_max down to sigma_min, then 0 (Karras et al. 2022, Eq. 5)."""
    ramp = np.linspace(0, 1, steps) if steps > 1 else np.zeros(1)
    top, bottom = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return np.append((top + ramp * (bottom - top)) ** rho, 0.0)


def sigma_of_time(time: mx.array, sigma_min: float, sigma_max: float, rho: float = 7.0) -> mx.array:
    """The same curve as a function of time in [0, 1]: 0 is no noise at all, just above it sigma_min, 1 is sigma_max."""
    top, bottom = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return mx.where(time > 0, mx.power(bottom + mx.maximum(time, 0.0) * (top - bottom), rho), 0.0)
