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


def average(before: mx.array, value: mx.array, beta: float) -> mx.array:
    """A moment after one more update: ``value`` is the gradient, or its square."""
    return beta * before + (1 - beta) * value


def step(
    weights: mx.array,
    after: Moments,
    learning_rate: mx.array,
    weight_decay: mx.array,
    beta_1: float = BETA_1,
    beta_2: float = BETA_2,
) -> mx.array:
    """The weights after one update whose moments are ``after``, with bias correction; decay is decoupled from the gradient."""
    scale = learning_rate / (1 - mx.power(beta_1, after.updates))
    root = mx.sqrt(after.second * (1 / (1 - mx.power(beta_2, after.updates)))) + EPSILON
    return weights * (1 - learning_rate * weight_decay) - scale * after.first / root
