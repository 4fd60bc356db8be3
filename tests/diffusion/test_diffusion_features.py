from __future__ import annotations

import numpy as np
import pytest

from autotuner.diffusion.features import PrincipalComponents
from autotuner.diffusion.quality.frechet import frechet


def test_the_distance_of_a_gaussian_from_itself_is_zero():
    cov = np.cov(np.random.default_rng(0).standard_normal((5, 50)))
    assert frechet(np.ones(5), cov, np.ones(5), cov) == pytest.approx(0, abs=1e-8)


def test_the_distance_is_exact_for_gaussians():
    a, b = np.array([1.0, 4.0]), np.array([9.0, 0.25])
    mean = np.array([3.0, 4.0])
    expected = 25 + np.square(np.sqrt(a) - np.sqrt(b)).sum()
    assert frechet(np.zeros(2), np.diag(a), mean, np.diag(b)) == pytest.approx(expected)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    turned = frechet(np.zeros(2), turn @ np.diag(a) @ turn.T, turn @ mean, turn @ np.diag(b) @ turn.T)
    assert turned == pytest.approx(expected)


def test_images_are_near_their_own_kind_and_far_from_noise(stripes):
    features = PrincipalComponents(stripes.images, components=16)
    own = features.distance(stripes.held_out_images)
    noise = np.random.default_rng(0).integers(0, 255, stripes.held_out_images.shape, np.uint8)
    assert features.distance(stripes.images) == pytest.approx(0, abs=1e-6)
    assert own < features.distance(noise) / 10


def test_components_are_the_main_directions():
    generator = np.random.default_rng(1)
    images = np.full((200, 4, 4, 1), 128, np.uint8)
    images[:, 0, 0, 0] = generator.integers(0, 255, 200)
    projected = PrincipalComponents(images, components=2).project(images)
    assert projected[:, 0].std() > 100 * projected[:, 1].std() + 1e-9
