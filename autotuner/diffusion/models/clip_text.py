"""transformers' CLIP text encoders, on which Stable Diffusion is conditioned (Radford et al. 2021, section 2.4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import mlx.nn as nn

from autotuner.diffusion.attention import attention
from autotuner.diffusion.blas import mx
from autotuner.diffusion.models import config as c
from autotuner.diffusion.models.weights import Model
from autotuner.errors import ConfigurationError

ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "quick_gelu": nn.gelu_fast_approx,  # x sigmoid(1.702 x)
    "gelu": nn.gelu,
}

LEGACY_END = 2
"""The wrong id of the end token that configurations were published with; the true one was the largest in the vocabulary."""

PREFIX = "text_model."
NOT_WEIGHTS = "embeddings.position_ids"
"""In old files: the numbers from 0 on."""

OPTIONS: Mapping[str, c.Option] = {
    "vocab_size": c.integer(49408, 1),
    "hidden_size": c.integer(512, 1),
    "intermediate_size": c.integer(2048, 1),
    "projection_dim": c.integer(512, 1),
    "num_hidden_layers": c.integer(12, 1),
    "num_attention_heads": c.integer(8, 1),
    "max_position_embeddings": c.integer(77, 1),
    "hidden_act": c.one_of("quick_gelu", "gelu"),
    "layer_norm_eps": c.number(1e-5),
    "eos_token_id": c.integer(49407),
    "attention_dropout": c.one_of(0.0),
    "dropout": c.one_of(0.0),
    "model_type": c.one_of("clip_text_model"),
    **{
        key: c.anything()
        for key in (
            "bos_token_id",
            "pad_token_id",
            "initializer_factor",
            "initializer_range",
            "dtype",
            "torch_dtype",
            "transformers_version",
        )
    },
}


class CLIPTextOutput(NamedTuple):
    """What an encoder makes of token ids; every array is (batch, tokens, hidden_size) except ``pooled``."""

    last_hidden_state: mx.array
    """After the final norm: what Stable Diffusion 1 and 2 attend to."""
    pooled: mx.array
    """At the end token: (batch, hidden_size), or (batch, projection_dim) where there is a projection."""
    hidden_states: tuple[mx.array, ...]
    """The embeddings and every layer's output, before the final norm; SDXL attends to the last but one."""


class Embeddings(nn.Module):
    """Token and position vectors."""

    def __init__(self, config: c.ModelConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.position_embedding = nn.Embedding(config["max_position_embeddings"], config["hidden_size"])

    def __call__(self, input_ids: mx.array) -> mx.array:
        """(batch, tokens) to (batch, tokens, hidden_size)."""
        return self.token_embedding(input_ids) + self.position_embedding.weight[: input_ids.shape[1]]


class SelfAttention(nn.Module):
    """Multi-head attention of tokens over what the mask lets them see."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self._heads = heads

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        """(batch, tokens, width) in and out."""
        q, k, v = (self._split(layer(x)) for layer in (self.q_proj, self.k_proj, self.v_proj))
        mixed = attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=mask)
        return self.out_proj(mixed.transpose(0, 2, 1, 3).flatten(2))

    def _split(self, x: mx.array) -> mx.array:
        return x.reshape(*x.shape[:2], self._heads, -1).transpose(0, 2, 1, 3)


class MLP(nn.Module):
    """Two linear layers."""

    def __init__(self, width: int, inner: int, activation: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)
        self._act = ACTIVATIONS[activation]

    def __call__(self, x: mx.array) -> mx.array:
        """(..., width) in and out."""
        return self.fc2(self._act(self.fc1(x)))


class EncoderLayer(nn.Module):
    """Attention and two linear layers, each normalised first and added."""

    def __init__(self, config: c.ModelConfig) -> None:
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.layer_norm1 = nn.LayerNorm(width, eps)
        self.self_attn = SelfAttention(width, config["num_attention_heads"])
        self.layer_norm2 = nn.LayerNorm(width, eps)
        self.mlp = MLP(width, config["intermediate_size"], config["hidden_act"])

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        """(batch, tokens, width) in and out."""
        x = x + self.self_attn(self.layer_norm1(x), mask)
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    """The layers, under the name that transformers' files have for them."""

    def __init__(self, config: c.ModelConfig) -> None:
        super().__init__()
        self.layers = [EncoderLayer(config) for _ in range(config["num_hidden_layers"])]

    def __call__(self, x: mx.array, mask: mx.array) -> tuple[mx.array, ...]:
        """The input and every layer's output."""
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1], mask))
        return tuple(states)


