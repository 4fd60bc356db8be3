"""Configurations: read as diffusers wrote them, refused by name where they would change the function."""

from __future__ import annotations

import json

import pytest
from mlx.utils import tree_flatten

from autotuner.diffusion.models.config import ModelConfig
from autotuner.diffusion.models.unet_2d import UNet2DModel
from autotuner.diffusion.models.unet_2d_condition import UNet2DConditionModel
from autotuner.errors import ConfigurationError

PUBLISHED = {
    "ddpm-cifar10-32": UNet2DModel,
    "stable-diffusion-1.5-unet": UNet2DConditionModel,
    "stable-diffusion-2.1-unet": UNet2DConditionModel,
    "stable-diffusion-xl-base-unet": UNet2DConditionModel,
    "stable-diffusion-xl-refiner-unet": UNet2DConditionModel,
}
WEIGHTS = {
    "ddpm-cifar10-32": 35_746_307,
    "stable-diffusion-1.5-unet": 859_520_964,
    "stable-diffusion-2.1-unet": 865_910_724,
    "stable-diffusion-xl-base-unet": 2_567_463_684,
}
"""Numbers of weights as they are published."""

REFUSED = {
    "dual_cross_attention": True,
    "num_attention_heads": 8,
    "encoder_hid_dim": 1024,
    "addition_embed_type": "image",
    "resnet_skip_time_act": True,
    "resnet_out_scale_factor": 2.0,
    "time_embedding_act_fn": "silu",
    "timestep_post_act": "silu",
    "attention_type": "gated",
    "class_embeddings_concat": True,
    "cross_attention_norm": "layer_norm",
    "dropout": 0.1,
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "down_block_types": ["SimpleCrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D", "DownBlock2D"],
    "transformer_layers_per_block": [[1, 2], 1, 1, 1],
    "norm_num_groups": None,
    "act_fn": "tanh",
    "layers_per_block": 0,
    "a_key_of_tomorrow": 1,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_configuration_is_read_and_kept_unchanged(name, published):
    raw = published(name)
    config = PUBLISHED[name].SCHEMA.read(raw)
    assert config.raw == raw
    assert PUBLISHED[name].SCHEMA.read(config) is config


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_published_configuration_has_the_published_number_of_weights(name, published):
    model = PUBLISHED[name](published(name))
    # Shapes only: nothing is evaluated, so that the largest of them costs no memory.
    assert sum(array.size for _, array in tree_flatten(model.parameters())) == WEIGHTS[name]


@pytest.mark.parametrize("key", REFUSED)
def test_what_is_not_implemented_is_refused_with_key_value_and_choice(key, published):
    with pytest.raises(ConfigurationError) as caught:
        UNet2DConditionModel(published("stable-diffusion-1.5-unet", **{key: REFUSED[key]}))
    assert key in str(caught.value)
    assert repr(REFUSED[key]) in str(caught.value)
    assert "allowed" in str(caught.value)


def test_the_error_names_the_file(published, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(published("ddpm-cifar10-32", downsample_type="resnet")))
    with pytest.raises(ConfigurationError, match=r"config\.json: downsample_type = 'resnet'"):
        UNet2DModel(tmp_path)


def test_another_class_is_refused(published):
    with pytest.raises(ConfigurationError, match="'UNet2DConditionModel'; allowed: UNet2DModel"):
        UNet2DModel(published("stable-diffusion-1.5-unet"))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"attention_head_dim": [1, 2]}, "attention_head_dim"),
        ({"up_block_types": ["UpBlock2D"]}, "up_block_types"),
        ({"norm_num_groups": 48}, "block_out_channels"),
        ({"attention_head_dim": 400}, "attention_head_dim"),
        ({"addition_embed_type": "text_time"}, "addition_time_embed_dim"),
        ({"class_embed_type": "projection"}, "projection_class_embeddings_input_dim"),
    ],
)
def test_keys_that_do_not_fit_together_are_refused(changes, key, published):
    with pytest.raises(ConfigurationError, match=key):
        UNet2DConditionModel(published("stable-diffusion-1.5-unet", **changes))


def test_heads_wider_than_the_narrowest_level_are_refused(published):
    with pytest.raises(ConfigurationError, match="attention_head_dim = 129"):
        UNet2DModel(published("ddpm-cifar10-32", attention_head_dim=129))


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_file_that_is_no_object_is_refused(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigurationError, match=r"config\.json"):
        UNet2DModel(tmp_path)


def test_true_is_not_taken_for_one(published):
    with pytest.raises(ConfigurationError, match="in_channels = True"):
        UNet2DModel(published("ddpm-cifar10-32", in_channels=True))


def test_a_configuration_is_frozen(published):
    config: ModelConfig = UNet2DModel.SCHEMA.read(published("ddpm-cifar10-32"))
    with pytest.raises(AttributeError):
        config.origin = "elsewhere"
