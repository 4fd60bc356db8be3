from __future__ import annotations

import math

import numpy as np
import pytest

from autotuner.diffusion.noise import rho_schedule
from autotuner.diffusion.schedules import SCHEDULES, arctan, karras, log_snr, rho, vp_time
from autotuner.diffusion.schedules.grids import _vp_time_of_sigma
from autotuner.errors import ConfigurationError

LOW, HIGH = 0.02, 40.0
EVEN_TO_ZERO = {"uniform": np.arctan, "vp_uniform": _vp_time_of_sigma}


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_a_grid_falls_from_most_noise_to_least_and_then_to_none(name, steps):
    sigmas = SCHEDULES[name](steps, LOW, HIGH)
    assert sigmas.shape == (steps + 1,)
    assert sigmas[0] == pytest.approx(HIGH)
    assert sigmas[-1] == 0
    assert steps == 1 or name in EVEN_TO_ZERO or sigmas[-2] == pytest.approx(LOW)
    assert (np.diff(sigmas) < 0).all()


@pytest.mark.parametrize(
    ("schedule", "warp"),
    [
        (log_snr, np.log),
        (karras, lambda s: s ** (1 / 7)),
        (lambda *a: rho(*a, rho=3), np.cbrt),
        (arctan, lambda s: np.arctan(s / 0.5)),
        (lambda *a: arctan(*a, sigma_data=2.0), lambda s: np.arctan(s / 2)),
    ],
)
def test_each_grid_is_even_in_its_own_measure(schedule, warp):
    steps = np.diff(warp(schedule(20, LOW, HIGH)[:-1]))
    assert steps == pytest.approx(np.full(19, steps[0]))


@pytest.mark.parametrize("name", sorted(EVEN_TO_ZERO))
def test_a_uniform_grid_is_even_down_to_zero(name):
    steps = np.diff(EVEN_TO_ZERO[name](SCHEDULES[name](20, LOW, HIGH)))
    assert steps == pytest.approx(np.full(20, steps[0]))


def test_vp_time_is_the_grid_of_the_linear_diffusion():
    """Over its whole range of noise this is the grid of 1 000 discrete betas at even timesteps, within their coarseness."""
    beta = np.linspace(0.1 / 1000, 20 / 1000, 1000)
    cumulative = np.cumprod(1 - beta)
    discrete = np.sqrt((1 - cumulative) / cumulative)
    even = vp_time(10, discrete[99], discrete[999])[:-1]
    assert even == pytest.approx(discrete[999::-100], rel=0.05)


def test_the_grids_differ():
    grids = [SCHEDULES[name](10, LOW, HIGH) for name in ("karras", "log_snr", "vp_time", "arctan")]
    assert all(not np.allclose(a, b, rtol=0.05) for i, a in enumerate(grids) for b in grids[:i])
    assert np.array_equal(karras(10, LOW, HIGH), rho_schedule(10, LOW, HIGH))


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize(
    ("steps", "low", "high"), [(0, LOW, HIGH), (5, 0, HIGH), (5, HIGH, LOW), (5, LOW, math.inf), (5, 1, 1)]
)
def test_an_impossible_grid_is_refused(name, steps, low, high):
    with pytest.raises(ConfigurationError, match="0 < sigma_min < sigma_max"):
        SCHEDULES[name](steps, low, high)
