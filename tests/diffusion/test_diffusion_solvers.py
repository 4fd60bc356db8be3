"""Against the closed-form denoiser of Gaussian data: D = c^2 x / (c^2 + s^2), whose ODE is solved by scaling."""

from __future__ import annotations

import math

import numpy as np
import pytest

from autotuner.diffusion.blas import mx
from autotuner.diffusion.noise import rho_schedule
from autotuner.diffusion.solvers import SOLVERS

C = 0.5
ORDERS = {"euler": 1, "heun": 2, "dpmpp_2m": 2, "ipndm": 2}


def gaussian(x, sigma):
    s = sigma.reshape(-1, 1, 1, 1)
    return C**2 / (C**2 + s**2) * x


def error(solver, steps):
    sigmas = rho_schedule(steps + 1, 0.1, 10.0)[:-1]
    start = mx.ones((1, 1, 1, 1)) * 7.0
    exact = 7.0 * math.sqrt((C**2 + sigmas[-1] ** 2) / (C**2 + sigmas[0] ** 2))
    return abs(float(SOLVERS[solver](gaussian, start, list(sigmas)).item()) - exact) / exact


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_the_observed_order_is_the_named_one(solver):
    observed = math.log2(error(solver, 16) / error(solver, 32))
    assert observed == pytest.approx(ORDERS[solver], abs=0.35)


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_samples_have_the_deviation_of_the_data(solver):
    noise = mx.array(np.random.default_rng(0).standard_normal((4000, 1, 1, 1)).astype(np.float32)) * 20.0
    samples = np.array(SOLVERS[solver](gaussian, noise, list(rho_schedule(100, 0.01, 20.0))))
    assert samples.std() == pytest.approx(C, rel=0.06)


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_a_single_image_is_found_in_any_number_of_steps(solver):
    image = mx.array(np.random.default_rng(1).uniform(-1, 1, (1, 4, 4, 1)).astype(np.float32))
    for steps in (1, 2, 5):
        found = SOLVERS[solver](
            lambda x, sigma: image + 0 * x, mx.ones((1, 4, 4, 1)) * 30, list(rho_schedule(steps, 0.02, 40.0))
        )
        assert float(mx.abs(found - image).max()) < 1e-4


def test_higher_order_pays_at_few_steps():
    assert error("dpmpp_2m", 6) < error("euler", 6) / 2
    assert error("ipndm", 6) < error("euler", 6) / 2
