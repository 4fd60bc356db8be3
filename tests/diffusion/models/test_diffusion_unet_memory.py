"""Gradient checkpointing and low precision: the same function with less memory."""

from __future__ import annotations

import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from parity import noise

from autotuner.diffusion.attention import set_scores_per_chunk
from autotuner.diffusion.blas import mx
from autotuner.diffusion.models.unet_2d import UNet2DModel
from autotuner.diffusion.models.unet_2d_condition import UNet2DConditionModel
from autotuner.errors import ConfigurationError

RELATIVE_RMS = {mx.float16: 4e-3, mx.bfloat16: 3e-2}
"""Difference to the float32 output over its size, both as root mean squares."""


def stable(published, **changes):
    small = {"block_out_channels": [16, 24, 32, 32], "norm_num_groups": 4, "cross_attention_dim": 12, **changes}
    return UNet2DConditionModel(published("stable-diffusion-1.5-unet", **small)), {
        "encoder_hidden_states": mx.array(noise(2, 5, 12, seed=4))
    }


def pixels(published):
    return UNet2DModel(published("ddpm-cifar10-32", block_out_channels=[8, 16, 16, 16], norm_num_groups=4)), {}


@pytest.fixture
def small_chunks():
    """Attention in many chunks, as it is over many tokens."""
    before = set_scores_per_chunk(2**9)
    yield
    set_scores_per_chunk(before)


@pytest.fixture(params=[stable, pixels])
def build(request, published):
    mx.random.seed(0)
    return lambda: request.param(published)


def images(model, side=8):
    return mx.array(noise(2, side, side, model.config["in_channels"]))


def loss(model, x, given):
    return mx.mean(model(x, mx.array([7.0, 512.0]), **given) ** 2)


def gradients_of(model, given, *, checkpointing):
    model.gradient_checkpointing = checkpointing
    value, gradients = nn.value_and_grad(model, loss)(model, images(model), given)
    mx.eval(value, gradients)
    return float(value), dict(tree_flatten(gradients))


def assert_same_gradients(ours, theirs, relative):
    assert ours.keys() == theirs.keys()
    scale = max(float(mx.abs(g).max()) for g in theirs.values())
    assert scale > 0
    for name, g in ours.items():
        assert float(mx.abs(g - theirs[name]).max()) <= relative * scale, name


def test_checkpointing_changes_no_gradient_and_leaves_the_weights_alone(build):
    model, given = build()
    before = dict(tree_flatten(model.parameters()))
    plain, expected = gradients_of(model, given, checkpointing=False)
    again, found = gradients_of(model, given, checkpointing=True)
    assert plain == pytest.approx(again, rel=1e-6)
    assert_same_gradients(found, expected, 1e-6)
    after = dict(tree_flatten(model.parameters()))
    assert all(mx.array_equal(array, before[name]) for name, array in after.items())


def test_checkpointing_and_attention_in_chunks_go_together(published, request):
    model, given = stable(published)
    _, expected = gradients_of(model, given, checkpointing=False)
    request.getfixturevalue("small_chunks")
    _, chunked = gradients_of(model, given, checkpointing=False)
    _, both = gradients_of(model, given, checkpointing=True)
    assert_same_gradients(chunked, expected, 1e-5)
    assert_same_gradients(both, expected, 1e-5)


def test_checkpointing_passes_the_gradient_of_the_only_weights_that_are_trained(published):
    model, given = stable(published)
    model.freeze()
    layer = model.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q
    layer.unfreeze()
    gradient = nn.value_and_grad(model, loss)
    _, plain = gradient(model, images(model), given)
    model.gradient_checkpointing = True
    _, again = gradient(model, images(model), given)
    (name, expected), (same, found) = *tree_flatten(plain), *tree_flatten(again)
    assert name == same == "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    assert float(mx.abs(expected).max()) > 0
    assert mx.allclose(expected, found, rtol=1e-4, atol=1e-9)


def test_checkpointing_saves_memory(published):
    peaks = {}
    for checkpointing in (False, True):
        model, given = stable(published)
        model.gradient_checkpointing = checkpointing
        x = images(model, side=16)
        mx.eval(model.parameters(), x)
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(nn.value_and_grad(model, loss)(model, x, given))
        peaks[checkpointing] = mx.get_peak_memory() - before
    print(f"peak with checkpointing {peaks[True] / peaks[False]:.2f} of the one without")
    assert peaks[True] < 0.8 * peaks[False]


@pytest.mark.parametrize("dtype", RELATIVE_RMS, ids=str)
def test_low_precision_stays_near_float32(build, dtype):
    model, given = build()
    t = mx.array([7.0, 512.0])
    x = images(model)
    exact = np.array(model(x, t, **given))
    model.set_dtype(dtype)
    rough = model(x.astype(dtype), t, **{name: array.astype(dtype) for name, array in given.items()})
    assert rough.dtype == dtype
    difference = np.array(rough.astype(mx.float32)) - exact
    relative = float(np.sqrt((difference**2).mean() / (exact**2).mean()))
    print(f"{dtype}: {relative:.1e}")
    assert relative <= RELATIVE_RMS[dtype]


def test_upcast_attention_keeps_the_precision_of_the_rest(published):
    model, given = stable(published, upcast_attention=True)
    model.set_dtype(mx.float16)
    x = images(model).astype(mx.float16)
    out = model(x, mx.array([7]), given["encoder_hidden_states"].astype(mx.float16))
    assert out.dtype == mx.float16


def test_one_timestep_serves_the_whole_batch(build):
    model, given = build()
    x = images(model)
    each = model(x, mx.array([40, 40]), **given)
    assert mx.array_equal(each, model(x, mx.array(40), **given))


@pytest.mark.parametrize(
    ("changes", "given", "told"),
    [
        ({"num_class_embeds": 3}, {}, "needs class_labels"),
        ({}, {"class_labels": mx.array([0, 1])}, "has no classes"),
        ({}, {"text_embeds": mx.zeros((2, 4))}, "text_embeds must be None"),
        ({}, {"timestep_cond": mx.zeros((2, 4))}, "timestep_cond must be None"),
        (
            {
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 4,
                "projection_class_embeddings_input_dim": 30,
            },
            {"text_embeds": mx.zeros((2, 6))},
            "time_ids is missing",
        ),
    ],
)
def test_conditions_that_do_not_belong_to_the_model_are_refused(published, changes, given, told):
    model, context = stable(published, **changes)
    with pytest.raises(ConfigurationError, match=told):
        model(images(model), mx.array([1, 2]), **context, **given)
