"""The DiT against diffusers: output, all gradients, and the way back."""

from __future__ import annotations

import json

import diffusers
import numpy as np
import pytest
import torch
from mlx.utils import tree_flatten
from parity import BOUND, assert_parity, error, noise, randomise

from autotuner.diffusion.blas import mx
from autotuner.diffusion.models.config import FILE_NAME
from autotuner.diffusion.models.dit_transformer_2d import DiTTransformer2DModel
from autotuner.diffusion.models.weights import load
from autotuner.errors import ConfigurationError

SMALL = {"num_attention_heads": 2, "attention_head_dim": 10, "num_layers": 2, "num_embeds_ada_norm": 7, "sample_size": 8}
TODAY = {"_class_name": "DiTTransformer2DModel"}

CASES = {
    "xl/2 in small": ({}, 8),
    "a larger square": ({}, 12),
    "a smaller square": ({}, 4),
    "patches of 4, one output for each input": ({"patch_size": 4, "out_channels": None, "in_channels": 3}, 8),
    "exact gelu, affine norm, no biases, scores in float32": (
        {
            "activation_fn": "gelu",
            "norm_elementwise_affine": True,
            "attention_bias": False,
            "upcast_attention": True,
            "norm_eps": 1e-3,
        },
        8,
    ),
}

TIMESTEP, LABELS = np.array([3, 801]), np.array([2, 7])
"""The second label is that of no class."""


def build(config):
    torch.manual_seed(0)
    kept = {key: value for key, value in config.items() if not key.startswith("_")}
    ours_only = ("cross_attention_dim", "num_vector_embeds", "only_cross_attention", "use_linear_projection")
    return randomise(diffusers.DiTTransformer2DModel(**{k: v for k, v in kept.items() if k not in ours_only}))


def call_torch(model, x):
    return model(x, timestep=torch.from_numpy(TIMESTEP), class_labels=torch.from_numpy(LABELS)).sample


def call_mlx(model, x):
    return model(x, mx.array(TIMESTEP), mx.array(LABELS))


def small(published, **changes):
    return published("dit-xl-2-256", **{**TODAY, **SMALL, **changes})


@pytest.fixture
def dit(published):
    """A small model with weights off their starting values."""
    mx.random.seed(0)
    model = DiTTransformer2DModel(small(published))
    model.apply(lambda w: w + 0.1 * mx.random.normal(w.shape))
    return model


@pytest.mark.parametrize("case", CASES)
def test_output_gradients_and_way_back_agree_with_diffusers(case, published, tmp_path):
    changes, side = CASES[case]
    config = small(published, **changes)
    image = noise(2, config["in_channels"], side, side)
    theirs = build(config)
    ours, _ = assert_parity(theirs, DiTTransformer2DModel, tmp_path, torch_call=call_torch, mlx_call=call_mlx, image=image)
    assert ours.null_label == 7


@pytest.mark.slow
def test_the_published_dit_agrees_with_diffusers(published, tmp_path):
    """675 million weights, once, on latents of 8 x 8: the output and the gradient of the input, to spare memory."""
    theirs = build(published("dit-xl-2-256", **TODAY)).requires_grad_(False)
    theirs.save_pretrained(tmp_path)
    x = torch.from_numpy(noise(2, 4, 8, 8)).requires_grad_()
    expected = call_torch(theirs, x)
    expected.square().mean().backward()
    wanted = [array.detach().permute(0, 2, 3, 1).numpy() for array in (expected, x.grad)]
    del theirs, expected
    ours = load(DiTTransformer2DModel, tmp_path)
    image = mx.array(noise(2, 4, 8, 8).transpose(0, 2, 3, 1))
    slope = mx.grad(lambda given: mx.square(call_mlx(ours, given)).mean())(image)
    for got, other in zip((call_mlx(ours, image), slope), wanted, strict=True):
        assert error(np.array(got), other) < BOUND


def test_a_folder_of_the_class_that_dits_were_published_under_is_loaded(published, tmp_path):
    theirs = build(small(published))
    theirs.save_pretrained(tmp_path)
    (tmp_path / FILE_NAME).unlink()
    ours = load_with(tmp_path, published("dit-xl-2-256", **SMALL))
    image = noise(2, 4, 8, 8)
    with torch.no_grad():
        expected = call_torch(theirs, torch.from_numpy(image)).numpy()
    got = np.array(call_mlx(ours, mx.array(image.transpose(0, 2, 3, 1)))).transpose(0, 3, 1, 2)
    assert error(got, expected) < BOUND


