"""Samplers that remember nothing between steps: Euler, DDIM with and without fresh noise, Heun."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autotuner.diffusion.blas import mx
from autotuner.diffusion.solvers.walk import DenoiseFn, Step, Watch, at, unwatched, walk
from autotuner.errors import ConfigurationError


def euler(denoise: DenoiseFn, x: mx.array, sigmas: Sequence[float], *, watch: Watch = unwatched) -> mx.array:
    """Euler's method on dx/dsigma = (x - D) / sigma (Karras et al. 2022, Algorithm 1 without lines 4 and 6-8); order 1."""
    for index, sigma, following in walk(sigmas):
        denoised = at(denoise, x, sigma)
        x = denoised + (following / sigma) * (x - denoised)
        mx.eval(x)
        watch(Step(index + 1, len(sigmas) - 1, sigma, following, x, denoised))
    return x


def ddim(
    denoise: DenoiseFn,
    x: mx.array,
    sigmas: Sequence[float],
    *,
    eta: float = 0.0,
    key: mx.array | None = None,
    watch: Watch = unwatched,
) -> mx.array:
    """DDIM (Song, Meng and Ermon 2021, Eq. 12 and 16), which is ``euler`` for ``eta`` 0 and ancestral sampling (DDPM) for 1.

    In these coordinates Eq. 16 reads: fresh noise of deviation eta s' sqrt(1 - s'^2 / s^2) for a step from s to s'.
    ``key`` seeds that noise, one split for each step. ConfigurationError for ``eta`` outside [0, 1] or above 0 without a key.
    """
    if not 0 <= eta <= 1 or (eta > 0 and key is None):
        raise ConfigurationError(
            f"eta {eta} of ddim, key {'missing' if key is None else 'given'}: allowed are 0 to 1, above 0 with a key"
        )
    if key is None or eta == 0:
        return euler(denoise, x, sigmas, watch=watch)
    keys = mx.random.split(key, len(sigmas) - 1)
    for index, sigma, following in walk(sigmas):
        denoised = at(denoise, x, sigma)
        fresh = eta * following * math.sqrt(1 - (following / sigma) ** 2)
        kept = math.sqrt(following**2 - fresh**2)
        x = denoised + (kept / sigma) * (x - denoised) + fresh * mx.random.normal(x.shape, key=keys[index])
        mx.eval(x)
        watch(Step(index + 1, len(sigmas) - 1, sigma, following, x, denoised))
    return x


def heun(denoise: DenoiseFn, x: mx.array, sigmas: Sequence[float], *, watch: Watch = unwatched) -> mx.array:
    """Heun (Karras et al. 2022, Algorithm 1 without churn); order 2, two evaluations a step but the last to 0."""
    for index, sigma, following in walk(sigmas):
        denoised = at(denoise, x, sigma)
        slope = (x - denoised) / sigma
        ahead = x + (following - sigma) * slope
        if following > 0:
            slope = (slope + (ahead - at(denoise, ahead, following)) / following) / 2
            ahead = x + (following - sigma) * slope
        x = ahead
        mx.eval(x)
        watch(Step(index + 1, len(sigmas) - 1, sigma, following, x, denoised))
    return x
