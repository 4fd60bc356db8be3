from __future__ import annotations

import mlx.nn as nn
import numpy as np
import pytest

from autotuner.diffusion import precondition as p
from autotuner.diffusion.blas import mx
from autotuner.diffusion.loss import denoising_errors

SIGMA = mx.array([0.01, 0.3, 1.0, 10.0])
DATA = 0.7


def test_the_network_sees_unit_variance_and_is_asked_for_unit_variance():
    generator = np.random.default_rng(0)
    image, noise = (generator.standard_normal((200_000, 1)) * s for s in (DATA, 1.0))
    for sigma in (0.05, 0.7, 8.0):
        level = mx.array(sigma)
        noisy = image + sigma * noise
        assert (float(p.c_in(level, DATA)) * noisy).std() == pytest.approx(1, rel=0.01)
        target = (image - float(p.c_skip(level, DATA)) * noisy) / float(p.c_out(level, DATA))
        assert target.std() == pytest.approx(1, rel=0.01)


def test_the_weight_is_the_inverse_square_of_the_output_scale():
    product = p.weight(SIGMA, DATA) * mx.square(p.c_out(SIGMA, DATA))
    assert np.array(product) == pytest.approx(np.ones(4), rel=1e-5)


class Silent(nn.Module):
    def __call__(self, x, c_noise, label):
        return mx.zeros_like(x)


def test_an_untrained_network_has_loss_one_at_every_level():
    generator = np.random.default_rng(3)
    images = mx.array((generator.standard_normal((64, 16, 16, 1)) * DATA).astype(np.float32))
    noise = mx.array(generator.standard_normal((64, 16, 16, 1)).astype(np.float32))
    for sigma in (0.05, 1.0, 20.0):
        errors = denoising_errors(p.Denoiser(Silent(), DATA), images, mx.zeros((64,), mx.int32), noise, mx.full((64,), sigma))
        assert float(errors.mean()) == pytest.approx(1, rel=0.03)


def test_almost_no_noise_returns_the_input():
    x = mx.ones((1, 2, 2, 1)) * 0.3
    found = p.Denoiser(Silent(), DATA)(x, mx.array([1e-4]), mx.array([0]))
    assert float(mx.abs(found - x).max()) < 1e-5
