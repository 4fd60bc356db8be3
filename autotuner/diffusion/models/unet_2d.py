"""UNet2DModel: the U-Net of "Denoising Diffusion Probabilistic Models" (Ho et al. 2020, appendix B) as diffusers builds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.nn as nn

from autotuner.diffusion import activations
from autotuner.diffusion.blas import mx
from autotuner.diffusion.models.blocks import DownBlock2D, MidBlock2D, UpBlock2D, run_again, run_plainly
from autotuner.diffusion.models.config import (
    ModelConfig,
    Option,
    Schema,
    anything,
    boolean,
    integer,
    names,
    number,
    one_of,
    wholes,
)
from autotuner.diffusion.models.layers import (
    ACTIVATIONS,
    GaussianFourierProjection,
    ResnetOptions,
    TimestepEmbedding,
    timestep_features,
)
from autotuner.diffusion.models.normalisation import GroupNorm
from autotuner.diffusion.models.transformer import SpatialAttention
from autotuner.diffusion.models.weights import Model
from autotuner.errors import ConfigurationError

Attend = Callable[[str, int, int], nn.Module | None]
"""The attention behind one residual block of a level, by the block's type, the level and its channels."""

SHARED_OPTIONS: Mapping[str, Option] = {
    "sample_size": anything(),
    "center_input_sample": boolean(False),
    "flip_sin_to_cos": boolean(True),
    "freq_shift": number(0),
    "layers_per_block": integer(2, least=1),
    "downsample_padding": one_of(1, 0),
    "mid_block_scale_factor": number(1),
    # Dropout would draw other numbers when a checkpointed layer is called again; no published model here uses it.
    "dropout": one_of(0.0),
    "act_fn": one_of("silu", *(name for name in ACTIVATIONS if name != "silu")),
    "norm_num_groups": integer(32, least=1),
    "norm_eps": number(1e-5),
    "resnet_time_scale_shift": one_of("default", "scale_shift"),
    "num_class_embeds": integer(None, least=1),
    "time_embedding_dim": integer(None, least=1),
}


