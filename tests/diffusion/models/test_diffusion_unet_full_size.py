"""The whole U-Net of Stable Diffusion 1.5: 860 million random weights, 3.4 GB each time they are held."""

from __future__ import annotations

import gc

import diffusers
import pytest
import torch
from parity import BOUND, errors, mlx_run, noise, randomise, torch_run

from autotuner.diffusion.blas import mx
from autotuner.diffusion.models.unet_2d_condition import UNet2DConditionModel
from autotuner.diffusion.models.weights import load


@pytest.mark.slow
def test_stable_diffusion_at_full_size_agrees_with_diffusers(published, tmp_path):
    """Output and the gradient of every weight, for one latent of 16 x 16; torch's copy is gone before ours is read."""
    torch.manual_seed(0)
    theirs = randomise(diffusers.UNet2DConditionModel.from_config(published("stable-diffusion-1.5-unet")))
    theirs.save_pretrained(tmp_path)
    image, context = noise(1, 4, 16, 16), noise(1, 77, 768, seed=4)
    text = torch.from_numpy(context)
    expected = torch_run(theirs, lambda model, x: model(x, torch.tensor([300]), text).sample, image)
    del theirs
    gc.collect()
    ours = load(UNet2DConditionModel, tmp_path)
    found = mlx_run(ours, lambda model, x: model(x, mx.array([300]), mx.array(context)), image)
    table = errors(found, expected)
    print(f"output {table['output']:.1e}, gradients up to {max(table.values()):.1e} of {len(table) - 1}")
    assert max(table.values()) <= BOUND
