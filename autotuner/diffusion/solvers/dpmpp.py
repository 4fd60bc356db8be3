"""DPM-Solver++ in its multistep forms: the linear part solved exactly, D interpolated over log sigma from past outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autotuner.diffusion.blas import mx
from autotuner.diffusion.solvers.walk import DenoiseFn, Step, Watch, at, order_of, unwatched, walk


def dpmpp_2m(denoise: DenoiseFn, x: mx.array, sigmas: Sequence[float], *, watch: Watch = unwatched) -> mx.array:
    """DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2); order 2 in log sigma."""
    previous: mx.array | None = None
    previous_h = 0.0
    for index, sigma, following in walk(sigmas):
        denoised = at(denoise, x, sigma)
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
        watch(Step(index + 1, len(sigmas) - 1, sigma, following, x, denoised))
    return x


def dpmpp_3m(
    denoise: DenoiseFn,
    x: mx.array,
    sigmas: Sequence[float],
    *,
    lower_order_final: bool = True,
    curvature: float = 0.5,
    watch: Watch = unwatched,
) -> mx.array:
    """DPM-Solver++(3M) (Lu et al. 2022, Eq. 10 with n = 3, derivatives from past outputs).

    The Taylor expansion multiplies phi_3 by the second derivative of D, which is twice the second divided difference. The
    authors' program, and those after it, leave the 2 out: ``curvature`` 0.5, the 3M that everybody compares with, converges
    with order 2. With ``curvature`` 1 the order is 3; up to ten steps neither is better.
    ``lower_order_final`` makes the orders of the last two steps 2 and 1; a step to 0 is of order 1 in any case.
    """
    outputs: list[mx.array] = []
    levels: list[float] = []
    for index, sigma, following in walk(sigmas):
        denoised = at(denoise, x, sigma)
        outputs, levels = [denoised, *outputs[:2]], [-math.log(sigma), *levels[:2]]
        order = order_of(index, len(sigmas) - 1, 3, lower_order_final) if following > 0 else 1
        x = (following / sigma) * x + (1 - following / sigma) * denoised
        if order > 1:
            x = x + _correction(outputs[:order], levels[:order], math.log(sigma / following), curvature)
        mx.eval(x)
        watch(Step(index + 1, len(sigmas) - 1, sigma, following, x, denoised))
    return x


def _correction(outputs: list[mx.array], levels: list[float], h: float, curvature: float) -> mx.array:
    """What the derivatives of D over lambda = -log sigma add to a first-order step of length ``h``."""
    slope = (outputs[0] - outputs[1]) / (levels[0] - levels[1])
    if len(outputs) == 2:
        return -math.expm1(-h) * h / 2 * slope  # the 2M step
    older = (outputs[1] - outputs[2]) / (levels[1] - levels[2])
    bend = (slope - older) / (levels[0] - levels[2])
    first = h + math.expm1(-h)  # integral of e^(u - h) u from 0 to h
    second = h * h / 2 - first  # ... of e^(u - h) u^2 / 2
    return first * (slope + (levels[0] - levels[1]) * bend) + second * 2 * curvature * bend
