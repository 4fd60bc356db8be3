"""Stable Diffusion folders with random weights and a vocabulary of a few words, made by diffusers for tests."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch

torch.set_num_threads(1)  # two threads spin for each other on a shared machine, and the models are tiny

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
WORDS = ("red", "blue", "round", "square", "the", "cat", "and", "of")
UNET = {
    "block_out_channels": [16, 32],
    "norm_num_groups": 4,
    "cross_attention_dim": 16,
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "sample_size": 8,
}
VAE = {
    "block_out_channels": [8, 16],
    "norm_num_groups": 4,
    "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "sample_size": 16,
}
TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}


def randomise(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Move every weight off its special starting value (ones, zeros), a little."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = parameter.std() if parameter.numel() > 1 and parameter.std() > 0 else torch.tensor(0.1)
            parameter += 0.3 * spread * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Every byte alone and at the end of a word, then the words' merges from the left, then the special tokens."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    pieces, merges = [*letters, *(letter + "</w>" for letter in letters)], []
    for word in WORDS:
        left = word[0]
        for index, letter in enumerate(word[1:], start=2):
            right = letter + ("</w>" if index == len(word) else "")
            if (left, right) not in merges:
                merges.append((left, right))
                pieces.append(left + right)
            left += right
    names = list(dict.fromkeys([*pieces, BEGIN, END]))
    return {name: index for index, name in enumerate(names)}, merges


def write_tokenizer(folder: Path, padding: str = END, **settings: Any) -> Path:
    """`vocab.json`, `merges.txt` and the two files beside them, as Stable Diffusion's folders have them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens, merges = vocabulary()
    (folder / "vocab.json").write_text(json.dumps(tokens), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": BEGIN, "eos_token": END, "unk_token": END, "pad_token": padding}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    told = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return folder


def write_pipeline(folder: Path, *, xl: bool = False, scheduler: dict[str, Any] | None = None, seed: int = 0) -> Path:
    """A whole folder with random weights, loadable by diffusers."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    torch.manual_seed(seed)
    size = len(vocabulary()[0])
    ends = {"vocab_size": size, "bos_token_id": size - 2, "eos_token_id": size - 1, "pad_token_id": size - 1}
    text = CLIPTextConfig(**TEXT, **ends, projection_dim=8, hidden_act="quick_gelu")
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    extra = {"clip_sample": False, "set_alpha_to_one": False, **(scheduler or {})}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unet = dict(UNET)
        if xl:
            unet |= {"cross_attention_dim": 32, "addition_embed_type": "text_time", "addition_time_embed_dim": 4}
            unet |= {"projection_class_embeddings_input_dim": 8 + 6 * 4, "use_linear_projection": True}
        parts: dict[str, Any] = {
            "unet": randomise(UNet2DConditionModel(**unet)),
            "vae": randomise(AutoencoderKL(**VAE)),
            "text_encoder": randomise(CLIPTextModel(text)),
            "tokenizer": CLIPTokenizer.from_pretrained(write_tokenizer(folder / "made")),
            "scheduler": DDIMScheduler(**betas, **extra),
        }
        if xl:
            parts["text_encoder_2"] = randomise(CLIPTextModelWithProjection(text), seed=1)
            parts["tokenizer_2"] = CLIPTokenizer.from_pretrained(write_tokenizer(folder / "made_2", padding="!"))
            pipeline: Any = StableDiffusionXLPipeline(**parts, add_watermarker=False)
        else:
            pipeline = StableDiffusionPipeline(
                **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
            )
        pipeline.save_pretrained(folder)
    return folder


def open_pipeline(folder: Path) -> Any:
    """The folder in diffusers, quiet."""
    from diffusers import DiffusionPipeline

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = DiffusionPipeline.from_pretrained(folder, local_files_only=True, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
