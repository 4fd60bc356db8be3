"""Scaled dot-product attention: the one door that every model of this package goes through."""

from __future__ import annotations

from autotuner.diffusion.blas import mx


def attention(q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: mx.array | None = None) -> mx.array:
    """Softmax(q k^T scale + mask) v; arrays are (batch, heads, tokens, size), ``mask`` broadcasts to the scores."""
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
