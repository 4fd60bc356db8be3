"""UNet2DConditionModel: the U-Net of latent diffusion (Rombach et al. 2022) and SDXL (Podell et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.nn as nn

from autotuner.diffusion.blas import mx
from autotuner.diffusion.models.config import (
    ModelConfig,
    Schema,
    anything,
    boolean,
    integer,
    names,
    one_of,
    true_or_each,
    whole_or_each,
    wholes,
)
from autotuner.diffusion.models.layers import ACTIVATIONS, GaussianFourierProjection, TimestepEmbedding
from autotuner.diffusion.models.transformer import Transformer2DModel, TransformerOptions
from autotuner.diffusion.models.unet_2d import SHARED_OPTIONS, UNet
from autotuner.errors import ConfigurationError


class UNet2DConditionModel(UNet):
    """A U-Net that looks at a context, such as the states of a text encoder, on every level that says so."""

    SCHEMA = Schema(
        ("UNet2DConditionModel",),
        {
            **SHARED_OPTIONS,
            "in_channels": integer(4, least=1),
            "out_channels": integer(4, least=1),
            "time_embedding_type": one_of("positional", "fourier"),
            "down_block_types": names(("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")),
            "mid_block_type": one_of("UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None),
            "up_block_types": names(("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D")),
            "only_cross_attention": true_or_each(False),
            "block_out_channels": wholes((320, 640, 1280, 1280)),
            "layers_per_block": whole_or_each(2),
            "cross_attention_dim": whole_or_each(1280),
            "transformer_layers_per_block": whole_or_each(1),
            "reverse_transformer_layers_per_block": one_of(None),
            "encoder_hid_dim": one_of(None),
            "encoder_hid_dim_type": one_of(None),
            # diffusers' name for what is the number of heads on each level.
            "attention_head_dim": whole_or_each(8),
            "num_attention_heads": one_of(None),
            "dual_cross_attention": one_of(False, None),
            "use_linear_projection": boolean(False),
            "class_embed_type": one_of(None, "timestep", "identity", "projection", "simple_projection"),
            "addition_embed_type": one_of(None, "text_time"),
            "addition_time_embed_dim": integer(None, least=1),
            "upcast_attention": one_of(False, True, None),
            "resnet_skip_time_act": one_of(False),
            "resnet_out_scale_factor": one_of(1.0),
            "time_embedding_act_fn": one_of(None),
            "timestep_post_act": one_of(None),
            "time_cond_proj_dim": integer(None, least=1),
            "conv_in_kernel": one_of(3, 1, 5, 7),
            "conv_out_kernel": one_of(3, 1, 5, 7),
            "projection_class_embeddings_input_dim": integer(None, least=1),
            "attention_type": one_of("default"),
            "class_embeddings_concat": one_of(False),
            "cross_attention_norm": one_of(None),
            # Read by block types that are refused above, and by nothing else.
            "mid_block_only_cross_attention": anything(),
            "addition_embed_type_num_heads": anything(64),
        },
    )

    def __init__(self, config: ModelConfig | Mapping[str, Any] | str | Path) -> None:
        super().__init__(config)
        config = self.config
        width = config["block_out_channels"][0]
        features, time_width = width, config["time_embedding_dim"] or 4 * width
        if config["time_embedding_type"] == "fourier":
            features = time_width = config["time_embedding_dim"] or 2 * width
            config.require(time_width % 2 == 0, "time_embedding_dim", "an even number for fourier features")
            self.time_proj = GaussianFourierProjection(time_width // 2, 1, log=False, flip_sin_to_cos=config["flip_sin_to_cos"])
        self.time_embedding = TimestepEmbedding(features, time_width, config["act_fn"], config["time_cond_proj_dim"])
        self._make_class_embedding(features, time_width)
        if config["addition_embed_type"] == "text_time":
            for key in ("addition_time_embed_dim", "projection_class_embeddings_input_dim"):
                config.require(config[key] is not None, key, "a whole number when addition_embed_type is text_time")
            self.add_embedding = TimestepEmbedding(config["projection_class_embeddings_input_dim"], time_width)
        transformers = self._transformer_options()
        kernels = (config["conv_in_kernel"], config["conv_out_kernel"])
        self._build(self._options(time_width), partial(_attend, transformers), self._mid(transformers[-1]), kernels)

    def _make_class_embedding(self, features: int, time_width: int) -> None:
        config = self.config
        kind, projected = config["class_embed_type"], config["projection_class_embeddings_input_dim"]
        if kind in ("projection", "simple_projection"):
            config.require(projected is not None, "projection_class_embeddings_input_dim", f"a whole number for {kind}")
        if kind == "timestep":
            self.class_embedding = TimestepEmbedding(features, time_width, config["act_fn"])
        elif kind == "projection":
            self.class_embedding = TimestepEmbedding(projected, time_width)
        elif kind == "simple_projection":
            self.class_embedding = nn.Linear(projected, time_width)
        elif kind is None and config["num_class_embeds"] is not None:
            self.class_embedding = nn.Embedding(config["num_class_embeds"], time_width)

    def _transformer_options(self) -> list[TransformerOptions]:
        config = self.config
        levels = len(config["block_out_channels"])
        keys = ("attention_head_dim", "transformer_layers_per_block", "cross_attention_dim", "only_cross_attention")
        return [
            TransformerOptions(
                heads,
                depth,
                context,
                config["norm_num_groups"],
                config["use_linear_projection"],
                bool(config["upcast_attention"]),
                only_cross,
            )
            for heads, depth, context, only_cross in zip(*(config.each(key, levels) for key in keys), strict=True)
        ]

    def _mid(self, options: TransformerOptions) -> tuple[int, list[nn.Module]] | None:
        kind, channels = self.config["mid_block_type"], self.config["block_out_channels"][-1]
        if kind is None:
            return None
        # only_cross_attention does not reach the lowest level.
        return (1, [Transformer2DModel(channels, replace(options, only_cross=False))]) if "CrossAttn" in kind else (0, [])

    def _check(self, levels: int) -> None:
        super()._check(levels)
        heads = self.config.each("attention_head_dim", levels)
        fits = all(width >= count for width, count in zip(self.config["block_out_channels"], heads, strict=True))
        self.config.require(fits, "attention_head_dim", "numbers of heads, no more than channels")

    def __call__(
        self,
        sample: mx.array,
        timestep: mx.array,
        encoder_hidden_states: mx.array,
        *,
        class_labels: mx.array | None = None,
        text_embeds: mx.array | None = None,
        time_ids: mx.array | None = None,
        timestep_cond: mx.array | None = None,
    ) -> mx.array:
        """The prediction for noisy latents, of their shape (batch, height, width, channels).

        ``timestep`` is (batch,), ``encoder_hidden_states`` (batch, words, cross_attention_dim). SDXL also needs ``text_embeds``
        (batch, pooled size) and ``time_ids`` (batch, 6 or 5: original size, crop, target size or score), models of guided
        distillation ``timestep_cond`` (batch, time_cond_proj_dim). Raises ConfigurationError when one is missing or not wanted.
        """
        self._check_conditions(text_embeds=text_embeds, time_ids=time_ids, timestep_cond=timestep_cond)
        timestep = mx.broadcast_to(timestep, (sample.shape[0],))
        embedding = self.time_embedding(self._positions(timestep), timestep_cond)
        about_class = self._class(class_labels)
        if about_class is not None:
            embedding = embedding + about_class
        if text_embeds is not None and time_ids is not None:
            embedding = embedding + self._size_and_text(text_embeds, time_ids)
        x = self._levels(sample, embedding, encoder_hidden_states)
        return self.conv_out(ACTIVATIONS[self.config["act_fn"]](x))

    def _size_and_text(self, text_embeds: mx.array, time_ids: mx.array) -> mx.array:
        """Podell et al. 2023, section 2.2: every number is embedded as a timestep is."""
        sizes = self._positions(time_ids.flatten(), self.config["addition_time_embed_dim"])
        joined = mx.concatenate([text_embeds, sizes.reshape(text_embeds.shape[0], -1)], axis=-1)
        return self.add_embedding(joined.astype(sizes.dtype))

    def _check_conditions(self, **given: mx.array | None) -> None:
        added = self.config["addition_embed_type"] is not None
        wanted = {"text_embeds": added, "time_ids": added}
        # Only models that were distilled with guidance know this input, and they run without it too.
        wanted["timestep_cond"] = given["timestep_cond"] is not None and self.config["time_cond_proj_dim"] is not None
        for name, want in wanted.items():
            if want != (given[name] is not None):
                told = "is missing" if want else "must be None"
                raise ConfigurationError(f"{self.config.origin}: {name} {told} for this model")


def _attend(transformers: Sequence[TransformerOptions], kind: str, level: int, channels: int) -> nn.Module | None:
    return Transformer2DModel(channels, transformers[level]) if kind.startswith("CrossAttn") else None
