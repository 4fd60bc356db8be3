from __future__ import annotations

import mlx.nn as nn
import numpy as np
import pytest

from autotuner.diffusion.blas import mx
from autotuner.diffusion.config import TrainerConfig
from autotuner.diffusion.dit import DiT
from autotuner.diffusion.unet import UNet
from autotuner.errors import ConfigurationError

NETWORKS = {
    "dit_relu": lambda: DiT(1, 3, 8, width=16, depth=2, patch=2),
    "dit_softmax": lambda: DiT(1, 3, 8, width=16, depth=2, patch=2, attention="softmax"),
    "unet": lambda: UNet(1, 3, 8, width=8, depth=2),
}


@pytest.fixture(params=sorted(NETWORKS))
def network(request):
    """Each network after its zero-initialised layers were given values, as training does."""
    mx.random.seed(0)
    built = NETWORKS[request.param]()
    built.apply(lambda w: w + 0.05 * mx.random.normal(w.shape))
    return built


def image(side=8):
    return mx.array(np.random.default_rng(2).standard_normal((2, side, side, 1)).astype(np.float32))


def test_the_noise_level_changes_the_output(network):
    label = mx.array([0, 1])
    difference = network(image(), mx.array([-1.0, -1.0]), label) - network(image(), mx.array([0.5, 0.5]), label)
    assert float(mx.abs(difference).max()) > 1e-3


def test_the_label_changes_the_output(network):
    level = mx.array([0.1, 0.1])
    difference = network(image(), level, mx.array([0, 0])) - network(image(), level, mx.array([1, 3]))
    assert float(mx.abs(difference).max()) > 1e-3


@pytest.mark.parametrize("side", [4, 8, 12])
def test_one_set_of_weights_serves_every_resolution(network, side):
    assert network(image(side), mx.array([0.1, 0.2]), mx.array([0, 1])).shape == (2, side, side, 1)


def test_images_of_a_batch_do_not_see_each_other(network):
    level, label = mx.array([0.1, 0.2]), mx.array([0, 1])
    together = network(image(), level, label)
    alone = network(image()[1:], level[1:], label[1:])
    assert float(mx.abs(together[1:] - alone).max()) < 1e-4


def test_attention_carries_information_between_distant_patches(network):
    level, label = mx.array([0.1, 0.2]), mx.array([0, 1])
    changed = mx.array(np.array(image()))
    changed[:, 0, 0, :] += 3
    difference = network(image(), level, label) - network(changed, level, label)
    assert float(mx.abs(difference[:, -1, -1]).max()) > 1e-7


def test_a_new_network_starts_at_zero_output():
    for build in NETWORKS.values():
        assert float(mx.abs(build()(image(), mx.array([0.1, 0.2]), mx.array([0, 1]))).max()) < 1e-6


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        (lambda: DiT(1, 3, 8, width=50, heads=3), "width 50 with 3 heads; allowed are multiples of the heads"),
        (lambda: DiT(1, 3, 8, attention="sofmax"), "attention 'sofmax'; allowed: relu, softmax"),
        (lambda: UNet(1, 3, 8, width=10), "width 10; allowed are multiples of 8"),
    ],
)
def test_an_architecture_that_cannot_be_is_refused_when_it_is_built(build, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        build()


@pytest.mark.parametrize(
    ("network", "parameters", "complaint"),
    [
        ("dit", {"width": 0}, r"network 'dit': model\.width 0; allowed is a whole number from 1 on"),
        ("dit", {"width": "x"}, r"model\.width 'x'; allowed is a whole number"),
        ("dit", {"depth": -1}, r"model\.depth -1; allowed is a whole number from 1 on"),
        ("dit", {"heads": True}, r"model\.heads True; allowed is a whole number"),
        ("dit", {"mlp_ratio": 2.5}, r"model\.mlp_ratio 2\.5; allowed is a whole number"),
        ("dit", {"coarse_patch": 0}, r"model\.coarse_patch 0; allowed is a whole number from 1 on"),
        ("dit", {"channels": 3}, r"unknown key 'channels'; allowed: width, depth, heads"),
        ("unet", {"heads": 2}, r"unknown key 'heads'; allowed: width, depth$"),
        ("unet", {"depth": 0}, r"model\.depth 0; allowed is a whole number from 1 on"),
        ("unet2d", {"block_out_chanels": [8]}, r"network 'unet2d': model: .*block_out_chanels"),
        ("dit2d", {"patch_size": 0}, r"network 'dit2d': model: .*patch_size = 0"),
        ("unet2d", {"folder": 3}, r"model\.folder 3; allowed is the path"),
        ("stable_diffusion", {"ranks": 3}, r"unknown key 'ranks'; allowed: folder, captions, adapter, rank"),
    ],
)
def test_parameters_that_a_network_does_not_take_are_refused_before_it_is_built(network, parameters, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        TrainerConfig(network=network, model=parameters, fixed={})


def test_patches_come_back_where_they_were():
    dit = NETWORKS["dit_relu"]()
    pixels = image()
    assert mx.array_equal(dit._images(dit._patches(pixels, dit.patch), pixels.shape, dit.patch), pixels)


def test_the_networks_are_modules_with_trainable_weights(network):
    assert isinstance(network, nn.Module)
    assert network.trainable_parameters()
