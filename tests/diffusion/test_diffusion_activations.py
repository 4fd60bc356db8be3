from __future__ import annotations

import mlx.nn as nn
import numpy as np
import pytest

from autotuner.diffusion import activations
from autotuner.diffusion.blas import mx

PAIRS = [(activations.silu, nn.silu), (activations.gelu_tanh, nn.gelu_approx)]
X = np.linspace(-30, 30, 60_001, dtype=np.float32)


def largest(a, b):
    return float(mx.abs(a.astype(mx.float32) - b.astype(mx.float32)).max())


def test_tanh_is_exact_to_float32_everywhere():
    assert np.abs(np.array(activations.tanh(mx.array(X))) - np.tanh(X.astype(np.float64))).max() < 3e-7
    assert np.array(activations.tanh(mx.array([-np.inf, np.inf, 0.0]))).tolist() == [-1, 1, 0]
    assert np.isnan(np.array(activations.tanh(mx.array([np.nan])))).all()


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_value_gradient_and_tangent_are_those_of_mlx(ours, theirs):
    x, direction = mx.array(X), mx.array(np.cos(X))
    assert largest(ours(x), theirs(x)) < 3e-6
    assert largest(mx.vjp(ours, [x], [direction])[1][0], mx.vjp(theirs, [x], [direction])[1][0]) < 3e-6
    assert largest(mx.jvp(ours, [x], [direction])[1][0], mx.jvp(theirs, [x], [direction])[1][0]) < 3e-6


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_the_gradient_is_the_same_under_checkpoint_and_compile(ours, theirs):
    x = mx.array(X[::1000])
    expected = mx.grad(lambda x: theirs(x).sum())(x)
    for changed in (mx.checkpoint(ours), mx.compile(ours)):
        assert largest(mx.grad(lambda x, f=changed: f(x).sum())(x), expected) < 3e-6


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_half_precision_stays_and_is_rounded_once(ours, theirs, dtype):
    x = mx.array(X).astype(dtype)
    exact = theirs(x.astype(mx.float32))
    assert ours(x).dtype == dtype
    assert largest(ours(x), exact.astype(dtype)) <= 30 * float(mx.finfo(dtype).eps)
    assert mx.grad(lambda x: ours(x).sum())(x).dtype == dtype
