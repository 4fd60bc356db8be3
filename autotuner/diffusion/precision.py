"""Number formats of the forward and backward pass, and the loss scale that float16 needs (Micikevicius et al. 2018)."""

from __future__ import annotations

from typing import NamedTuple

from autotuner.diffusion.blas import mx

PRECISIONS: dict[str, mx.Dtype] = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}
"""Weights and activations are cast to it; master weights, moments, averages and the loss stay in float32."""

FIRST_SCALE = 2.0**14
LARGEST_SCALE = 2.0**24
GROW_AFTER = 500
"""Good updates in a row after which the scale doubles."""


class LossScale(NamedTuple):
    """Factor on the loss that keeps small gradients representable, as arrays: it changes without a trace."""

    factor: mx.array
    good: mx.array
    """Updates since the factor last changed."""


def begin() -> LossScale:
    """The scale of a training that starts."""
    return LossScale(mx.array(FIRST_SCALE), mx.array(0.0))


def after(scale: LossScale, finite: mx.array) -> LossScale:
    """Half the factor after gradients that are not finite, twice after GROW_AFTER good updates (Sec. 3.2 of the paper)."""
    grown = scale.good + 1 >= GROW_AFTER
    factor = mx.where(finite, mx.where(grown, scale.factor * 2, scale.factor), scale.factor / 2)
    good = mx.where(finite & ~grown, scale.good + 1, 0.0)
    return LossScale(mx.clip(factor, 1.0, LARGEST_SCALE), good)
