"""The autoencoder against diffusers: latents, images, all gradients, and the way back."""

from __future__ import annotations

import warnings

import diffusers
import numpy as np
import pytest
import torch
from mlx.utils import tree_flatten
from parity import assert_parity, error, noise, randomise

from autotuner.diffusion.blas import mx
from autotuner.diffusion.models.autoencoder_kl import AutoencoderKL, DiagonalGaussian
from autotuner.errors import ConfigurationError

FOUR = {"block_out_channels": [8, 16, 16, 16], "norm_num_groups": 4}
TWO = {
    "block_out_channels": [8, 16],
    "norm_num_groups": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
}

CASES = {
    "stable diffusion 1.5": ("stable-diffusion-1.5-vae", FOUR, (16, 24)),
    "stable diffusion xl": ("stable-diffusion-xl-vae", FOUR, (8, 8)),
    "stable diffusion 3, odd size": ("stable-diffusion-3-vae", TWO, (9, 12)),
    "no attention, one layer, gelu, gray in and rgb out": (
        "stable-diffusion-1.5-vae",
        {**TWO, "mid_block_add_attention": False, "layers_per_block": 1, "act_fn": "gelu", "in_channels": 1},
        (8, 8),
    ),
}


def build(config):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return randomise(diffusers.AutoencoderKL.from_config(config))


def call_torch(model, x):
    """Encoder and decoder with a fixed share of the deviation, so that the gradient passes mean, deviation and image."""
    latents = model.encode(x).latent_dist
    return model.decode(latents.mean + 0.1 * latents.std).sample


def call_mlx(model, x):
    latents = model.encode(x)
    return model.decode(latents.mean + 0.1 * mx.exp(0.5 * latents.logvar))


@pytest.fixture
def small(published):
    mx.random.seed(0)
    return AutoencoderKL(published("stable-diffusion-1.5-vae", **TWO))


@pytest.mark.parametrize("case", CASES)
def test_output_gradients_and_way_back_agree_with_diffusers(case, published, tmp_path):
    source, changes, size = CASES[case]
    config = published(source, **changes)
    image = noise(2, config["in_channels"], *size)
    theirs = build(config)
    ours, _ = assert_parity(theirs, AutoencoderKL, tmp_path, torch_call=call_torch, mlx_call=call_mlx, image=image)
    with torch.no_grad():
        posterior = theirs.encode(torch.from_numpy(image)).latent_dist
    latents = ours.encode(mx.array(image.transpose(0, 2, 3, 1)))
    for mine, other in ((latents.mean, posterior.mean), (latents.logvar, posterior.logvar)):
        assert error(np.array(mine).transpose(0, 3, 1, 2), other.numpy()) < 1e-4
    assert error(np.array(latents.kl()), posterior.kl().numpy()) < 1e-4


@pytest.mark.slow
def test_the_published_autoencoder_of_stable_diffusion_agrees_with_diffusers(published, tmp_path):
    """84 million weights, once, on one image of 32 x 32 pixels."""
    theirs = build(published("stable-diffusion-1.5-vae"))
    image = noise(1, 3, 32, 32)
    assert_parity(theirs, AutoencoderKL, tmp_path, torch_call=call_torch, mlx_call=call_mlx, image=image)


@pytest.mark.parametrize("source", ["stable-diffusion-1.5-vae", "stable-diffusion-xl-vae", "stable-diffusion-3-vae"])
def test_standardising_is_undone_by_raw(source, published):
    model = AutoencoderKL(published(source, **TWO))
    latents = mx.array(noise(1, 2, 2, 4))
    scale, shift = model.config["scaling_factor"], model.config["shift_factor"] or 0.0
    assert mx.allclose(model.standardise(latents), (latents - shift) * scale, atol=1e-6)
    assert mx.allclose(model.raw(model.standardise(latents)), latents, atol=1e-5)


def test_draws_have_the_mean_and_deviation_that_the_image_was_encoded_to():
    shape = (1, 64, 64, 4)
    given = DiagonalGaussian(mx.full(shape, 2.0), mx.full(shape, float(np.log(9.0))))
    drawn = given.sample(mx.random.key(0))
    assert float(drawn.mean()) == pytest.approx(2.0, abs=0.1)
    assert float(mx.std(drawn)) == pytest.approx(3.0, abs=0.1)
    assert mx.array_equal(drawn, given.sample(mx.random.key(0)))


def test_an_extreme_variance_is_held_within_bounds(small):
    small.quant_conv.bias = mx.array([0.0] * 4 + [1e4, -1e4, 0.0, 0.0])
    logvar = small.encode(mx.zeros((1, 4, 4, 3))).logvar
    assert float(logvar.max()) == 20.0
    assert float(logvar.min()) == -30.0


def test_the_reduction_is_that_of_the_latents(small):
    assert small.encode(mx.zeros((1, 8, 12, 3))).mean.shape == (1, 8 // small.reduction, 12 // small.reduction, 4)


def test_checkpointing_changes_no_gradient(small):
    image = mx.array(noise(1, 8, 8, 3))

    def gradients():
        def loss(parameters, x):
            small.update(parameters)
            return mx.square(small(x)).mean()

        found = mx.grad(loss, argnums=(0, 1))(small.parameters(), image)
        mx.eval(found)
        return dict(tree_flatten(found))

    plain = gradients()
    small.gradient_checkpointing = True
    again = gradients()
    largest = max(float(mx.abs(gradient).max()) for gradient in plain.values())
    assert largest > 0
    for name, gradient in plain.items():
        assert mx.allclose(again[name], gradient, rtol=1e-3, atol=1e-5 * largest), name


@pytest.mark.parametrize(("dtype", "bound"), [(mx.float16, 1e-2), (mx.bfloat16, 6e-2)], ids=["float16", "bfloat16"])
def test_half_precision_stays_near_float32(small, dtype, bound):
    image = mx.array(noise(1, 16, 16, 3))
    full = small(image)
    small.apply(lambda w: w.astype(dtype))
    half = small(image.astype(dtype))
    assert half.dtype == dtype
    off = mx.sqrt(mx.square(half.astype(mx.float32) - full).mean() / mx.square(full).mean())
    print(f"{dtype}: {float(off):.1e}")
    assert float(off) < bound


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("down_block_types", ["AttnDownEncoderBlock2D"] * 2, "DownEncoderBlock2D"),
        ("up_block_types", ["UpDecoderBlock2D"], "a list of 2"),
        ("norm_num_groups", 3, None),
        ("latents_mean", [0.0], "null"),
        ("scaling_factor", 0, "above 0"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(published, key, value, told):
    with pytest.raises(ConfigurationError, match=told or "multiples of norm_num_groups 3"):
        AutoencoderKL(published("stable-diffusion-1.5-vae", **{**TWO, key: value}))
