"""Exponential moving average of weights, its horizon counted in images so that batch size does not change it."""

from __future__ import annotations

from autotuner.diffusion.blas import mx


def decay(images_seen: float, batch: int, half_life_images: float, ramp_up: float = 0.05) -> float:
    """Decay beta of one step; early in training the half-life is at most ``ramp_up`` of the images seen."""
    horizon = min(half_life_images, max(images_seen, batch) * ramp_up)
    return float(0.5 ** (batch / horizon))


def update(average: mx.array, weights: mx.array, beta: mx.array) -> mx.array:
    """beta * average + (1 - beta) * weights."""
    return weights + beta * (average - weights)