def load_with(folder, config):
    (folder / FILE_NAME).write_text(json.dumps(config))
    return load(DiTTransformer2DModel, folder)


def test_the_older_class_must_say_what_its_defaults_would_not(published):
    config = published("dit-xl-2-256", **SMALL)
    del config["norm_type"], config["attention_bias"]
    with pytest.raises(ConfigurationError, match="without attention_bias, norm_type"):
        DiTTransformer2DModel(config)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("norm_type", "layer_norm", "ada_norm_zero"),
        ("dropout", 0.1, "0.0"),
        ("cross_attention_dim", 768, "null"),
        ("attention_head_dim", 9, "multiple of 4"),
        ("sample_size", 1, "at least patch_size 2"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(published, key, value, told):
    with pytest.raises(ConfigurationError, match=f"{key} = .*{told}"):
        DiTTransformer2DModel(small(published, **{key: value}))


def test_latents_that_patches_do_not_cover_are_refused(dit):
    with pytest.raises(ConfigurationError, match=r"7 x 8.*patch_size 2"):
        dit(mx.zeros((1, 7, 8, 4)), mx.array([1]), mx.array([0]))


def test_height_and_width_may_differ_and_every_place_is_told_apart(dit):
    given = mx.zeros((1, 6, 12, 4))  # equal patches: what differs in the output is due to positions alone
    out = dit(given, mx.array([5]), mx.array([1]))
    assert out.shape == (1, 6, 12, 8)
    patches = np.array(out).reshape(3, 2, 6, 2, 8).swapaxes(1, 2).reshape(18, -1)
    apart = np.abs(patches[:, None] - patches[None]).max(axis=-1) + np.eye(18)
    assert apart.min() > 1e-4


def test_checkpointing_changes_no_gradient_and_may_be_switched_between_two_steps(dit):
    image = mx.array(noise(2, 8, 8, 4))

    def gradients():
        def loss(parameters, x):
            dit.update(parameters)
            return mx.square(call_mlx(dit, x)).mean()

        found = mx.grad(loss, argnums=(0, 1))(dit.parameters(), image)
        mx.eval(found)
        return dict(tree_flatten(found))

    plain = gradients()
    dit.gradient_checkpointing = True
    again = gradients()
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        assert mx.allclose(again[name], gradient, rtol=1e-4, atol=1e-7), name


def test_checkpointing_lowers_the_peak(published):
    model = DiTTransformer2DModel(small(published, num_layers=8, num_attention_heads=4, attention_head_dim=16))
    image = mx.array(noise(2, 32, 32, 4))

    def peak(checkpointing):
        model.gradient_checkpointing = checkpointing
        mx.eval(model.parameters())
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(mx.grad(lambda x: mx.square(call_mlx(model, x)).mean())(image))
        return mx.get_peak_memory() - before

    assert peak(True) < 0.5 * peak(False)


def test_the_forward_derivative_exists(dit):
    image, direction = mx.array(noise(2, 8, 8, 4)), mx.array(noise(2, 8, 8, 4, seed=3))
    _, (slope,) = mx.jvp(lambda x: call_mlx(dit, x), [image], [direction])
    step = 1e-2
    expected = (call_mlx(dit, image + step * direction) - call_mlx(dit, image - step * direction)) / (2 * step)
    assert error(np.array(slope), np.array(expected)) < 1e-2


@pytest.mark.parametrize(("dtype", "bound"), [(mx.float16, 2e-3), (mx.bfloat16, 2e-2)], ids=["float16", "bfloat16"])
def test_half_precision_stays_near_float32(dit, dtype, bound):
    image = mx.array(noise(2, 8, 8, 4))
    full = call_mlx(dit, image)
    dit.apply(lambda w: w.astype(dtype))
    half = call_mlx(dit, image.astype(dtype))
    assert half.dtype == dtype
    off = mx.sqrt(mx.square(half.astype(mx.float32) - full).mean() / mx.square(full).mean())
    assert float(off) < bound
