"""Prompts to what a U-Net sees of them: one CLIP text encoder, or SDXL's two and the size of the picture."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autotuner.diffusion.blas import mx
from autotuner.diffusion.models.clip_text import CLIPTextModel, CLIPTextModelWithProjection
from autotuner.diffusion.models.config import read_json
from autotuner.diffusion.models.weights import load
from autotuner.diffusion.tokenizer import Tokenizer
from autotuner.errors import ConfigurationError

log = logging.getLogger(__name__)

INDEX = "model_index.json"
ONE_ENCODER = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
TWO_ENCODERS = ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline")
"""Pipelines, by diffusers' names for their classes, that differ in how text is told to the U-Net."""


class Condition(NamedTuple):
    """Encoded prompts."""

    context: mx.array
    """(prompts, words, channels): what cross-attention looks at."""
    pooled: mx.array | None = None
    """(prompts, channels) of SDXL's second encoder."""
    sizes: mx.array | None = None
    """(prompts, 6): original size, crop and target size in pixels (Podell et al. 2023, Sec. 2.2)."""


def pipeline_class(folder: Path) -> str:
    """The class that `model_index.json` names; ConfigurationError unless it is one of those read here."""
    name = read_json(folder / INDEX)[0].get("_class_name")
    if name not in (*ONE_ENCODER, *TWO_ENCODERS):
        raise ConfigurationError(f"{folder}: a {name}; allowed are {', '.join((*ONE_ENCODER, *TWO_ENCODERS))}")
    return str(name)


@dataclass
class TextConditioning:
    """Tokenizers and text encoders of one pipeline, in order."""

    tokenizers: list[Tokenizer]
    encoders: dict[str, Any] = field(default_factory=dict)
    """By their folders' names, `text_encoder` and `text_encoder_2`."""
    zeros_for_empty: bool = False
    """SDXL takes zeros for the empty prompt."""

    @classmethod
    def load(cls, folder: str | Path, variant: str | None = None) -> TextConditioning:
        """Read what a pipeline's folder has for text, in float32."""
        folder = Path(folder)
        if pipeline_class(folder) in ONE_ENCODER:
            encoder = load(CLIPTextModel, folder / "text_encoder", variant=variant)
            return cls([Tokenizer.load(folder / "tokenizer")], {"text_encoder": encoder})
        index, _ = read_json(folder / INDEX)
        encoders = {
            "text_encoder": load(CLIPTextModel, folder / "text_encoder", variant=variant),
            "text_encoder_2": load(CLIPTextModelWithProjection, folder / "text_encoder_2", variant=variant),
        }
        tokenizers = [Tokenizer.load(folder / name) for name in ("tokenizer", "tokenizer_2")]
        return cls(tokenizers, encoders, bool(index.get("force_zeros_for_empty_prompt", True)))

    def encode(self, prompts: Sequence[str], size: tuple[int, int]) -> Condition:
        """The condition for pictures of ``size`` (height, width) in pixels; text that does not fit is logged and left out."""
        outputs = []
        for tokenizer, encoder in zip(self.tokenizers, self.encoders.values(), strict=True):
            tokens = tokenizer(prompts)
            outputs.append(encoder(mx.array(tokens.ids)))
        for prompt, lost in zip(prompts, tokens.lost, strict=True):
            if lost:
                log.warning("prompt cut prompt=%r lost=%r tokens=%d", prompt, lost, tokenizer.length)
        if len(outputs) == 1:
            return Condition(outputs[0].last_hidden_state)
        context = mx.concatenate([output.hidden_states[-2] for output in outputs], axis=-1)
        kept = mx.array([not (self.zeros_for_empty and prompt == "") for prompt in prompts])
        sizes = mx.array(np.tile(np.array([*size, 0, 0, *size], np.float32), (len(prompts), 1)))
        return Condition(context * kept[:, None, None], outputs[1].pooled * kept[:, None], sizes)
