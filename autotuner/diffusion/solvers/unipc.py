"""UniPC: a multistep predictor, and a corrector that uses the next output once it is there, at no extra evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from autotuner.diffusion.blas import mx
from autotuner.diffusion.solvers.walk import DenoiseFn, Step, Watch, at, order_of, unwatched, walk
from autotuner.errors import ConfigurationError

B = {"bh1": lambda h: -h, "bh2": lambda h: math.expm1(-h)}
"""B(h) of the paper (Section 3.1), with the sign that data prediction gives to h."""
ORDERS = (1, 2, 3)


def unipc(
    denoise: DenoiseFn,
    x: mx.array,
    sigmas: Sequence[float],
    *,
    order: int = 3,
    variant: str = "bh2",
    lower_order_final: bool = True,
    watch: Watch = unwatched,
) -> mx.array:
    """UniPC-p for data prediction (Zhao et al. 2023, Algorithms 5 and 6): UniP-p predicts, UniC-p corrects to order p + 1.

    The last sample is not corrected, which would cost one more evaluation. ``order`` is 1 to 3 and ``variant`` bh1 or bh2, else
    ConfigurationError; bh1 and bh2 differ only where the paper fixes a coefficient at 1/2 (UniP-2 and UniC-1).
    """
    if order not in ORDERS or variant not in B:
        raise ConfigurationError(f"unipc of order {order}, {variant}: allowed are orders {ORDERS} and variants {tuple(B)}")
    outputs: list[mx.array] = []
    levels: list[float] = []
    start, used = x, 0
    for index, sigma, following in walk(sigmas):
        denoised = at(denoise, x, sigma)
        level = -math.log(sigma)
        if index > 0:
            x = _update(start, outputs[:used], levels[:used], level, variant, denoised)
        outputs, levels = [denoised, *outputs[: order - 1]], [level, *levels[: order - 1]]
        start, used = x, order_of(index, len(sigmas) - 1, order, lower_order_final)
        x = _update(x, outputs[:used], levels[:used], -math.log(following), variant) if following > 0 else denoised
        mx.eval(x)
        watch(Step(index + 1, len(sigmas) - 1, sigma, following, x, denoised))
    return x


def _update(
    x: mx.array, outputs: list[mx.array], levels: list[float], level: float, variant: str, ahead: mx.array | None = None
) -> mx.array:
    """UniP from outputs (newest first) at ``levels`` to ``level``; UniC where the output there is given (Eq. 3, 9)."""
    h = level - levels[0]
    b = B[variant](h)
    ratios = [(other - levels[0]) / h for other in levels[1:]]
    differences = [(output - outputs[0]) / ratio for output, ratio in zip(outputs[1:], ratios, strict=True)]
    if ahead is not None:
        ratios, differences = [*ratios, 1.0], [*differences, ahead - outputs[0]]
    x = math.exp(-h) * x - math.expm1(-h) * outputs[0]
    for weight, difference in zip(_weights(ratios, h, b), differences, strict=True):
        x = x - b * weight * difference
    return x


def _weights(ratios: list[float], h: float, b: float) -> list[float]:
    """Coefficients a_m of Eq. 5, which solve R a = b(h); the paper's 1/2 for one ratio (end of Section 3.1)."""
    if len(ratios) < 2:
        return [0.5] * len(ratios)
    matrix = np.vander(np.array(ratios), increasing=True).T
    return [float(weight) for weight in np.linalg.solve(matrix, _right_side(len(ratios), h, b))]


def _right_side(count: int, h: float, b: float) -> list[float]:
    """k! I_k / (-B(h) h^k), I_k the integral of e^(u - h) u^k / k! from 0 to h: I_k = h^k / k! - I_(k-1)."""
    integral = -math.expm1(-h)
    side = []
    for k in range(1, count + 1):
        integral = h**k / math.factorial(k) - integral
        side.append(-math.factorial(k) * integral / (b * h**k))
    return side
