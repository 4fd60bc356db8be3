"""What convolutional models are made of: time embeddings, residual blocks, halving and doubling; channels come last."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import mlx.nn as nn
import numpy as np

from autotuner.diffusion import activations
from autotuner.diffusion.blas import mx
from autotuner.diffusion.models.normalisation import GroupNorm

ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "silu": activations.silu,
    "swish": activations.silu,
    "gelu": nn.gelu,
    "relu": nn.relu,
    "mish": nn.mish,
}
"""``act_fn`` of a configuration; `gelu` is the exact one."""


@dataclass(frozen=True)
class ResnetOptions:
    """What all residual blocks of one model share."""

    time_channels: int | None
    """Length of the embedding that every block receives; None for blocks without one."""
    groups: int
    eps: float
    activation: str = "silu"
    scale_shift: bool = False
    """The embedding scales and shifts the second norm's result instead of being added before it."""
    output_scale: float = 1.0
    """The block's result is divided by it."""


def timestep_features(timestep: mx.array, size: int, *, flip_sin_to_cos: bool, freq_shift: float) -> mx.array:
    """Sines and cosines (batch, size) of a timestep (batch,) of any type, in float32.

    Transformer positions (Vaswani et al., "Attention Is All You Need", section 3.5) with periods from 2 pi to 10000 times that.
    """
    half = size // 2
    exponent = np.float32(-math.log(10_000)) * np.arange(half, dtype=np.float32) / np.float32(half - freq_shift)
    angles = timestep.astype(mx.float32)[:, None] * mx.array(np.exp(exponent))
    waves = [mx.cos(angles), mx.sin(angles)] if flip_sin_to_cos else [mx.sin(angles), mx.cos(angles)]
    padding = [mx.zeros((timestep.shape[0], 1))] if size % 2 else []
    return mx.concatenate([*waves, *padding], axis=-1)


class GaussianFourierProjection(nn.Module):
    """Sines and cosines at random fixed frequencies (Song et al., "Score-Based Generative Modeling through SDEs", C.1)."""

    def __init__(self, size: int, scale: float, *, log: bool, flip_sin_to_cos: bool) -> None:
        super().__init__()
        self.weight = scale * mx.random.normal((size,))
        self.freeze()
        self._log = log
        self._flip = flip_sin_to_cos

    def __call__(self, timestep: mx.array) -> mx.array:
        """(batch,) to (batch, 2 size) in float32."""
        position = timestep.astype(mx.float32)
        angles = (mx.log(position) if self._log else position)[:, None] * self.weight.astype(mx.float32) * 2 * math.pi
        waves = [mx.cos(angles), mx.sin(angles)] if self._flip else [mx.sin(angles), mx.cos(angles)]
        return mx.concatenate(waves, axis=-1)


class TimestepEmbedding(nn.Module):
    """Two linear layers on the features of a timestep, with a second input if ``condition`` is its length."""

    def __init__(self, inputs: int, outputs: int, activation: str = "silu", condition: int | None = None) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(inputs, outputs)
        self.linear_2 = nn.Linear(outputs, outputs)
        if condition is not None:
            self.cond_proj = nn.Linear(condition, inputs, bias=False)
        self._act = ACTIVATIONS[activation]

    def __call__(self, features: mx.array, condition: mx.array | None = None) -> mx.array:
        """(batch, inputs), and (batch, condition) or nothing, to (batch, outputs)."""
        if condition is not None:
            features = features + self.cond_proj(condition)
        return self.linear_2(self._act(self.linear_1(features)))


class ResnetBlock2D(nn.Module):
    """Two normalised convolutions with the embedding between them, as a residual."""

    def __init__(self, inputs: int, outputs: int, options: ResnetOptions) -> None:
        super().__init__()
        self._act = ACTIVATIONS[options.activation]
        self._scale_shift = options.scale_shift
        self._output_scale = options.output_scale
        self.norm1 = GroupNorm(options.groups, inputs, options.eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        if options.time_channels is not None:
            self.time_emb_proj = nn.Linear(options.time_channels, outputs * (2 if options.scale_shift else 1))
        self.norm2 = GroupNorm(options.groups, outputs, options.eps)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.conv_shortcut = nn.Conv2d(inputs, outputs, 1)

    def __call__(self, x: mx.array, embedding: mx.array | None = None) -> mx.array:
        """(batch, height, width, inputs) and (batch, time_channels) to (batch, height, width, outputs)."""
        h = self._condition(self.conv1(self._act(self.norm1(x))), embedding)
        h = self.conv2(self._act(h))
        h = h + (self.conv_shortcut(x) if "conv_shortcut" in self else x)
        return h if self._output_scale == 1 else h / self._output_scale

    def _condition(self, h: mx.array, embedding: mx.array | None) -> mx.array:
        if embedding is None:
            return self.norm2(h)
        told = self.time_emb_proj(self._act(embedding))[:, None, None, :]
        if not self._scale_shift:
            return self.norm2(h + told)
        scale, shift = mx.split(told, 2, axis=-1)
        return self.norm2(h) * (1 + scale) + shift


class Downsample2D(nn.Module):
    """A convolution of stride 2; ``padding`` 0 means one row and column of zeros at the far sides only."""

    def __init__(self, channels: int, padding: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)
        self._pad_far_sides = padding == 0

    def __call__(self, x: mx.array) -> mx.array:
        """(batch, height, width, channels) to half the height and width."""
        return self.conv(mx.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)]) if self._pad_far_sides else x)


class Upsample2D(nn.Module):
    """Nearest-neighbour enlargement followed by a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def __call__(self, x: mx.array, size: tuple[int, int] | None = None) -> mx.array:
        """(batch, height, width, channels) to ``size`` (height, width), by default twice as large."""
        height, width = size or (2 * x.shape[1], 2 * x.shape[2])
        return self.conv(_stretch(_stretch(x, height, axis=1), width, axis=2))


def _stretch(x: mx.array, size: int, axis: int) -> mx.array:
    if size == 2 * x.shape[axis]:
        return mx.repeat(x, 2, axis=axis)
    return mx.take(x, mx.arange(size) * x.shape[axis] // size, axis=axis)
