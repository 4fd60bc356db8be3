"""A patch transformer with adaptive normalisation (DiT, Peebles and Xie 2023), made cheap where a CPU is slow.

ReLU^2 MLPs and RMSNorm avoid transcendental functions over all tokens (about 25 ns an element on MLX's CPU backend).
Positions are relative coordinates and the token's scale is told, so one set of weights serves every resolution.
"""

from __future__ import annotations

import math
from functools import lru_cache

import mlx.nn as nn
import numpy as np
from mlx.nn.utils import checkpoint

from autotuner.diffusion.blas import mx
from autotuner.errors import ConfigurationError

FREQUENCIES = 16
PATCH = 4
"""Edge of a token in pixels, unless told otherwise."""
ATTENTIONS = ("relu", "softmax")


@lru_cache(maxsize=32)
def _position_features(side: int) -> mx.array:
    """Sines and cosines of the patch centres in units of the image, shape (side * side, 4 * FREQUENCIES)."""
    centre = (np.arange(side) + 0.5) / side
    angles = centre[:, None] * np.pi * np.geomspace(0.5, 16, FREQUENCIES)
    axis = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    rows = np.repeat(axis[:, None], side, axis=1)
    columns = np.repeat(axis[None, :], side, axis=0)
    return mx.array(np.concatenate([rows, columns], axis=-1).reshape(side * side, -1).astype(np.float32))


def _axis_features(centres: mx.array) -> mx.array:
    """The same of given centres along one axis (batch, side), shape (batch, side, 2 * FREQUENCIES)."""
    angles = centres[:, :, None] * mx.array((np.pi * np.geomspace(0.5, 16, FREQUENCIES)).astype(np.float32))
    return mx.concatenate([mx.sin(angles), mx.cos(angles)], axis=-1)


def level_features(c_noise: mx.array) -> mx.array:
    """Fourier features of the noise level, shape (batch, 2 * FREQUENCIES)."""
    angles = c_noise[:, None] * mx.array(np.geomspace(0.5, 16, FREQUENCIES).astype(np.float32))
    return mx.concatenate([mx.sin(angles), mx.cos(angles)], axis=1)


