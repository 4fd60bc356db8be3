"""Attention in chunks of queries: the same numbers and gradients as all at once, and less memory."""

from __future__ import annotations

import numpy as np
import pytest

from autotuner.diffusion import attention as module
from autotuner.diffusion.attention import FEWEST_QUERIES, SCORES_PER_CHUNK, attention, queries_at_a_time, set_scores_per_chunk
from autotuner.diffusion.blas import mx

BATCH, HEADS, QUERIES, SIZE = 2, 3, 13, 4
SCALE = SIZE**-0.5

MASKS = {
    "none": lambda keys: None,
    "additive, one for all": lambda keys: values(QUERIES, keys, seed=7),
    "additive, one for each head": lambda keys: values(1, HEADS, QUERIES, keys, seed=7),
    "additive, the same for all queries": lambda keys: values(BATCH, 1, 1, keys, seed=7),
    "additive, one number for each key": lambda keys: values(keys, seed=7),
    "boolean": lambda keys: mx.arange(QUERIES)[:, None] >= mx.arange(keys)[None, :],
}


@pytest.fixture(autouse=True)
def _limit_stays_as_found():
    before = set_scores_per_chunk(SCORES_PER_CHUNK)
    yield
    set_scores_per_chunk(before)


def values(*shape, seed):
    return mx.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def inputs(keys=QUERIES, queries=QUERIES):
    shapes = [(BATCH, HEADS, queries, SIZE), (BATCH, HEADS, keys, SIZE), (BATCH, HEADS, keys, SIZE)]
    return [values(*shape, seed=seed) for seed, shape in enumerate(shapes)]


def by_hand(q, k, v, mask=None):
    """Softmax(q k^T scale + mask) v in three lines that MLX differentiates by itself."""
    scores = SCALE * q @ k.swapaxes(-1, -2)
    if mask is not None:
        scores = mx.where(mask, scores, -1e9) if mask.dtype == mx.bool_ else scores + mask
    return mx.softmax(scores, axis=-1) @ v


def gradients(function, arrays):
    """Of a fixed weighted sum of the output, with respect to every array of floating point."""
    weight = values(*arrays[0].shape, seed=9)
    floating = tuple(place for place, array in enumerate(arrays) if array.dtype == mx.float32)
    return mx.grad(lambda *given: (function(*given) * weight).sum(), argnums=floating)(*arrays)


def chunked(chunk):
    def run(q, k, v, mask=None):
        return attention(q, k, v, scale=SCALE, mask=mask, queries_per_chunk=chunk)

    return run


def difference(ours, theirs):
    return float(mx.abs(ours - theirs).max() / mx.abs(theirs).max())


@pytest.mark.parametrize("keys", [QUERIES, 5], ids=["self attention", "cross attention"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("chunk", [1, 5, 12, QUERIES])
def test_outputs_and_all_gradients_are_those_of_one_piece(chunk, mask, keys):
    given = MASKS[mask](keys)
    arrays = [*inputs(keys), *([] if given is None else [given])]
    assert difference(chunked(chunk)(*arrays), by_hand(*arrays)) < 1e-5
    for ours, theirs in zip(gradients(chunked(chunk), arrays), gradients(by_hand, arrays), strict=True):
        assert ours.shape == theirs.shape
        assert difference(ours, theirs) < 1e-5


def test_the_second_derivative_is_right_too():
    q, k, v = inputs()

    def bend(function):
        def slope(x):
            return (mx.square(mx.grad(lambda y: mx.square(function(y, k, v)).sum())(x))).sum()

        return mx.grad(slope)(q)

    assert difference(bend(chunked(4)), bend(by_hand)) < 1e-4


@pytest.mark.parametrize(("dtype", "bound"), [(mx.float16, 4e-3), (mx.bfloat16, 3e-2)], ids=["float16", "bfloat16"])
def test_half_precision_stays_near_float32(dtype, bound):
    exact = inputs()
    halves = [array.astype(dtype) for array in exact]

    def in_half(*arrays):
        return chunked(5)(*arrays).astype(mx.float32)

    weight = values(*exact[0].shape, seed=9)
    ours = mx.grad(lambda *given: (in_half(*given) * weight).sum(), argnums=(0, 1, 2))(*halves)
    assert chunked(5)(*halves).dtype == dtype
    assert difference(in_half(*halves), by_hand(*exact)) < bound
    for half, full in zip(ours, gradients(by_hand, exact), strict=True):
        assert half.dtype == dtype
        assert difference(half.astype(mx.float32), full) < bound


def test_few_scores_are_taken_at_once_and_many_in_chunks_that_fit():
    assert queries_at_a_time(1, 8, 256, 256) == 256
    many = queries_at_a_time(4, 8, 4096, 4096)
    assert many < 4096
    assert 4 * 8 * many * 4096 <= SCORES_PER_CHUNK
    assert queries_at_a_time(64, 16, 2**14, 2**14) == FEWEST_QUERIES


def test_the_limit_that_is_set_decides(monkeypatch):
    sizes = []
    real = module._chunked
    monkeypatch.setattr(module, "_chunked", lambda scale, queries: sizes.append(queries) or real(scale, queries))
    arrays = inputs(keys=64, queries=32)
    attention(*arrays, scale=SCALE)
    assert sizes == []
    assert set_scores_per_chunk(BATCH * HEADS * 64 * 20) == SCORES_PER_CHUNK
    attention(*arrays, scale=SCALE)
    assert sizes == [20]


def test_a_limit_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        set_scores_per_chunk(0)


def peak_bytes(tokens, chunk):
    """Bytes that forward and backward pass add to what is there."""
    arrays = [values(1, 2, tokens, 16, seed=seed) for seed in range(3)]
    mx.eval(arrays)
    step = mx.value_and_grad(
        lambda q, k, v: mx.square(attention(q, k, v, scale=0.25, queries_per_chunk=chunk)).sum(), argnums=(0, 1, 2)
    )
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(step(*arrays))
    return mx.get_peak_memory() - before


def test_the_backward_pass_never_holds_the_scores_of_all_queries():
    tokens = 1024
    scores = 2 * tokens * tokens * 4
    assert peak_bytes(tokens, tokens) > 2 * scores
    assert peak_bytes(tokens, 32) < scores