class UNet(Model):
    """What both U-Nets share: levels down and up, and what stands before and behind them."""

    gradient_checkpointing: bool
    """Keep only the inputs of every residual block and attention, and compute the rest again for the gradient.

    May be set at any time; a compiled step keeps the value that it was traced with."""

    def __init__(self, config: ModelConfig | Mapping[str, Any] | str | Path) -> None:
        super().__init__(config)
        self.gradient_checkpointing = False
        self._check(len(self.config["block_out_channels"]))

    def _build(
        self, options: ResnetOptions, attend: Attend, mid: tuple[int, list[nn.Module]] | None, kernels: tuple[int, int]
    ) -> None:
        """Make all layers but those of the embedding; ``mid`` is its number of attention layers, and those, or None."""
        config = self.config
        channels = config["block_out_channels"]
        self.conv_in = nn.Conv2d(config["in_channels"], channels[0], kernels[0], padding=(kernels[0] - 1) // 2)
        self.down_blocks = self._down(options, attend)
        if mid is not None:
            self.mid_block = MidBlock2D(channels[-1], replace(options, output_scale=config["mid_block_scale_factor"]), *mid)
        self.up_blocks = self._up(options, attend)
        self.conv_norm_out = GroupNorm(options.groups, channels[0], options.eps)
        self.conv_out = nn.Conv2d(channels[0], config["out_channels"], kernels[1], padding=(kernels[1] - 1) // 2)

    def _down(self, options: ResnetOptions, attend: Attend) -> list[DownBlock2D]:
        channels = self.config["block_out_channels"]
        layers = self.config.each("layers_per_block", len(channels))
        return [
            DownBlock2D(
                channels[max(level - 1, 0)],
                channels[level],
                layers[level],
                options,
                _attentions(attend, kind, level, channels[level], layers[level]),
                self.config["downsample_padding"] if level < len(channels) - 1 else None,
            )
            for level, kind in enumerate(self.config["down_block_types"])
        ]

    def _up(self, options: ResnetOptions, attend: Attend) -> list[UpBlock2D]:
        channels = self.config["block_out_channels"]
        layers = self.config.each("layers_per_block", len(channels))
        return [
            UpBlock2D(
                channels[min(level + 1, len(channels) - 1)],
                channels[level],
                [*[channels[level]] * layers[level], channels[max(level - 1, 0)]],
                options,
                _attentions(attend, kind, level, channels[level], layers[level] + 1),
                upsample=level > 0,
            )
            for level, kind in zip(reversed(range(len(channels))), self.config["up_block_types"], strict=True)
        ]

    def _options(self, time_width: int) -> ResnetOptions:
        config = self.config
        return ResnetOptions(
            time_width,
            config["norm_num_groups"],
            config["norm_eps"],
            config["act_fn"],
            config["resnet_time_scale_shift"] == "scale_shift",
        )

    def _check(self, levels: int) -> None:
        config = self.config
        for key in ("down_block_types", "up_block_types"):
            config.require(len(config[key]) == levels, key, f"{levels} names, one for each of block_out_channels")
        groups = config["norm_num_groups"]
        divided = all(width % groups == 0 for width in config["block_out_channels"])
        config.require(divided, "block_out_channels", f"multiples of norm_num_groups, {groups}")

    def _levels(self, sample: mx.array, embedding: mx.array, *context: mx.array) -> mx.array:
        run = run_again if self.gradient_checkpointing else run_plainly
        x = self.conv_in(2 * sample - 1 if self.config["center_input_sample"] else sample)
        skips = [x]
        for down in self.down_blocks:
            x, more = down(x, embedding, *context, run=run)
            skips += more
        if "mid_block" in self:
            x = self.mid_block(x, embedding, *context, run=run)
        for up in self.up_blocks:
            x = up(x, embedding, skips, *context, run=run)
        return self.conv_norm_out(x)

    def _positions(self, timestep: mx.array, size: int | None = None) -> mx.array:
        """Features of timesteps in the precision of the weights."""
        config = self.config
        if size is None and "time_proj" in self:
            features = self.time_proj(timestep)
        else:
            features = timestep_features(
                timestep,
                size or config["block_out_channels"][0],
                flip_sin_to_cos=config["flip_sin_to_cos"],
                freq_shift=config["freq_shift"],
            )
        return features.astype(self.conv_in.weight.dtype)

    def _class(self, labels: mx.array | None) -> mx.array | None:
        """The embedding of class labels; ConfigurationError when they are missing or the model has no classes."""
        kind, classes = self.config["class_embed_type"], self.config["num_class_embeds"]
        conditional = kind is not None or classes is not None
        if conditional != (labels is not None):
            told = "needs class_labels" if conditional else "has no classes; class_labels must be None"
            raise ConfigurationError(
                f"{self.config.origin}: the model {told} (class_embed_type {kind!r}, num_class_embeds {classes!r})"
            )
        if labels is None:
            return None
        given = self._positions(labels) if kind == "timestep" else labels
        return (given if kind == "identity" else self.class_embedding(given)).astype(self.conv_in.weight.dtype)


class UNet2DModel(UNet):
    """A U-Net without a context: an image, a timestep, and a class if it was trained with classes."""

    SCHEMA = Schema(
        ("UNet2DModel",),
        {
            **SHARED_OPTIONS,
            "in_channels": integer(3, least=1),
            "out_channels": integer(3, least=1),
            "time_embedding_type": one_of("positional", "fourier", "learned"),
            "down_block_types": names(("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")),
            "mid_block_type": one_of("UNetMidBlock2D", None),
            "up_block_types": names(("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")),
            "block_out_channels": wholes((224, 448, 672, 896)),
            "downsample_type": one_of("conv"),
            "upsample_type": one_of("conv"),
            "attention_head_dim": integer(8, least=1, null=True),
            "attn_norm_num_groups": integer(None, least=1),
            "add_attention": boolean(True),
            "class_embed_type": one_of(None, "timestep", "identity"),
            "num_train_timesteps": integer(None, least=1),
        },
    )

    def __init__(self, config: ModelConfig | Mapping[str, Any] | str | Path) -> None:
        super().__init__(config)
        config = self.config
        width = config["block_out_channels"][0]
        time_width = config["time_embedding_dim"] or 4 * width
        features = width
        if config["time_embedding_type"] == "fourier":
            self.time_proj = GaussianFourierProjection(width, 16, log=True, flip_sin_to_cos=False)
            features = 2 * width
        elif config["time_embedding_type"] == "learned":
            config.require(
                config["num_train_timesteps"] is not None, "num_train_timesteps", "a whole number for learned timesteps"
            )
            self.time_proj = nn.Embedding(config["num_train_timesteps"], width)
        self.time_embedding = TimestepEmbedding(features, time_width)
        if config["class_embed_type"] == "timestep":
            self.class_embedding = TimestepEmbedding(features, time_width)
        elif config["class_embed_type"] is None and config["num_class_embeds"] is not None:
            self.class_embedding = nn.Embedding(config["num_class_embeds"], time_width)
        options = self._options(time_width)
        self._build(options, partial(_attend, config, options), self._mid(options), (3, 3))

    def _mid(self, options: ResnetOptions) -> tuple[int, list[nn.Module]] | None:
        config = self.config
        if config["mid_block_type"] is None:
            return None
        scaled = replace(options, output_scale=config["mid_block_scale_factor"])
        # With scale and shift the attention is not normalised unless attn_norm_num_groups asks for it.
        groups = config["attn_norm_num_groups"] or (None if options.scale_shift else options.groups)
        attention = SpatialAttention(config["block_out_channels"][-1], config["attention_head_dim"], scaled, groups)
        return 1, [attention] if config["add_attention"] else []

    def _check(self, levels: int) -> None:
        super()._check(levels)
        size = self.config["attention_head_dim"]
        fits = size is None or size <= min(self.config["block_out_channels"])
        self.config.require(fits, "attention_head_dim", "a size of heads, no more than the fewest channels")

    def __call__(self, sample: mx.array, timestep: mx.array, class_labels: mx.array | None = None) -> mx.array:
        """The prediction for noisy images, of their shape (batch, height, width, channels).

        ``timestep`` (batch,) counts as in training, ``class_labels`` (batch,) are class numbers, timesteps, or embeddings
        (batch, time width) as class_embed_type says. Raises ConfigurationError when labels are missing or not wanted.
        """
        timestep = mx.broadcast_to(timestep, (sample.shape[0],))
        embedding = self.time_embedding(self._positions(timestep))
        about_class = self._class(class_labels)
        x = self._levels(sample, embedding if about_class is None else embedding + about_class)
        # The last activation is always this one, whatever act_fn says.
        x = self.conv_out(activations.silu(x))
        if self.config["time_embedding_type"] == "fourier":
            x = (x / timestep.reshape(-1, 1, 1, 1)).astype(x.dtype)
        return x


def _attentions(attend: Attend, kind: str, level: int, channels: int, count: int) -> list[nn.Module]:
    return [made for _ in range(count) if (made := attend(kind, level, channels)) is not None]


def _attend(config: ModelConfig, options: ResnetOptions, kind: str, level: int, channels: int) -> nn.Module | None:
    if not kind.startswith("Attn"):
        return None
    return SpatialAttention(channels, config["attention_head_dim"], options, options.groups)
