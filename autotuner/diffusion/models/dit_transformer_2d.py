"""diffusers' `DiTTransformer2DModel` (Peebles and Xie 2023, "Scalable Diffusion Models with Transformers")."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import mlx.nn as nn
import numpy as np

from autotuner.diffusion import activations
from autotuner.diffusion.blas import mx
from autotuner.diffusion.models import config as c
from autotuner.diffusion.models.blocks import run_again, run_plainly
from autotuner.diffusion.models.layers import TimestepEmbedding, timestep_features
from autotuner.diffusion.models.transformer import Attention
from autotuner.diffusion.models.weights import Model
from autotuner.errors import ConfigurationError

NORM_EPS = 1e-6
"""Of every norm but the one before the feed-forward layer, whose own is in the configuration."""
TIME_FEATURES = 256
ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {"gelu-approximate": activations.gelu_tanh, "gelu": nn.gelu}

LEGACY_CLASS = "Transformer2DModel"
"""The class that DiTs were published under; its defaults are not those of the later one, so its files must say these keys."""
LEGACY_KEYS = (
    "activation_fn",
    "attention_bias",
    "attention_head_dim",
    "norm_elementwise_affine",
    "norm_type",
    "num_attention_heads",
    "num_embeds_ada_norm",
    "num_layers",
    "patch_size",
    "sample_size",
)

SCHEMA = c.Schema(
    class_names=("DiTTransformer2DModel", LEGACY_CLASS),
    options={
        "num_attention_heads": c.integer(16, 1),
        "attention_head_dim": c.integer(72, 1),
        "in_channels": c.integer(4, 1),
        "out_channels": c.integer(None, 1),
        "num_layers": c.integer(28, 1),
        "dropout": c.one_of(0.0),
        "norm_num_groups": c.anything(32),
        "attention_bias": c.boolean(True),
        "sample_size": c.integer(32, 1),
        "patch_size": c.integer(2, 1),
        "activation_fn": c.one_of("gelu-approximate", "gelu"),
        "num_embeds_ada_norm": c.integer(1000, 1),
        "upcast_attention": c.boolean(False),
        "norm_type": c.one_of("ada_norm_zero"),
        "norm_elementwise_affine": c.boolean(False),
        "norm_eps": c.number(1e-5),
        # Keys of the older class.
        "attention_type": c.one_of("default"),
        "caption_channels": c.one_of(None),
        "cross_attention_dim": c.one_of(None),
        "double_self_attention": c.one_of(False),
        "num_vector_embeds": c.one_of(None),
        "only_cross_attention": c.one_of(False),
        "use_linear_projection": c.anything(False),
    },
)


@functools.lru_cache(maxsize=16)
def positions(rows: int, columns: int, base: int, size: int) -> mx.array:
    """Sines and cosines (rows columns, size) of where each patch is; the first half of ``size`` tells the column.

    The positions of Vaswani et al. 2017, section 3.5, along each axis. A grid of another size is stretched to ``base`` along
    each axis, so that a patch's position says where in the picture it is.
    """
    rates = 10_000.0 ** (-np.arange(size // 4) / (size // 4))

    def waves(count: int) -> np.ndarray:
        angles = np.outer(np.arange(count) * (base / count), rates)
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    across, down = np.tile(waves(columns), (rows, 1)), np.repeat(waves(rows), columns, axis=0)
    return mx.array(np.concatenate([across, down], axis=1).astype(np.float32))


class PatchEmbed(nn.Module):
    """Square patches to vectors, and their positions."""

    def __init__(self, config: c.ModelConfig, width: int) -> None:
        super().__init__()
        self._patch: int = config["patch_size"]
        self._base: int = config["sample_size"] // self._patch
        # A convolution by name and weights only: it is computed as one product, which unlike it has a forward derivative.
        self.proj = nn.Conv2d(config["in_channels"], width, self._patch, stride=self._patch)

    def __call__(self, x: mx.array) -> mx.array:
        """(batch, height, width, in_channels) to (batch, patches, width)."""
        batch, height, width, channels = x.shape
        patch, weight = self._patch, self.proj.weight
        rows, columns = height // patch, width // patch
        cut = x.reshape(batch, rows, patch, columns, patch, channels).swapaxes(2, 3)
        tokens = cut.reshape(batch, rows * columns, -1) @ weight.reshape(weight.shape[0], -1).T + self.proj.bias
        return (tokens + positions(rows, columns, self._base, weight.shape[0])).astype(tokens.dtype)


class LabelEmbedding(nn.Module):
    """A vector for each class, and one for none."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(classes + 1, width)

    def __call__(self, labels: mx.array) -> mx.array:
        """(batch,) to (batch, width)."""
        # Checkpointing asks for the gradient of every argument of a block, and an index has none.
        return self.embedding_table(mx.stop_gradient(labels))


class ConditionEmbedding(nn.Module):
    """Time and class as one vector."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedding(TIME_FEATURES, width)
        self.class_embedder = LabelEmbedding(classes, width)

    def __call__(self, features: mx.array, labels: mx.array) -> mx.array:
        """(batch, TIME_FEATURES) and (batch,) to (batch, width)."""
        embedded = self.class_embedder(labels)
        return self.timestep_embedder(features.astype(embedded.dtype)) + embedded


class AdaLayerNormZero(nn.Module):
    """The condition as shifts, scales and gates of one block (adaLN-Zero, section 3.2 of the paper)."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.emb = ConditionEmbedding(classes, width)
        self.linear = nn.Linear(width, 6 * width)

    def __call__(self, features: mx.array, labels: mx.array) -> list[mx.array]:
        """Shift, scale and gate of the attention, then those of the feed-forward layer, each (batch, 1, width)."""
        return list(mx.split(self.linear(nn.silu(self.emb(features, labels)))[:, None], 6, axis=-1))


