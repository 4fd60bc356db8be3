"""diffusers' `AutoencoderKL`: images to latents and back (Rombach et al. 2022, "High-Resolution Image Synthesis", 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import mlx.nn as nn

from autotuner.diffusion import activations
from autotuner.diffusion.blas import mx
from autotuner.diffusion.models import config as c
from autotuner.diffusion.models.blocks import DownBlock2D, MidBlock2D, Runner, run_again, run_plainly
from autotuner.diffusion.models.layers import ACTIVATIONS, ResnetBlock2D, ResnetOptions, Upsample2D
from autotuner.diffusion.models.normalisation import GroupNorm
from autotuner.diffusion.models.transformer import SpatialAttention
from autotuner.diffusion.models.weights import Model

NORM_EPS = 1e-6
LEAST_LOGVAR, LARGEST_LOGVAR = -30.0, 20.0

SCHEMA = c.Schema(
    class_names=("AutoencoderKL",),
    options={
        "in_channels": c.integer(3, 1),
        "out_channels": c.integer(3, 1),
        "down_block_types": c.names(("DownEncoderBlock2D",)),
        "up_block_types": c.names(("UpDecoderBlock2D",)),
        "block_out_channels": c.wholes((64,)),
        "layers_per_block": c.integer(1, 1),
        "act_fn": c.one_of("silu", *(name for name in ACTIVATIONS if name != "silu")),
        "latent_channels": c.integer(4, 1),
        "norm_num_groups": c.integer(32, 1),
        "sample_size": c.anything(32),
        "scaling_factor": c.number(0.18215),
        "shift_factor": c.Option(None, lambda v: v is None or isinstance(v, int | float), "a number or null"),
        "latents_mean": c.one_of(None),
        "latents_std": c.one_of(None),
        "force_upcast": c.boolean(True),
        "use_quant_conv": c.boolean(True),
        "use_post_quant_conv": c.boolean(True),
        "mid_block_add_attention": c.boolean(True),
    },
)


class DiagonalGaussian(NamedTuple):
    """What an image is encoded to: independent normal distributions, (batch, height, width, latent_channels)."""

    mean: mx.array
    logvar: mx.array

    def sample(self, key: mx.array | None = None) -> mx.array:
        """A draw, by MLX's global random state unless there is a key."""
        noise = mx.random.normal(self.mean.shape, dtype=self.mean.dtype, key=key)
        return self.mean + mx.exp(0.5 * self.logvar) * noise

    def kl(self) -> mx.array:
        """Divergence from the standard normal distribution in nats, (batch,) (Kingma and Welling 2014, appendix B)."""
        return 0.5 * mx.sum(mx.square(self.mean) + mx.exp(self.logvar) - 1 - self.logvar, axis=(1, 2, 3))


class UpDecoderBlock2D(nn.Module):
    """A level of the decoder: residual blocks, then twice the size."""

    def __init__(self, inputs: int, outputs: int, layers: int, options: ResnetOptions, *, upsample: bool) -> None:
        super().__init__()
        self.resnets = [ResnetBlock2D(outputs if layer else inputs, outputs, options) for layer in range(layers)]
        self.upsamplers = [Upsample2D(outputs)] if upsample else []

    def __call__(self, x: mx.array, run: Runner = run_plainly) -> mx.array:
        """Feature maps in and out."""
        for layer in (*self.resnets, *self.upsamplers):
            x = run(layer, x)
        return x


class Encoder(nn.Module):
    """Images (batch, height, width, in_channels) to mean and log variance, a level smaller after every level but the last."""

    def __init__(self, config: c.ModelConfig, options: ResnetOptions) -> None:
        super().__init__()
        widths: tuple[int, ...] = config["block_out_channels"]
        self.conv_in = nn.Conv2d(config["in_channels"], widths[0], 3, padding=1)
        self.down_blocks = [
            DownBlock2D(
                widths[max(level - 1, 0)],
                width,
                config["layers_per_block"],
                options,
                downsample_padding=None if level == len(widths) - 1 else 0,
            )
            for level, width in enumerate(widths)
        ]
        self.mid_block = _middle(config, options)
        self.conv_norm_out = GroupNorm(options.groups, widths[-1], NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config["latent_channels"], 3, padding=1)

    def __call__(self, x: mx.array, run: Runner = run_plainly) -> mx.array:
        """Images to (batch, height, width, 2 latent_channels)."""
        x = self.conv_in(x)
        for block in self.down_blocks:
            x, _ = block(x, None, run=run)
        return self.conv_out(activations.silu(self.conv_norm_out(self.mid_block(x, run=run))))


