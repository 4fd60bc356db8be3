"""Attention inside convolutional models: over positions alone, and the transformer that also looks at a context."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.nn as nn

from autotuner.diffusion.attention import attention
from autotuner.diffusion.blas import mx
from autotuner.diffusion.models.layers import ResnetOptions
from autotuner.diffusion.models.normalisation import GroupNorm

TRANSFORMER_NORM_EPS = 1e-6


@dataclass(frozen=True)
class TransformerOptions:
    """What the transformers of one level share."""

    heads: int
    depth: int
    """Transformer blocks behind each residual block."""
    context_channels: int
    groups: int
    linear_projection: bool = False
    upcast: bool = False
    """Scores and softmax in float32 whatever the precision of the rest."""
    only_cross: bool = False
    """The first attention looks at the context too."""


class Attention(nn.Module):
    """Multi-head attention of queries over themselves or over a context."""

    def __init__(
        self,
        channels: int,
        heads: int,
        head_size: int,
        *,
        context_channels: int | None = None,
        bias: bool = False,
        upcast: bool = False,
    ) -> None:
        super().__init__()
        inner, seen = heads * head_size, channels if context_channels is None else context_channels
        self.to_q = nn.Linear(channels, inner, bias=bias)
        self.to_k = nn.Linear(seen, inner, bias=bias)
        self.to_v = nn.Linear(seen, inner, bias=bias)
        self.to_out = [nn.Linear(inner, channels)]
        self._heads = heads
        self._scale = head_size**-0.5
        self._upcast = upcast

    def __call__(self, x: mx.array, context: mx.array | None = None) -> mx.array:
        """(batch, tokens, channels), and (batch, words, context_channels) or nothing, to (batch, tokens, channels)."""
        seen = x if context is None else context
        q, k, v = (self._split(layer(of)) for layer, of in ((self.to_q, x), (self.to_k, seen), (self.to_v, seen)))
        mixed = attention(q, k, v, scale=self._scale).astype(x.dtype)
        return self.to_out[0](mixed.transpose(0, 2, 1, 3).flatten(2))

    def _split(self, x: mx.array) -> mx.array:
        parts = x.reshape(*x.shape[:2], self._heads, -1).transpose(0, 2, 1, 3)
        return parts.astype(mx.float32) if self._upcast else parts


class SpatialAttention(Attention):
    """Self-attention over all positions of a feature map, as a residual."""

    def __init__(self, channels: int, head_size: int | None, options: ResnetOptions, groups: int | None) -> None:
        size = channels if head_size is None else head_size
        super().__init__(channels, channels // size, size, bias=True)
        if groups is not None:
            self.group_norm = GroupNorm(groups, channels, options.eps)
        self._output_scale = options.output_scale

    def __call__(self, x: mx.array, context: mx.array | None = None) -> mx.array:
        """(batch, height, width, channels) in and out; there is no context."""
        h = self.group_norm(x) if "group_norm" in self else x
        h = super().__call__(h.flatten(1, 2)).reshape(x.shape) + x
        return h if self._output_scale == 1 else h / self._output_scale


class GatedGelu(nn.Module):
    """One half of a projection times the GELU of the other (Shazeer, "GLU Variants Improve Transformer", eq. 6)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = nn.Linear(inputs, 2 * outputs)

    def __call__(self, x: mx.array) -> mx.array:
        """(..., inputs) to (..., outputs)."""
        value, gate = mx.split(self.proj(x), 2, axis=-1)
        return value * nn.gelu(gate)


class FeedForward(nn.Module):
    """A gated layer four times as wide, and back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # The middle place is dropout in diffusers, which has no weights; the numbers are part of the weights' names.
        self.net = [GatedGelu(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels)]

    def __call__(self, x: mx.array) -> mx.array:
        """(..., channels) in and out."""
        return self.net[2](self.net[0](x))


class BasicTransformerBlock(nn.Module):
    """Self-attention, attention to the context, and a feed-forward layer, each normalised first and added."""

    def __init__(self, channels: int, head_size: int, options: TransformerOptions) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(
            channels,
            options.heads,
            head_size,
            context_channels=options.context_channels if options.only_cross else None,
            upcast=options.upcast,
        )
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(
            channels, options.heads, head_size, context_channels=options.context_channels, upcast=options.upcast
        )
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)
        self._only_cross = options.only_cross

    def __call__(self, x: mx.array, context: mx.array) -> mx.array:
        """(batch, tokens, channels) and (batch, words, context_channels) to (batch, tokens, channels)."""
        x = x + self.attn1(self.norm1(x), context if self._only_cross else None)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class Transformer2DModel(nn.Module):
    """Transformer blocks over the positions of a feature map, as a residual."""

    def __init__(self, channels: int, options: TransformerOptions) -> None:
        super().__init__()
        head_size = channels // options.heads
        inner = options.heads * head_size
        self.norm = GroupNorm(options.groups, channels, TRANSFORMER_NORM_EPS)
        self.proj_in = nn.Linear(channels, inner) if options.linear_projection else nn.Conv2d(channels, inner, 1)
        self.transformer_blocks = [BasicTransformerBlock(inner, head_size, options) for _ in range(options.depth)]
        self.proj_out = nn.Linear(inner, channels) if options.linear_projection else nn.Conv2d(inner, channels, 1)

    def __call__(self, x: mx.array, context: mx.array) -> mx.array:
        """(batch, height, width, channels) and (batch, words, context_channels) to (batch, height, width, channels)."""
        h = self.proj_in(self.norm(x))
        tokens = h.flatten(1, 2)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return x + self.proj_out(tokens.reshape(h.shape))
