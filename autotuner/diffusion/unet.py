"""A small convolutional U-Net with time conditioning, group normalisation and attention at the lowest level."""

from __future__ import annotations

import mlx.nn as nn
from mlx.nn.utils import checkpoint

from autotuner.diffusion.blas import mx
from autotuner.diffusion.dit import FREQUENCIES, level_features
from autotuner.errors import ConfigurationError

DEPTH = 3
"""Levels, unless told otherwise."""
GROUPS = 8
"""Of each normalisation."""


class ResidualBlock(nn.Module):
    """Two convolutions around a scale and shift from the condition."""

    def __init__(self, inputs: int, outputs: int, condition: int) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(GROUPS, inputs, pytorch_compatible=True)
        self.conv_in = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(condition, 2 * outputs)
        self.norm_out = nn.GroupNorm(GROUPS, outputs, pytorch_compatible=True)
        self.conv_out = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_out.weight = mx.zeros_like(self.conv_out.weight)
        self.skip = nn.Linear(inputs, outputs, bias=False) if inputs != outputs else None

    def __call__(self, x: mx.array, condition: mx.array) -> mx.array:
        """Feature maps (batch, height, width, channels) in and out."""
        h = self.conv_in(nn.silu(self.norm_in(x)))
        scale, shift = mx.split(self.modulation(condition)[:, None, None, :], 2, axis=-1)
        h = self.conv_out(nn.silu(self.norm_out(h) * (1 + scale) + shift))
        return h + (x if self.skip is None else self.skip(x))


class Attention(nn.Module):
    """Single-head self-attention over all positions, as a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels, pytorch_compatible=True)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.proj.weight = mx.zeros_like(self.proj.weight)

    def __call__(self, x: mx.array) -> mx.array:
        """Feature maps in and out."""
        batch, height, width, channels = x.shape
        tokens = self.qkv(self.norm(x)).reshape(batch, 1, height * width, 3 * channels)
        q, k, v = mx.split(tokens, 3, axis=-1)
        mixed = mx.fast.scaled_dot_product_attention(q, k, v, scale=channels**-0.5)
        return x + self.proj(mixed.reshape(batch, height, width, channels))


class UNet(nn.Module):
    """F(x, c_noise, label); each level below the first halves the sides, so they must be multiples of 2^(depth - 1)."""

    def __init__(self, channels: int, classes: int, full_resolution: int, width: int = 32, depth: int = DEPTH) -> None:
        super().__init__()
        if width < 1 or width % GROUPS:
            raise ConfigurationError(f"width {width!r}; allowed are multiples of {GROUPS}")
        self.full_resolution = full_resolution
        self.gradient_checkpointing = False
        """Whether the backward pass recomputes each residual block."""
        widths = [width * min(2**level, 4) for level in range(depth)]
        self.label = nn.Embedding(classes + 1, 4 * width)
        self.level = nn.Linear(2 * FREQUENCIES, 4 * width)
        self.condition = nn.Linear(4 * width, 4 * width)
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.down = [ResidualBlock(a, b, 4 * width) for a, b in zip([width, *widths[:-1]], widths, strict=True)]
        self.middle = ResidualBlock(widths[-1], widths[-1], 4 * width)
        self.attention = Attention(widths[-1])
        self.up = [
            ResidualBlock(2 * a, b, 4 * width) for a, b in zip(reversed(widths), [*reversed(widths[:-1]), width], strict=True)
        ]
        self.norm = nn.GroupNorm(GROUPS, width, pytorch_compatible=True)
        self.head = nn.Conv2d(width, channels, 3, padding=1)
        self.head.weight = mx.zeros_like(self.head.weight)

    def __call__(self, x: mx.array, c_noise: mx.array, label: mx.array) -> mx.array:
        """Images (batch, height, width, channels) in and out."""
        levels = self.level(level_features(c_noise).astype(x.dtype))
        condition = nn.silu(self.condition(nn.silu(levels + self.label(label))))
        h = self.stem(x)
        skips = []
        for level, block in enumerate(self.down):
            h = self._run(block, h if level == 0 else _halve(h), condition)
            skips.append(h)
        h = self.attention(self._run(self.middle, h, condition))
        for level, block in enumerate(self.up):
            h = self._run(block, mx.concatenate([h, skips.pop()], axis=-1), condition)
            h = h if level == len(self.up) - 1 else _double(h)
        return self.head(nn.silu(self.norm(h)))

    def _run(self, block: nn.Module, h: mx.array, condition: mx.array) -> mx.array:
        return (checkpoint(block) if self.gradient_checkpointing else block)(h, condition)


def _halve(x: mx.array) -> mx.array:
    batch, height, width, channels = x.shape
    return mx.mean(x.reshape(batch, height // 2, 2, width // 2, 2, channels), axis=(2, 4))


def _double(x: mx.array) -> mx.array:
    return mx.repeat(mx.repeat(x, 2, axis=1), 2, axis=2)
