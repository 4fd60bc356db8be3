"""Adapters: what they compute, what they train, and their files in both directions with diffusers."""

from __future__ import annotations

import copy
import warnings

import diffusers
import mlx.nn as nn
import numpy as np
import peft
import pytest
import torch
from mlx.utils import tree_flatten
from tiny_pipeline import UNET, open_pipeline, write_pipeline

from autotuner.diffusion import lora
from autotuner.diffusion.blas import mx
from autotuner.diffusion.models.unet_2d_condition import UNet2DConditionModel
from autotuner.diffusion.models.weights import load
from autotuner.diffusion.step import Learner
from autotuner.errors import ConfigurationError

GENERATOR = np.random.default_rng(0)
SAMPLE = GENERATOR.standard_normal((2, 4, 8, 8)).astype(np.float32)
CONTEXT = GENERATOR.standard_normal((2, 5, 16)).astype(np.float32)
STEPS = np.array([3.0, 700.0], np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture
def unet(folder):
    return load(UNet2DConditionModel, folder / "unet")


@pytest.fixture(scope="module")
def untouched(folder):
    return open_pipeline(folder)


@pytest.fixture
def theirs(untouched):
    """The folder in diffusers, its U-Net without an adapter."""
    pipeline = copy.copy(untouched)
    pipeline.register_modules(unet=copy.deepcopy(untouched.unet))
    return pipeline


def ours_of(unet):
    return np.array(unet(mx.array(SAMPLE.transpose(0, 2, 3, 1)), mx.array(STEPS), mx.array(CONTEXT))).transpose(0, 3, 1, 2)


def theirs_of(pipeline):
    with torch.no_grad():
        return pipeline.unet(torch.tensor(SAMPLE), torch.tensor(STEPS), torch.tensor(CONTEXT)).sample.numpy()


def shake(unet, seed=1):
    """Give B values, as training does."""
    mx.random.seed(seed)
    for layer in lora.layers(unet).values():
        layer.lora_B.weight = 0.3 * mx.random.normal(layer.lora_B.weight.shape)


def near(found, expected, bound=1e-4):
    return np.abs(found - expected).max() <= bound * np.abs(expected).max()


def adapted_by_peft(theirs, targets=("to_q", "to_k", "to_v", "to_out.0"), **changes):
    theirs.unet.add_adapter(peft.LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": list(targets)} | changes))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in theirs.unet.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


def test_a_new_adapter_changes_nothing_and_trains_only_itself(unet):
    before = ours_of(unet)
    names = lora.add(unet, rank=3)
    assert len(names) == 2 * 4 * len([name for name in names if name.endswith("attn1.to_q")])
    assert np.array_equal(ours_of(unet), before)
    trained = [name for name, _ in tree_flatten(unet.trainable_parameters())]
    assert trained
    assert all(".lora_A." in name or ".lora_B." in name for name in trained)
    assert sum(array.size for _, array in tree_flatten(unet.trainable_parameters())) < 0.2 * sum(
        array.size for _, array in tree_flatten(unet.parameters())
    )


def test_the_learner_packs_and_moves_only_the_adapter(unet):
    lora.add(unet, rank=2)
    frozen = dict(tree_flatten(unet.parameters()))

    def errors(module, x, t, context):
        return mx.mean(mx.square(module(x, t, context)), axis=(1, 2, 3))

    learner = Learner(unet, errors)
    arrays = mx.array(SAMPLE.transpose(0, 2, 3, 1)), mx.array(STEPS), mx.array(CONTEXT)
    losses = []
    for _ in range(4):
        learner.accumulate(1.0, mx.ones((2,)), *arrays)
        losses.append(float(learner.apply(3e-2, 0.9).loss))
    assert losses[-1] < losses[0]
    after = dict(tree_flatten(unet.parameters()))
    moved = {name for name in after if not np.array_equal(np.array(after[name]), np.array(frozen[name]))}
    assert moved
    assert all("lora_" in name for name in moved)


@pytest.mark.parametrize("targets", [lora.ATTENTION, (*lora.ATTENTION, *lora.FEED_FORWARD)], ids=["attention", "feed forward"])
def test_diffusers_computes_the_same_with_an_adapter_saved_here(unet, theirs, tmp_path, targets):
    plain = ours_of(unet)
    lora.add(unet, rank=3, alpha=5.0, targets=targets)
    shake(unet)
    lora.save(tmp_path, {"unet": unet})
    theirs.load_lora_weights(tmp_path, local_files_only=True)
    assert near(ours_of(unet), theirs_of(theirs))
    assert not near(ours_of(unet), plain, 1e-2)


def test_an_adapter_saved_by_diffusers_computes_the_same_here(unet, theirs, tmp_path):
    adapted_by_peft(theirs, rank_pattern={"attn2.to_q": 2}, alpha_pattern={"attn1.to_v": 9})
    expected = theirs_of(theirs)
    layers = peft.get_peft_model_state_dict(theirs.unet)
    metadata = {key: value for key, value in theirs.unet.peft_config["default"].to_dict().items() if value is not None}
    metadata["target_modules"] = list(metadata["target_modules"])
    diffusers.StableDiffusionPipeline.save_lora_weights(tmp_path, layers, unet_lora_adapter_metadata=metadata)
    lora.load(tmp_path, {"unet": unet})
    assert near(ours_of(unet), expected)
    assert {layer.rank for layer in lora.layers(unet).values()} == {2, 4}
    assert {layer.alpha for layer in lora.layers(unet).values()} == {6.0, 9.0}


def test_the_spelling_of_training_scripts_is_read(unet, theirs, tmp_path):
    from diffusers.utils import convert_state_dict_to_diffusers

    adapted_by_peft(theirs, lora_alpha=4)
    layers = convert_state_dict_to_diffusers(peft.get_peft_model_state_dict(theirs.unet))
    assert any(".lora.down." in name for name in layers)
    diffusers.StableDiffusionPipeline.save_lora_weights(tmp_path, layers)
    lora.load(tmp_path / lora.FILE_NAME, {"unet": unet})
    assert near(ours_of(unet), theirs_of(theirs))


def test_the_file_of_peft_itself_is_read(unet, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = diffusers.UNet2DConditionModel(**UNET)
        config = peft.LoraConfig(r=4, lora_alpha=3, use_rslora=True, target_modules=["to_q", "to_v"], init_lora_weights=False)
        peft.get_peft_model(model, config).save_pretrained(tmp_path)
    names = lora.load(tmp_path, {"unet": unet})
    assert len(names) == len(lora.layers(unet))
    layer = next(iter(lora.layers(unet).values()))
    assert layer.alpha / layer.rank == pytest.approx(3 / 2)


def test_what_is_saved_here_comes_back_here(unet, folder, tmp_path):
    lora.add(unet, rank=3, alpha=5.0)
    lora.adapt(unet, {"down_blocks.0.attentions.0.transformer_blocks.0.ff.net.2": (2, 1.0)})
    shake(unet)
    lora.save(tmp_path, {"unet": unet})
    other = load(UNet2DConditionModel, folder / "unet")
    lora.load(tmp_path, {"unet": other})
    assert np.array_equal(ours_of(other), ours_of(unet))
    assert [name for name, _ in tree_flatten(other.trainable_parameters())] == [
        name for name, _ in tree_flatten(unet.trainable_parameters())
    ]


def test_merging_changes_no_output_and_is_undone(unet, folder):
    plain = ours_of(unet)
    lora.add(unet, rank=3)
    shake(unet)
    adapted = ours_of(unet)
    lora.merge(unet)
    lora.merge(unet)
    assert near(ours_of(unet), adapted, 1e-5)
    lora.unmerge(unet)
    assert near(ours_of(unet), adapted, 1e-5)
    lora.remove(unet)
    assert near(ours_of(unet), plain, 1e-5)


def test_a_merged_model_saves_under_its_own_names(unet):
    names = {name for name, _ in tree_flatten(unet.parameters())}
    lora.add(unet, rank=2)
    shake(unet)
    adapted = ours_of(unet)
    lora.merge(unet)
    lora.remove(unet)
    assert {name for name, _ in tree_flatten(unet.parameters())} == names
    assert near(ours_of(unet), adapted, 1e-5)


def test_a_half_precision_layer_keeps_its_precision_and_a_float32_adapter():
    linear = nn.Linear(6, 4)
    linear.set_dtype(mx.bfloat16)
    layer = lora.LoRALinear(linear, 2, 2.0)
    assert layer(mx.ones((1, 6), mx.bfloat16)).dtype == mx.bfloat16
    assert layer.lora_A.weight.dtype == mx.float32


def refused(tmp_path, arrays, unet, metadata=None):
    mx.save_safetensors(str(tmp_path / "a.safetensors"), arrays, metadata=metadata)
    with pytest.raises(ConfigurationError) as caught:
        lora.load(tmp_path / "a.safetensors", {"unet": unet})
    return str(caught.value)


LAYER = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({f"{LAYER}.lora_A.weight": (2, 16)}, "has only down"),
        ({f"{LAYER}.lora_magnitude_vector": (16,)}, "is not understood"),
        ({f"{LAYER}.lora_A.weight": (2, 16, 1, 1), f"{LAYER}.lora_B.weight": (16, 2, 1, 1)}, "adapts a convolution"),
        ({f"{LAYER}.lora_A.weight": (2, 15), f"{LAYER}.lora_B.weight": (16, 2)}, "do not fit a weight"),
        ({"unet.nowhere.lora_A.weight": (2, 15), "unet.nowhere.lora_B.weight": (16, 2)}, "nowhere is no linear layer"),
        (
            {"text_encoder.q.lora_A.weight": (2, 15), "text_encoder.q.lora_B.weight": (16, 2)},
            "adapts text_encoder; here are unet",
        ),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(unet, tmp_path, arrays, message):
    assert message in refused(tmp_path, {name: mx.zeros(shape) for name, shape in arrays.items()}, unet)


def test_a_file_that_is_refused_leaves_the_model_as_it_was(unet, tmp_path):
    first, second = LAYER, LAYER.replace("to_q", "to_v")
    shapes = {f"{first}.lora_A.weight": (2, 16), f"{first}.lora_B.weight": (16, 2)}
    shapes |= {f"{second}.lora_A.weight": (2, 16), f"{second}.lora_B.weight": (16, 3)}
    trained = [name for name, _ in tree_flatten(unet.trainable_parameters())]
    assert "do not fit a weight" in refused(tmp_path, {name: mx.zeros(shape) for name, shape in shapes.items()}, unet)
    assert lora.layers(unet) == {}
    assert [name for name, _ in tree_flatten(unet.trainable_parameters())] == trained


def test_weight_decomposition_is_refused_by_name(unet, tmp_path):
    arrays = {f"{LAYER}.lora_A.weight": mx.zeros((2, 16)), f"{LAYER}.lora_B.weight": mx.zeros((16, 2))}
    metadata = {"lora_adapter_metadata": '{"unet.use_dora": true}'}
    assert "use_dora = true" in refused(tmp_path, arrays, unet, metadata)


def test_a_file_that_is_none_is_refused(unet, tmp_path):
    (tmp_path / lora.FILE_NAME).write_text("no")
    with pytest.raises(ConfigurationError, match="not an adapter in safetensors"):
        lora.load(tmp_path, {"unet": unet})


def test_targets_that_match_nothing_and_nothing_to_save_are_refused(unet, tmp_path):
    with pytest.raises(ConfigurationError, match="no linear layer of UNet2DConditionModel ends so"):
        lora.add(unet, rank=2, targets=("query",))
    with pytest.raises(ConfigurationError, match="rank 0"):
        lora.add(unet, rank=0)
    with pytest.raises(ConfigurationError, match="nothing to save"):
        lora.save(tmp_path, {"unet": unet})