class Block(nn.Module):
    """Attention and MLP, each modulated and gated by the condition (adaLN-Zero)."""

    def __init__(self, width: int, heads: int, mlp_ratio: int, attention: str) -> None:
        super().__init__()
        self.heads = heads
        self.attention = attention
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, mlp_ratio * width)
        self.down = nn.Linear(mlp_ratio * width, width)
        self.modulation = nn.Linear(width, 6 * width)
        self.modulation.weight = mx.zeros_like(self.modulation.weight)
        self.modulation.bias = mx.zeros_like(self.modulation.bias)

    def __call__(self, x: mx.array, condition: mx.array) -> mx.array:
        """Tokens (batch, tokens, width) in and out."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = mx.split(self.modulation(condition)[:, None, :], 6, axis=-1)
        h = mx.fast.rms_norm(x, None, 1e-5) * (1 + scale_a) + shift_a
        x = x + gate_a * self.proj(self._attend(self.qkv(h)))
        h = mx.fast.rms_norm(x, None, 1e-5) * (1 + scale_m) + shift_m
        return x + gate_m * self.down(mx.square(nn.relu(self.up(h))))

    def _attend(self, qkv: mx.array) -> mx.array:
        batch, tokens, triple = qkv.shape
        size = triple // 3 // self.heads
        q, k, v = mx.split(qkv.reshape(batch, tokens, 3 * self.heads, size).transpose(0, 2, 1, 3), 3, axis=1)
        scale = 1 / math.sqrt(size)
        if self.attention == "relu":  # Wortsman et al. 2023: ReLU over the number of tokens in place of softmax
            mixed = (nn.relu((q * scale) @ k.transpose(0, 1, 3, 2)) @ v) * (1 / tokens)
        else:
            mixed = mx.fast.scaled_dot_product_attention(q, k, v, scale=scale)
        return mixed.transpose(0, 2, 1, 3).reshape(batch, tokens, triple // 3)


class DiT(nn.Module):
    """F(x, c_noise, label): a class-conditional patch transformer; label ``classes`` means no label."""

    def __init__(
        self,
        channels: int,
        classes: int,
        full_resolution: int,
        width: int = 64,
        depth: int = 4,
        heads: int = 2,
        mlp_ratio: int = 2,
        patch: int = PATCH,
        attention: str = "relu",
        coarse_patch: int | None = None,
    ) -> None:
        super().__init__()
        if attention not in ATTENTIONS:
            raise ConfigurationError(f"attention {attention!r}; allowed: {', '.join(ATTENTIONS)}")
        if heads < 1 or width % heads:
            raise ConfigurationError(f"width {width!r} with {heads!r} heads; allowed are multiples of the heads")
        self.patch = patch
        self.full_resolution = full_resolution
        self.gradient_checkpointing = False
        """Whether the backward pass recomputes each block."""
        self.embed = nn.Linear(patch * patch * channels, width)
        self.position = nn.Linear(4 * FREQUENCIES, width, bias=False)
        self.label = nn.Embedding(classes + 1, width)
        self.level = nn.Linear(2 * FREQUENCIES + 1, width)
        self.condition = nn.Linear(width, width)
        self.blocks = [Block(width, heads, mlp_ratio, attention) for _ in range(depth)]
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, patch * patch * channels)
        for layer in (self.modulation, self.head):
            layer.weight, layer.bias = mx.zeros_like(layer.weight), mx.zeros_like(layer.bias)
        if coarse_patch is not None:
            self.coarse_embed = nn.Linear(coarse_patch**2 * channels, width)
            self.coarse_head = nn.Linear(width, coarse_patch**2 * channels)
            self.coarse_head.weight = mx.zeros_like(self.coarse_head.weight)

    def __call__(self, x: mx.array, c_noise: mx.array, label: mx.array, centres: mx.array | None = None) -> mx.array:
        """Images (batch, side, side, channels) in and out; ``side`` must be a multiple of the patch.

        ``centres`` (batch, 2, tokens a side), in units of the whole picture, say where the tokens of a crop lie, or that they
        are coarse ones; without them the images are whole pictures.
        """
        patch = self.patch if centres is None else x.shape[1] // centres.shape[2]
        embed, head = (self.embed, self.head) if patch == self.patch else (self.coarse_embed, self.coarse_head)
        condition = self._condition(c_noise, label, self._scale(x, centres, patch))
        h = embed(self._patches(x, patch)) + self._positions(x, centres)
        for block in self.blocks:
            h = (checkpoint(block) if self.gradient_checkpointing else block)(h, condition)
        shift, scale = mx.split(self.modulation(condition)[:, None, :], 2, axis=-1)
        return self._images(head(mx.fast.rms_norm(h, None, 1e-5) * (1 + scale) + shift), x.shape, patch)

    def _scale(self, x: mx.array, centres: mx.array | None, patch: int) -> mx.array:
        """Pixels of these images to a pixel of full resolution, as a logarithm, shape (batch, 1)."""
        if centres is None:
            return mx.full((x.shape[0], 1), math.log2(x.shape[1] / self.full_resolution))
        return mx.full((x.shape[0], 1), math.log2(patch / self.full_resolution)) - mx.log2(
            centres[:, 0, 1:2] - centres[:, 0, :1]
        )

    def _positions(self, x: mx.array, centres: mx.array | None) -> mx.array:
        if centres is None:
            return self.position(_position_features(x.shape[1] // self.patch).astype(x.dtype))
        rows, columns = (_axis_features(centres[:, axis]).astype(x.dtype) for axis in (0, 1))
        half = 2 * FREQUENCIES
        of_rows, of_columns = rows @ self.position.weight[:, :half].T, columns @ self.position.weight[:, half:].T
        return (of_rows[:, :, None] + of_columns[:, None]).reshape(x.shape[0], -1, of_rows.shape[-1])

    def _condition(self, c_noise: mx.array, label: mx.array, scale: mx.array) -> mx.array:
        known = self.label(label)
        features = mx.concatenate([level_features(c_noise), scale], axis=1).astype(known.dtype)
        return nn.relu(self.condition(nn.relu(self.level(features) + known)))

    def _patches(self, x: mx.array, p: int) -> mx.array:
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // p, p, width // p, p, channels).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(batch, (height // p) * (width // p), p * p * channels)

    def _images(self, tokens: mx.array, shape: tuple[int, ...], p: int) -> mx.array:
        batch, height, width, channels = shape
        x = tokens.reshape(batch, height // p, width // p, p, p, channels).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(batch, height, width, channels)
