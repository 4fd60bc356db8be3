from __future__ import annotations

import math

import numpy as np
import pytest

from autotuner.diffusion import noise
from autotuner.diffusion.blas import mx


def draw(index, count=20_000, scale=1.0):
    cumulative = mx.array(np.cumsum(noise.probabilities(index)).astype(np.float32))
    weights = mx.array(noise.importance(index).astype(np.float32))
    sigma, importance = noise.draw_sigma(mx.random.key(4), count, cumulative, weights, mx.array(scale))
    return np.array(sigma), np.array(importance)


@pytest.mark.parametrize("index", range(len(noise.DENSITIES)))
def test_every_density_reaches_every_bin_and_sums_to_one(index):
    found = noise.probabilities(index)
    assert found.sum() == pytest.approx(1)
    assert found.min() >= noise.FLOOR


@pytest.mark.parametrize("index", range(len(noise.DENSITIES)))
def test_importance_weights_make_every_density_estimate_the_reference(index):
    reference, _ = draw(0)
    sigma, weights = draw(index)
    assert weights.mean() == pytest.approx(1, abs=0.01)
    assert (weights * np.log(sigma)).mean() == pytest.approx(np.log(reference).mean(), abs=0.02)


def test_the_reference_is_the_log_normal():
    sigma, weights = draw(0)
    assert np.all(weights == 1)
    assert np.median(np.log(sigma)) == pytest.approx(noise.P_MEAN, abs=0.1)


def test_another_density_moves_the_levels_and_smaller_images_scale_them():
    middle = [np.median(draw(index)[0]) for index in range(3)]
    assert middle[1] < middle[0] < middle[2]
    assert np.median(draw(0, scale=0.5)[0]) == pytest.approx(middle[0] / 2, rel=1e-4)


def test_area_averaging_keeps_the_signal_to_noise_ratio_under_the_scaled_level():
    field = np.random.default_rng(0).standard_normal((200, 28, 28))
    averaged = field.reshape(200, 14, 2, 14, 2).mean(axis=(2, 4))
    assert averaged.std() == pytest.approx(noise.resolution_scale(14, 28), rel=0.02)


def test_the_schedule_goes_from_most_to_least_noise_and_ends_clean():
    sigmas = noise.rho_schedule(5, 0.02, 40.0)
    assert sigmas[0] == pytest.approx(40)
    assert sigmas[-2] == pytest.approx(0.02)
    assert sigmas[-1] == 0
    assert np.all(np.diff(sigmas) < 0)
    assert list(noise.rho_schedule(1, 0.02, 40.0)) == pytest.approx([40, 0])


def test_another_rho_or_number_of_steps_is_another_grid():
    assert not np.allclose(noise.rho_schedule(5, 0.02, 40.0, rho=3), noise.rho_schedule(5, 0.02, 40.0, rho=7))
    assert len(noise.rho_schedule(9, 0.02, 40.0)) == 10


def test_time_runs_along_the_same_curve():
    times = np.linspace(1, 0, 9)
    found = np.array(noise.sigma_of_time(mx.array(times), 0.02, 40.0))
    assert found[:-1] == pytest.approx(noise.rho_schedule(9, 0.02, 40.0)[:8], rel=1e-4)
    assert found[-1] == 0


def test_reference_levels_are_the_medians_of_equal_shares():
    levels = np.log(noise.reference_sigmas(10))
    assert levels.mean() == pytest.approx(noise.P_MEAN, abs=1e-3)
    assert levels[7] - noise.P_MEAN == pytest.approx(0.6745 * noise.P_STD, abs=2e-3)  # the 75 % quantile
    assert math.isclose(levels[0] + levels[-1], 2 * noise.P_MEAN, abs_tol=1e-3)
