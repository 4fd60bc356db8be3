"""Scaled dot-product attention: the one door that every model of this package goes through.

MLX's attention keeps the scores of all queries against all keys for the backward pass. Where these are many, the
queries are taken in chunks here, and the backward pass computes each chunk's scores again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

from autotuner.diffusion.blas import mx

SCORES_PER_CHUNK = 2**21
"""Scores in a chunk (8 MiB in float32). MLX queues about ten operations ahead and allocates for them, so ten times as much is
held: at 4,096 tokens and 2 heads the peak is 83 MiB, with 2^19 it is 38 and with 2^23 it is 222, at much the same time on a CPU
(benchmarks/attention.py). With 2^19 a layer of 32 heads and 1,024 keys is already down to FEWEST_QUERIES in a chunk."""

FEWEST_QUERIES = 16
"""In a chunk, however many heads and keys there are: products of fewer rows only read memory."""

_scores_per_chunk = SCORES_PER_CHUNK


def set_scores_per_chunk(scores: int) -> int:
    """Let later calls of ``attention`` hold this many scores at a time, and return the number before.

    A compiled function keeps the number that it was traced with. Raises ValueError unless ``scores`` is positive.
    """
    global _scores_per_chunk
    if scores < 1:
        raise ValueError(f"scores per chunk {scores}: at least 1 is needed")
    before, _scores_per_chunk = _scores_per_chunk, scores
    return before


def queries_at_a_time(batch: int, heads: int, queries: int, keys: int) -> int:
    """Queries in a chunk: all of them where their scores fit, otherwise as many as fit, with a least number."""
    return min(queries, max(FEWEST_QUERIES, _scores_per_chunk // (batch * heads * keys)))


def attention(
    q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: mx.array | None = None, queries_per_chunk: int | None = None
) -> mx.array:
    """Softmax(q k^T scale + mask) v; arrays are (batch, heads, tokens, size), all with the same number of heads.

    ``mask`` broadcasts to the scores (batch, heads, queries, keys): added when it is of floating point, keeping what is
    True when it is boolean. ``queries_per_chunk`` overrides what ``queries_at_a_time`` says; the result is the same.
    """
    queries = queries_per_chunk or queries_at_a_time(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    if queries >= q.shape[2]:
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
    return _chunked(scale, queries)(q, k, v) if mask is None else _chunked(scale, queries)(q, k, v, mask)


class _Rows(NamedTuple):
    """The part of some arrays that belongs to one chunk of queries."""

    arrays: list[mx.array]
    mask: mx.array | None


def _chunks(arrays: list[mx.array], mask: mx.array | None, size: int) -> Iterator[_Rows]:
    for start in range(0, arrays[0].shape[2], size):
        rows = slice(start, start + size)
        sliced = mask if mask is None or _shared(mask) else mask[..., rows, :]
        yield _Rows([array[:, :, rows] for array in arrays], sliced)


def _shared(mask: mx.array) -> bool:
    """Whether all queries have the same mask."""
    return mask.ndim < 2 or mask.shape[-2] == 1


def _chunked(scale: float, queries: int) -> Callable[..., mx.array]:
    """Attention of ``queries`` queries at a time, with the gradient of FlashAttention (Dao et al. 2022, algorithm 4).

    One chunk sees all keys, so that a row's softmax needs no running maximum. Every chunk depends on the one before:
    without that the graph's order lets MLX hold the scores of all chunks at once.
    """

    @mx.custom_function
    def forward(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None = None) -> mx.array:
        outputs: list[mx.array] = []
        for (rows,), mask_rows in _chunks([q], mask, queries):
            ordered = mx.depends([rows], outputs[-1:])[0] if outputs else rows
            outputs.append(mx.fast.scaled_dot_product_attention(ordered, k, v, scale=scale, mask=mask_rows))
        return mx.concatenate(outputs, axis=2)

    @forward.vjp
    def backward(primals: tuple[mx.array, ...], cotangent: mx.array, output: mx.array) -> tuple[mx.array, ...]:
        q, k, v, *masks = primals
        mask = masks[0] if masks else None
        dq: list[mx.array] = []
        dmask: list[mx.array] = []
        dk, dv = mx.zeros(k.shape, mx.float32), mx.zeros(v.shape, mx.float32)
        for rows, mask_rows in _chunks([q, cotangent, output], mask, queries):
            q_rows, g, o = mx.depends(rows, [*dq[-1:], dk, dv])
            p = _weights(q_rows, k, scale, mask_rows)
            # dS = P (dP - D) with D = rowsum(dO O): the identity that spares a sum over P dP.
            delta = mx.sum(g.astype(mx.float32) * o, axis=-1, keepdims=True).astype(g.dtype)
            ds = p * mx.addmm(-delta, g, v.swapaxes(-1, -2))
            dq.append(scale * (ds @ k))
            dk = dk + ds.swapaxes(-1, -2) @ (scale * q_rows)
            dv = dv + p.swapaxes(-1, -2) @ g
            if mask_rows is not None:
                dmask.append(_mask_gradient(ds, mask_rows))
        gradients = (mx.concatenate(dq, axis=2), dk.astype(k.dtype), dv.astype(v.dtype))
        return gradients if mask is None else (*gradients, _joined(dmask, mask))

    return cast(Callable[..., mx.array], forward)


def _weights(q: mx.array, k: mx.array, scale: float, mask: mx.array | None) -> mx.array:
    scores = (scale * q) @ k.swapaxes(-1, -2)
    if mask is not None and mask.dtype == mx.bool_:
        scores = mx.where(mask, scores, mx.array(mx.finfo(scores.dtype).min, scores.dtype))
    elif mask is not None:
        scores = scores + mask.astype(scores.dtype)
    return mx.softmax(scores, axis=-1, precise=True)


def _mask_gradient(ds: mx.array, mask: mx.array) -> mx.array:
    """The scores' gradient summed over what the mask was broadcast along."""
    if mask.dtype == mx.bool_:
        return mx.zeros(mask.shape, mask.dtype)
    shape = (1,) * (ds.ndim - mask.ndim) + tuple(mask.shape)
    axes = [axis for axis, size in enumerate(shape) if size == 1]
    return mx.sum(ds, axis=axes, keepdims=True).reshape(mask.shape).astype(mask.dtype)


def _joined(chunks: list[mx.array], mask: mx.array) -> mx.array:
    if mask.dtype == mx.bool_:
        return mx.zeros(mask.shape, mask.dtype)
    if _shared(mask):
        return mx.sum(mx.stack(chunks), axis=0)
    return mx.concatenate(chunks, axis=-2)