class Projection(nn.Module):
    """A linear layer and an activation."""

    def __init__(self, inputs: int, outputs: int, activation: str) -> None:
        super().__init__()
        self.proj = nn.Linear(inputs, outputs)
        self._act = ACTIVATIONS[activation]

    def __call__(self, x: mx.array) -> mx.array:
        """(..., inputs) to (..., outputs)."""
        return self._act(self.proj(x))


class FeedForward(nn.Module):
    """A layer four times as wide, and back."""

    def __init__(self, width: int, activation: str) -> None:
        super().__init__()
        # The middle place is dropout in diffusers, which has no weights; the numbers are part of the weights' names.
        self.net = [Projection(width, 4 * width, activation), nn.Identity(), nn.Linear(4 * width, width)]

    def __call__(self, x: mx.array) -> mx.array:
        """(..., width) in and out."""
        return self.net[2](self.net[0](x))


class Block(nn.Module):
    """Self-attention and a feed-forward layer, both shifted, scaled and gated by the condition."""

    def __init__(self, config: c.ModelConfig, width: int) -> None:
        super().__init__()
        self.norm1 = AdaLayerNormZero(config["num_embeds_ada_norm"], width)
        self.attn1 = Attention(
            width,
            config["num_attention_heads"],
            config["attention_head_dim"],
            bias=config["attention_bias"],
            upcast=config["upcast_attention"],
        )
        self.norm3 = nn.LayerNorm(width, config["norm_eps"], affine=config["norm_elementwise_affine"])
        self.ff = FeedForward(width, config["activation_fn"])

    def __call__(self, x: mx.array, features: mx.array, labels: mx.array) -> mx.array:
        """(batch, patches, width) in and out."""
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = self.norm1(features, labels)
        x = x + gate_a * self.attn1(_normalised(x) * (1 + scale_a) + shift_a)
        return x + gate_f * self.ff(self.norm3(x) * (1 + scale_f) + shift_f)


def _normalised(x: mx.array) -> mx.array:
    return mx.fast.layer_norm(x, None, None, NORM_EPS)


class DiTTransformer2DModel(Model):
    """Latents, timesteps and classes to the noise, and to its variance where ``out_channels`` is twice ``in_channels``.

    Sizes other than the configuration's ``sample_size`` stretch the positions. For squares so does diffusers; that height and
    width may differ is an addition of ours. ``gradient_checkpointing`` may be set at any time: every block then runs again for
    its gradient. The configuration may be one of `Transformer2DModel`, the class that DiTs were published under.
    """

    SCHEMA: ClassVar[c.Schema] = SCHEMA

    def __init__(self, config: c.ModelConfig | Mapping[str, Any] | str | Path) -> None:
        super().__init__(config)
        config = self.config
        self.gradient_checkpointing = False
        width = config["num_attention_heads"] * config["attention_head_dim"]
        _check(config, width)
        self.out_channels: int = config["out_channels"] or config["in_channels"]
        self.pos_embed = PatchEmbed(config, width)
        self.transformer_blocks = [Block(config, width) for _ in range(config["num_layers"])]
        self.proj_out_1 = nn.Linear(width, 2 * width)
        self.proj_out_2 = nn.Linear(width, config["patch_size"] ** 2 * self.out_channels)

    @property
    def null_label(self) -> int:
        """The label that stands for no class: put it in place of labels to train and to sample with guidance."""
        return int(self.config["num_embeds_ada_norm"])

    def __call__(self, sample: mx.array, timestep: mx.array, class_labels: mx.array) -> mx.array:
        """(batch, height, width, in_channels), (batch,) and (batch,) to (batch, height, width, out_channels).

        Raises ConfigurationError where height or width is no multiple of the patch size.
        """
        patch = self.config["patch_size"]
        _, height, width, _ = sample.shape
        if height % patch or width % patch:
            raise ConfigurationError(
                f"latents of {height} x {width}: {self.config.origin} needs multiples of patch_size {patch}"
            )
        features = timestep_features(timestep, TIME_FEATURES, flip_sin_to_cos=True, freq_shift=1)
        run = run_again if self.gradient_checkpointing else run_plainly
        x = self.pos_embed(sample)
        for block in self.transformer_blocks:
            x = run(block, x, features, class_labels)
        condition = self.transformer_blocks[0].norm1.emb(features, class_labels)
        shift, scale = mx.split(self.proj_out_1(nn.silu(condition))[:, None], 2, axis=-1)
        return self._images(self.proj_out_2(_normalised(x) * (1 + scale) + shift), height // patch, width // patch)

    def _images(self, x: mx.array, rows: int, columns: int) -> mx.array:
        patch = self.config["patch_size"]
        cut = x.reshape(-1, rows, columns, patch, patch, self.out_channels).swapaxes(2, 3)
        return cut.reshape(-1, rows * patch, columns * patch, self.out_channels)


def _check(config: c.ModelConfig, width: int) -> None:
    config.require(width % 4 == 0, "attention_head_dim", "what makes num_attention_heads times it a multiple of 4")
    patch = config["patch_size"]
    config.require(config["sample_size"] >= patch, "sample_size", f"at least patch_size {patch}")
    if c.class_name(config.raw) == LEGACY_CLASS:
        absent = [key for key in LEGACY_KEYS if key not in config.raw]
        if absent:
            raise ConfigurationError(f"{config.origin}: {LEGACY_CLASS} without {', '.join(absent)}; a DiT says all of them")
