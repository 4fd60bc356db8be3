"""Samplers: each one function of one signature, on any denoiser D(x, sigma); each named after its algorithm.

Written in the variance-exploding coordinates x = y + sigma n, where dx/dsigma = (x - D) / sigma.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from autotuner.diffusion.blas import mx

DenoiseFn = Callable[[mx.array, mx.array], mx.array]
Solver = Callable[[DenoiseFn, mx.array, Sequence[float]], mx.array]


def _at(denoise: DenoiseFn, x: mx.array, sigma: float) -> mx.array:
    return denoise(x, mx.full((x.shape[0],), sigma))


def euler(denoise: DenoiseFn, x: mx.array, sigmas: Sequence[float]) -> mx.array:
    """Euler, which is DDIM in these coordinates (Song et al. 2021); order 1, one evaluation a step."""
    for sigma, following in pairwise(sigmas):
        denoised = _at(denoise, x, sigma)
        x = denoised + (following / sigma) * (x - denoised)
        mx.eval(x)
    return x


def heun(denoise: DenoiseFn, x: mx.array, sigmas: Sequence[float]) -> mx.array:
    """Heun (Karras et al. 2022, Algorithm 1 without churn); order 2, two evaluations a step but the last."""
    for sigma, following in pairwise(sigmas):
        slope = (x - _at(denoise, x, sigma)) / sigma
        ahead = x + (following - sigma) * slope
        if following > 0:
            slope = (slope + (ahead - _at(denoise, ahead, following)) / following) / 2
            ahead = x + (following - sigma) * slope
        x = ahead
        mx.eval(x)
    return x


def dpmpp_2m(denoise: DenoiseFn, x: mx.array, sigmas: Sequence[float]) -> mx.array:
    """DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2); order 2 in log sigma, one evaluation a step."""
    previous: mx.array | None = None
    previous_h = 0.0
    for sigma, following in pairwise(sigmas):
        denoised = _at(denoise, x, sigma)
        estimate = denoised
        if following > 0:
            h = math.log(sigma / following)
            if previous is not None:
                r = previous_h / h
                estimate = (1 + 1 / (2 * r)) * denoised - 1 / (2 * r) * previous
            previous_h = h
        x = (following / sigma) * x + (1 - following / sigma) * estimate
        previous = denoised
        mx.eval(x)
    return x


IPNDM = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12))
"""Adams-Bashforth coefficients of orders 1 to 3, newest slope first."""


def ipndm(denoise: DenoiseFn, x: mx.array, sigmas: Sequence[float]) -> mx.array:
    """iPNDM of order 3 (Zhang and Chen 2023): fixed Adams-Bashforth coefficients, one evaluation a step; for few steps."""
    slopes: list[mx.array] = []
    for sigma, following in pairwise(sigmas):
        slopes = [(x - _at(denoise, x, sigma)) / sigma, *slopes[:2]]
        combined = sum(c * slope for c, slope in zip(IPNDM[len(slopes) - 1], slopes, strict=True))
        x = x + (following - sigma) * combined
        mx.eval(x)
    return x


SOLVERS: dict[str, Solver] = {"euler": euler, "heun": heun, "dpmpp_2m": dpmpp_2m, "ipndm": ipndm}
