"""Against denoisers whose ODE has a known solution, in float64 (which MLX has on the CPU): Gaussian data and finite sets.

Gaussian data N(m, c^2): D = (c^2 x + s^2 m) / (c^2 + s^2), and x - m shrinks like sqrt(c^2 + s^2).
A finite set of points on a line: D is a softmax over them, and the share of samples left of a trajectory never changes.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from autotuner.diffusion.blas import mx
from autotuner.diffusion.schedules import SCHEDULES, karras, log_snr, rho
from autotuner.diffusion.solvers import SOLVERS, ddim, dpmpp_2m, dpmpp_3m, euler, heun, ipndm, unipc
from autotuner.errors import ConfigurationError

MEAN, C = 0.3, 0.5
POINTS = (-1.0, 0.2, 0.7)


@pytest.fixture(autouse=True)
def on_the_cpu():
    """float64 is there only."""
    with mx.stream(mx.cpu):
        yield


def gaussian(x, sigma):
    s = sigma.reshape(-1, *[1] * (x.ndim - 1))
    return (C**2 * x + s**2 * MEAN) / (C**2 + s**2)


def finite(x, sigma):
    s, points = sigma.reshape(-1, 1, 1), mx.array(list(POINTS), dtype=x.dtype)
    return mx.sum(mx.softmax(-mx.square(x[..., None] - points) / (2 * s * s), axis=-1) * points, axis=-1)


def gaussian_solution(x, sigmas):
    return MEAN + (x - MEAN) * math.sqrt((C**2 + sigmas[-1] ** 2) / (C**2 + sigmas[0] ** 2))


def finite_solution(starts, sigmas):
    def share_on_the_left(x, sigma):
        return sum(math.erfc((point - x) / (sigma * math.sqrt(2))) for point in POINTS) / (2 * len(POINTS))

    def end(start):
        share = share_on_the_left(start, sigmas[0])
        return bisect(lambda x: share_on_the_left(x, sigmas[-1]) < share)

    return np.array([end(start) for start in starts])


def bisect(below):
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return low


PROBLEMS = {"gaussian": (gaussian, gaussian_solution), "finite": (finite, finite_solution)}
STARTS = np.linspace(-1.5, 1.5, 9)
"""In units of the first level."""


def error(solver, sigmas, problem="gaussian"):
    """Root mean square distance from the exact solutions at the last level of a grid that stops above 0."""
    denoise, solution = PROBLEMS[problem]
    starts = STARTS * sigmas[0]
    found = solver(denoise, mx.array(starts[:, None].tolist(), dtype=mx.float64), list(sigmas))
    assert found.dtype == mx.float64
    return math.sqrt(np.mean((np.array(found)[:, 0] - solution(starts, sigmas)) ** 2))


def observed_order(solver, problem, grid, steps):
    return math.log2(error(solver, grid(steps), problem) / error(solver, grid(2 * steps), problem))


def even_in_log_sigma(steps):
    """After a very short first step: a multistep method begins with order 1, which must not be what is seen."""
    sigmas = log_snr(steps + 1, 0.7, 20.0)[:-1]
    return np.insert(sigmas, 1, sigmas[0] ** 0.999 * sigmas[1] ** 0.001)


def even_in_sigma(steps):
    return rho(steps + 1, 0.7, 10.0, rho=1.0)[:-1]


def on_karras_grid(steps):
    return karras(steps + 1, 0.3, 10.0)[:-1]


def full(solver, **options):
    return partial(solver, lower_order_final=False, **options)


ORDERS = {
    "euler": (euler, 1),
    "ddim": (ddim, 1),
    "heun": (heun, 2),
    "dpmpp_2m": (dpmpp_2m, 2),
    "dpmpp_3m, published": (full(dpmpp_3m), 2),
    "dpmpp_3m, Taylor": (full(dpmpp_3m, curvature=1.0), 3),
    "unipc 1 bh1": (full(unipc, order=1, variant="bh1"), 2),
    "unipc 1 bh2": (full(unipc, order=1, variant="bh2"), 2),
    "unipc 2 bh1": (full(unipc, order=2, variant="bh1"), 3),
    "unipc 2 bh2": (full(unipc, order=2, variant="bh2"), 3),
    "unipc 3 bh1": (full(unipc, order=3, variant="bh1"), 4),
    "unipc 3 bh2": (full(unipc, order=3, variant="bh2"), 4),
}
"""Solver and its order in theory; UniPC-p has p + 1."""


@pytest.mark.parametrize("problem", sorted(PROBLEMS))
@pytest.mark.parametrize("name", sorted(ORDERS))
def test_halving_the_steps_in_log_sigma_shows_the_order(name, problem):
    solver, order = ORDERS[name]
    assert observed_order(solver, problem, even_in_log_sigma, 64) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("problem", sorted(PROBLEMS))
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_ipndm_has_its_order_where_steps_in_sigma_are_even(order, problem):
    assert observed_order(partial(ipndm, order=order), problem, even_in_sigma, 400) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("problem", sorted(PROBLEMS))
@pytest.mark.parametrize("order", [2, 3, 4])
def test_ipndm_has_order_two_on_any_other_grid(order, problem):
    assert observed_order(partial(ipndm, order=order), problem, on_karras_grid, 200) == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_every_sampler_finds_the_solution_on_every_grid(solver, schedule):
    """Without a limit such as this one a wrong coefficient could still converge, to something else."""
    for problem in PROBLEMS:
        assert error(SOLVERS[solver], SCHEDULES[schedule](200, 0.1, 20.0)[:-1], problem) < 0.02


@pytest.mark.parametrize("solver", sorted(SOLVERS))
@pytest.mark.parametrize("steps", [100, 400])
def test_samples_have_the_mean_and_deviation_of_gaussian_data(solver, steps):
    """More steps must come closer: the ancestor of this project diverged here (deviation 62.7 for 0.5 at 100 steps)."""
    noise = np.random.default_rng(0).standard_normal((4000, 1))
    noise = MEAN + 40.0 * (noise - noise.mean()) / noise.std()
    samples = np.array(SOLVERS[solver](gaussian, mx.array(noise.astype(np.float32)), karras(steps, 0.01, 40.0)))
    assert samples.mean() == pytest.approx(MEAN, abs=0.002)
    assert samples.std() == pytest.approx(C, rel=4 / steps)


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_samples_have_the_shares_and_deviation_of_a_finite_set(solver):
    """Noise at even quantiles, so that each point must get its third."""
    quantiles = [bisect(lambda x, i=i: math.erfc(-x / math.sqrt(2)) / 2 < (i + 0.5) / 900) for i in range(900)]
    noise = np.mean(POINTS) + 40.0 * np.array(quantiles)[:, None]
    samples = np.array(SOLVERS[solver](finite, mx.array(noise.astype(np.float32)), karras(100, 0.01, 40.0)))
    nearest = np.abs(samples - np.array(POINTS)).argmin(axis=1)
    assert np.bincount(nearest) / 900 == pytest.approx([1 / 3] * 3, abs=0.01)
    assert np.abs(samples[:, 0] - np.array(POINTS)[nearest]).mean() < 2e-3
    assert samples.std() == pytest.approx(np.std(POINTS), rel=0.01)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_fresh_noise_keeps_the_deviation(eta):
    noise = mx.random.normal((4000, 1), key=mx.random.key(1)) * 40.0
    first, second = (
        np.array(ddim(gaussian, noise, karras(200, 0.01, 40.0), eta=eta, key=mx.random.key(key))) for key in (2, 3)
    )
    assert first.std() == pytest.approx(C, rel=0.05)
    assert np.abs(first - second).max() > 0.1


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_a_single_image_is_found_in_any_number_of_steps(solver):
    image = mx.array(np.random.default_rng(1).uniform(-1, 1, (1, 4, 4, 1)).astype(np.float32))
    for steps in (1, 2, 5):
        found = SOLVERS[solver](lambda x, sigma: image + 0 * x, mx.ones((1, 4, 4, 1)) * 30, karras(steps, 0.02, 40.0))
        assert float(mx.abs(found - image).max()) < 1e-4


def few(solver):
    return error(solver, log_snr(9, 0.1, 20.0)[:-1])


def test_higher_order_pays_at_few_steps():
    assert all(few(solver) < few(euler) / 2 for solver in (dpmpp_2m, ipndm, full(unipc), full(dpmpp_3m)))


def test_ddim_is_euler_and_unipc_of_order_one_is_corrected_euler():
    assert few(ddim) == few(euler)
    assert few(partial(unipc, order=1)) < few(euler)


def test_ipndm_without_an_order_is_the_third():
    assert few(ipndm) == few(partial(ipndm, order=3))
    assert few(ipndm) != few(partial(ipndm, order=4))


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_each_step_is_shown_once_with_its_preview(solver):
    seen = []
    sigmas = karras(4, 0.02, 40.0)
    found = SOLVERS[solver](gaussian, mx.ones((2, 3)) * 30, sigmas, watch=seen.append)
    assert [(step.number, step.steps) for step in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [(step.sigma, step.following) for step in seen] == list(pairwise(sigmas))
    assert np.array_equal(np.array(seen[-1].x), np.array(found))
    expected = gaussian(mx.ones((2, 3)) * 30, mx.full((2,), 40.0))
    assert np.array_equal(np.array(seen[0].denoised), np.array(expected))


EVALUATIONS = {"heun": 9}


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_a_step_costs_one_evaluation_but_for_heun(solver):
    calls = []

    def denoise(x, sigma):
        calls.append(sigma)
        return gaussian(x, sigma)

    SOLVERS[solver](denoise, mx.ones((2, 3)), karras(5, 0.02, 40.0))
    assert len(calls) == EVALUATIONS.get(solver, 5)
    assert all(sigma.shape == (2,) and sigma.dtype == mx.float32 for sigma in calls)


@pytest.mark.parametrize("solver", sorted(SOLVERS))
@pytest.mark.parametrize("sigmas", [[], [1.0], [1.0, 1.0], [1.0, 2.0], [1.0, -0.1], [1.0, math.nan], [math.inf, 1.0]])
def test_levels_that_do_not_fall_to_zero_or_above_are_refused(solver, sigmas):
    with pytest.raises(ConfigurationError, match="each below the one before"):
        SOLVERS[solver](gaussian, mx.ones((1, 1)), sigmas)


@pytest.mark.parametrize(
    ("solver", "sentence"),
    [
        (partial(ipndm, order=5), "order 5 of ipndm: allowed are 1 to 4"),
        (partial(ipndm, order=0), "allowed are 1 to 4"),
        (partial(unipc, order=4), "order 4, bh2: allowed are orders"),
        (partial(unipc, variant="bh3"), "bh3: allowed are orders"),
        (partial(ddim, eta=1.5, key=mx.random.key(0)), "eta 1.5 of ddim"),
        (partial(ddim, eta=0.5), "key missing"),
    ],
)
def test_an_option_out_of_bounds_is_answered_with_the_allowed_ones(solver, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        solver(gaussian, mx.ones((1, 1)), [1.0, 0.0])
