"""AdamW on one vector (Loshchilov and Hutter 2019), with everything that may change as an array."""

from __future__ import annotations

from typing import NamedTuple

from autotuner.diffusion.blas import mx

BETA_1, BETA_2, EPSILON = 0.9, 0.99, 1e-8


class Moments(NamedTuple):
    """What AdamW remembers."""

    first: mx.array
    second: mx.array
    updates: mx.array
    """Updates so far, a float scalar."""


def begin(size: int) -> Moments:
    """Moments before the first update."""
    return Moments(mx.zeros((size,)), mx.zeros((size,)), mx.array(0.0))


def update(
    weights: mx.array,
    gradient: mx.array,
    moments: Moments,
    learning_rate: mx.array,
    weight_decay: mx.array,
    beta_1: float = BETA_1,
    beta_2: float = BETA_2,
) -> tuple[mx.array, Moments]:
    """One update with bias correction; decay is decoupled from the gradient."""
    count = moments.updates + 1
    first = beta_1 * moments.first + (1 - beta_1) * gradient
    second = beta_2 * moments.second + (1 - beta_2) * mx.square(gradient)
    scale = learning_rate / (1 - mx.power(beta_1, count))
    root = mx.sqrt(second * (1 / (1 - mx.power(beta_2, count)))) + EPSILON
    return weights * (1 - learning_rate * weight_decay) - scale * first / root, Moments(first, second, count)