class Decoder(nn.Module):
    """Latents (batch, height, width, latent_channels) to images, a level larger after every level but the last."""

    def __init__(self, config: c.ModelConfig, options: ResnetOptions) -> None:
        super().__init__()
        widths: tuple[int, ...] = config["block_out_channels"][::-1]
        self.conv_in = nn.Conv2d(config["latent_channels"], widths[0], 3, padding=1)
        self.mid_block = _middle(config, options)
        self.up_blocks = [
            UpDecoderBlock2D(
                widths[max(level - 1, 0)],
                width,
                config["layers_per_block"] + 1,
                options,
                upsample=level < len(widths) - 1,
            )
            for level, width in enumerate(widths)
        ]
        self.conv_norm_out = GroupNorm(options.groups, widths[-1], NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], config["out_channels"], 3, padding=1)

    def __call__(self, x: mx.array, run: Runner = run_plainly) -> mx.array:
        """Latents to images."""
        x = self.mid_block(self.conv_in(x), run=run)
        for block in self.up_blocks:
            x = block(x, run=run)
        return self.conv_out(activations.silu(self.conv_norm_out(x)))


def _middle(config: c.ModelConfig, options: ResnetOptions) -> MidBlock2D:
    width: int = config["block_out_channels"][-1]
    seeing = [SpatialAttention(width, None, options, options.groups)] if config["mid_block_add_attention"] else []
    return MidBlock2D(width, options, layers=1, attentions=seeing)


class AutoencoderKL(Model):
    """Images in [-1, 1] to distributions of latents, and latents to images; all arrays have their channels last.

    ``encode(images).sample()`` are raw latents; ``standardise`` brings them to the scale on which a diffusion model works, and
    ``raw`` back. ``gradient_checkpointing`` may be set at any time: every layer then runs again for its gradient.
    """

    SCHEMA: ClassVar[c.Schema] = SCHEMA

    def __init__(self, config: c.ModelConfig | Mapping[str, Any] | str | Path) -> None:
        super().__init__(config)
        self.gradient_checkpointing = False
        _check(self.config)
        options = ResnetOptions(None, self.config["norm_num_groups"], NORM_EPS, self.config["act_fn"])
        self.encoder = Encoder(self.config, options)
        self.decoder = Decoder(self.config, options)
        channels: int = self.config["latent_channels"]
        if self.config["use_quant_conv"]:
            self.quant_conv = nn.Conv2d(2 * channels, 2 * channels, 1)
        if self.config["use_post_quant_conv"]:
            self.post_quant_conv = nn.Conv2d(channels, channels, 1)

    @property
    def reduction(self) -> int:
        """Pixels along an edge for each latent; an edge that is no multiple of it is decoded smaller."""
        return 2 ** (len(self.config["block_out_channels"]) - 1)

    def encode(self, images: mx.array) -> DiagonalGaussian:
        """Images (batch, height, width, in_channels) to a distribution of raw latents."""
        moments = self.encoder(images, run=self._run())
        moments = self.quant_conv(moments) if "quant_conv" in self else moments
        mean, logvar = mx.split(moments, 2, axis=-1)
        return DiagonalGaussian(mean, mx.clip(logvar, LEAST_LOGVAR, LARGEST_LOGVAR))

    def decode(self, latents: mx.array) -> mx.array:
        """Raw latents (batch, height, width, latent_channels) to images."""
        latents = self.post_quant_conv(latents) if "post_quant_conv" in self else latents
        return self.decoder(latents, run=self._run())

    def __call__(self, images: mx.array) -> mx.array:
        """Images to the images that their mean latents are decoded to."""
        return self.decode(self.encode(images).mean)

    def standardise(self, latents: mx.array) -> mx.array:
        """(latents - shift_factor) scaling_factor: about unit variance (Rombach et al. 2022, appendix G)."""
        return (latents - (self.config["shift_factor"] or 0.0)) * self.config["scaling_factor"]

    def raw(self, standardised: mx.array) -> mx.array:
        """The inverse of ``standardise``."""
        return standardised / self.config["scaling_factor"] + (self.config["shift_factor"] or 0.0)

    def _run(self) -> Runner:
        return run_again if self.gradient_checkpointing else run_plainly


def _check(config: c.ModelConfig) -> None:
    widths = config["block_out_channels"]
    levels = len(widths)
    for key in ("down_block_types", "up_block_types"):
        config.require(len(config[key]) == levels, key, f"a list of {levels} like block_out_channels")
    groups = config["norm_num_groups"]
    config.require(all(width % groups == 0 for width in widths), "block_out_channels", f"multiples of norm_num_groups {groups}")
    config.require(config["scaling_factor"] > 0, "scaling_factor", "a number above 0")
