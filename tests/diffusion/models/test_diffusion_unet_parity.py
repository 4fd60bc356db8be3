"""Both U-Nets against diffusers: outputs, all gradients, and the way back, on every structural choice that is implemented."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import diffusers
import numpy as np
import pytest
import torch
from parity import assert_parity, noise, randomise

from autotuner.diffusion.blas import mx
from autotuner.diffusion.models.unet_2d import UNet2DModel
from autotuner.diffusion.models.unet_2d_condition import UNet2DConditionModel

WORDS = 5
FOUR = {"block_out_channels": [16, 24, 32, 32], "norm_num_groups": 4, "cross_attention_dim": 12}
THREE = {"block_out_channels": [16, 24, 32], "norm_num_groups": 4, "cross_attention_dim": 12}
SDXL = {"addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 10 + 6 * 4}
PIXELS = {"block_out_channels": [8, 16, 16, 16], "norm_num_groups": 4}


class Case(NamedTuple):
    """A published configuration, what is changed in it, and the images that it gets."""

    source: str
    changes: dict[str, Any]
    size: tuple[int, int] = (8, 8)


CASES = {
    "stable diffusion 1.5": Case("stable-diffusion-1.5-unet", FOUR),
    "stable diffusion 1.5, odd sizes": Case("stable-diffusion-1.5-unet", FOUR, (9, 13)),
    "stable diffusion 2.1": Case("stable-diffusion-2.1-unet", {**FOUR, "attention_head_dim": [1, 2, 4, 4]}),
    "stable diffusion xl base": Case(
        "stable-diffusion-xl-base-unet",
        {**THREE, **SDXL, "attention_head_dim": [1, 2, 4], "transformer_layers_per_block": [1, 2, 3]},
    ),
    "stable diffusion xl refiner": Case(
        "stable-diffusion-xl-refiner-unet",
        {**FOUR, **SDXL, "attention_head_dim": [1, 2, 4, 4], "transformer_layers_per_block": 2},
    ),
    "guidance distilled, no middle, gelu": Case(
        "stable-diffusion-1.5-unet",
        {
            **FOUR,
            "time_cond_proj_dim": 6,
            "mid_block_type": None,
            "act_fn": "gelu",
            "conv_in_kernel": 5,
            "conv_out_kernel": 1,
            "class_embed_type": "simple_projection",
            "projection_class_embeddings_input_dim": 9,
        },
    ),
    "context first, uneven levels": Case(
        "stable-diffusion-2.1-unet",
        {
            **FOUR,
            "attention_head_dim": [1, 3, 4, 2],
            "only_cross_attention": [True, False, True, True],
            "layers_per_block": [1, 2, 1, 2],
            "cross_attention_dim": [12, 12, 12, 12],
            "resnet_time_scale_shift": "scale_shift",
            "mid_block_type": "UNetMidBlock2D",
            "mid_block_scale_factor": 1.4,
            "num_class_embeds": 7,
        },
    ),
    "projected class, fourier": Case(
        "stable-diffusion-1.5-unet",
        {
            **FOUR,
            "time_embedding_type": "fourier",
            "class_embed_type": "projection",
            "projection_class_embeddings_input_dim": 9,
            "center_input_sample": True,
        },
    ),
    "ddpm cifar10": Case("ddpm-cifar10-32", PIXELS),
    "ddpm cifar10, classes": Case("ddpm-cifar10-32", {**PIXELS, "num_class_embeds": 7, "attention_head_dim": 4}),
    "ddpm, scale and shift": Case(
        "ddpm-cifar10-32",
        {
            **PIXELS,
            "resnet_time_scale_shift": "scale_shift",
            "attention_head_dim": 8,
            "downsample_padding": 1,
            "class_embed_type": "timestep",
            "flip_sin_to_cos": True,
            "freq_shift": 0,
            "mid_block_scale_factor": 1.4142135,
        },
        (16, 8),
    ),
    "score sde": Case(
        "ddpm-cifar10-32",
        {
            **PIXELS,
            "time_embedding_type": "fourier",
            "attn_norm_num_groups": 2,
            "act_fn": "mish",
            "down_block_types": ["AttnDownBlock2D", "DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "AttnUpBlock2D"],
        },
    ),
    "learned timesteps, plain middle": Case(
        "ddpm-cifar10-32",
        {
            **PIXELS,
            "time_embedding_type": "learned",
            "num_train_timesteps": 1000,
            "add_attention": False,
            "class_embed_type": "identity",
            "time_embedding_dim": 20,
        },
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def build(config: dict[str, Any]) -> Any:
    kind = getattr(diffusers, config["_class_name"])
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # sample_size below 64, which only pipelines read
        return randomise(kind.from_config(config))


def conditions(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """What a model with this configuration is given besides the image, for two images."""
    time_width = config.get("time_embedding_dim") or 4 * config["block_out_channels"][0]
    # Fourier features of a logarithm are for noise levels: float32 cannot tell the angle of a large one exactly.
    timestep = np.array([0.3, 4.0] if config.get("time_embedding_type") == "fourier" else [7.0, 512.0], np.float32)
    given: dict[str, np.ndarray] = {"timestep": timestep.astype(np.int64) if config.get("num_train_timesteps") else timestep}
    if config["_class_name"] == "UNet2DConditionModel":
        width = config["cross_attention_dim"]
        given["encoder_hidden_states"] = noise(2, WORDS, width if isinstance(width, int) else width[0], seed=4)
    if config.get("num_class_embeds"):
        given["class_labels"] = np.array([0, 6])
    elif kind := config.get("class_embed_type"):
        width = time_width if kind == "identity" else config.get("projection_class_embeddings_input_dim")
        given["class_labels"] = np.array([3.0, 60.0], np.float32) if kind == "timestep" else noise(2, width, seed=5)
    if config.get("time_cond_proj_dim"):
        given["timestep_cond"] = noise(2, config["time_cond_proj_dim"], seed=6)
    if config.get("addition_embed_type"):
        given["text_embeds"] = noise(2, 10, seed=7)
        given["time_ids"] = np.array([[64, 48, 0, 8, 64, 64], [32, 32, 4, 0, 64, 48]], np.float32)
    return given


def call_torch(given: dict[str, np.ndarray]) -> Any:
    tensors = {name: torch.from_numpy(array) for name, array in given.items()}
    added = {name: tensors.pop(name) for name in ("text_embeds", "time_ids") if name in tensors}
    extra = {"added_cond_kwargs": added} if added else {}
    return lambda model, x: model(x, **tensors, **extra).sample


def call_mlx(given: dict[str, np.ndarray]) -> Any:
    arrays = {name: mx.array(array) for name, array in given.items()}
    return lambda model, x: model(x, **arrays)


def test_output_gradients_and_way_back_agree_with_diffusers(case, published, tmp_path):
    config = published(case.source, **case.changes)
    kind = {"UNet2DModel": UNet2DModel, "UNet2DConditionModel": UNet2DConditionModel}[config["_class_name"]]
    given = conditions(config)
    image = noise(2, config["in_channels"], *case.size)
    _, table = assert_parity(build(config), kind, tmp_path, torch_call=call_torch(given), mlx_call=call_mlx(given), image=image)
    print(f"output {table.pop('output'):.1e}, gradients up to {max(table.values()):.1e}")