class TextTransformer(nn.Module):
    """Embeddings, layers and final norm: what both encoders share."""

    def __init__(self, config: c.ModelConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.final_layer_norm = nn.LayerNorm(config["hidden_size"], config["layer_norm_eps"])
        self._end: int = config["eos_token_id"]

    def __call__(self, input_ids: mx.array, attention_mask: mx.array | None) -> CLIPTextOutput:
        """Token ids to hidden states and the final state at each end token."""
        states = self.encoder(self.embeddings(input_ids), _mask(input_ids, attention_mask))
        last = self.final_layer_norm(states[-1])
        at_end = mx.argmax(input_ids if self._end == LEGACY_END else input_ids == self._end, axis=-1)
        pooled = mx.take_along_axis(last, at_end[:, None, None], axis=1)[:, 0]
        return CLIPTextOutput(last, pooled, states)


def _mask(input_ids: mx.array, attention_mask: mx.array | None) -> mx.array:
    """True where a token may look: at itself and before, and where the mask (batch, tokens) is not 0."""
    places = mx.arange(input_ids.shape[1])
    causal = places[:, None] >= places[None, :]
    return causal if attention_mask is None else causal & (attention_mask != 0)[:, None, None, :]


class CLIPTextModel(Model):
    """Token ids (batch, tokens) to hidden states: the encoder of Stable Diffusion 1 and 2, and the first of SDXL."""

    SCHEMA: ClassVar[c.Schema] = c.Schema(("CLIPTextModel",), OPTIONS, "model.safetensors")

    def __init__(self, config: c.ModelConfig | Mapping[str, Any] | str | Path) -> None:
        super().__init__(config)
        heads = self.config["num_attention_heads"]
        self.config.require(
            self.config["hidden_size"] % heads == 0, "hidden_size", f"a multiple of num_attention_heads {heads}"
        )
        self.text_model = TextTransformer(self.config)

    def __call__(self, input_ids: mx.array, attention_mask: mx.array | None = None) -> CLIPTextOutput:
        """Encode whole numbers (batch, tokens); ``attention_mask`` of that shape is 0 at tokens that nobody may look at.

        Raises ConfigurationError where there are more tokens than positions.
        """
        most = self.config["max_position_embeddings"]
        if input_ids.shape[1] > most:
            raise ConfigurationError(f"{input_ids.shape[1]} tokens: {self.config.origin} has max_position_embeddings = {most}")
        return self.text_model(input_ids, attention_mask)

    def file_weights(self, found: dict[str, mx.array]) -> dict[str, mx.array]:
        """The file's weights; those of transformers 5 lack the prefix ``text_model.``, which both it and 4 can read."""
        own = {name if name.startswith("text_") else PREFIX + name: array for name, array in found.items()}
        return {name: array for name, array in own.items() if name != PREFIX + NOT_WEIGHTS}


class CLIPTextModelWithProjection(CLIPTextModel):
    """The same with ``pooled`` projected to where texts and images are compared: the second encoder of SDXL."""

    SCHEMA: ClassVar[c.Schema] = c.Schema(("CLIPTextModelWithProjection",), OPTIONS, "model.safetensors")

    def __init__(self, config: c.ModelConfig | Mapping[str, Any] | str | Path) -> None:
        super().__init__(config)
        self.text_projection = nn.Linear(self.config["hidden_size"], self.config["projection_dim"], bias=False)

    def __call__(self, input_ids: mx.array, attention_mask: mx.array | None = None) -> CLIPTextOutput:
        """As CLIPTextModel."""
        output = super().__call__(input_ids, attention_mask)
        return output._replace(pooled=self.text_projection(output.pooled))
