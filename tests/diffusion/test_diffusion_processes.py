"""Every row of the table of processes against its algebra and against diffusers' schedulers."""

from __future__ import annotations

from dataclasses import replace

import mlx.nn as nn
import numpy as np
import pytest

from autotuner.diffusion import betas, noise
from autotuner.diffusion.blas import mx
from autotuner.diffusion.evaluation import way
from autotuner.diffusion.precondition import PROCESSES, TIMESTEPS, Denoiser, find_process
from autotuner.diffusion.sample import solve
from autotuner.errors import ConfigurationError

DATA = 0.7
SIGMAS = np.array([0.012, 0.05, 0.3, 1.0, 4.0, 14.0], np.float32)


class Perfect(nn.Module):
    """Knows image and noise, and answers what the named process asks its network for."""

    def __init__(self, process, image, noise_, sigma):
        super().__init__()
        self.row, self.known = process, (image, noise_, sigma.reshape(-1, 1, 1, 1))

    def __call__(self, x, c_noise, label):
        y, n, sigma = self.known
        if self.row == "vp_epsilon":
            return n
        if self.row == "vp_v":
            return (n - sigma * y) * mx.rsqrt(1 + sigma**2)
        if self.row == "flow":
            return n - y
        c_skip, c_out = (f(sigma, DATA) for f in (PROCESSES["edm"].c_skip, PROCESSES["edm"].c_out))
        return (y - c_skip * (y + sigma * n)) / c_out


@pytest.fixture
def picture():
    generator = np.random.default_rng(2)
    image = generator.standard_normal((len(SIGMAS), 8, 8, 1)).astype(np.float32) * DATA
    return mx.array(image), mx.array(generator.standard_normal(image.shape).astype(np.float32)), mx.array(SIGMAS)


@pytest.mark.parametrize("name", PROCESSES)
def test_a_perfect_network_gives_the_image_back_at_every_level(picture, name):
    y, n, sigma = picture
    denoiser = Denoiser(Perfect(name, y, n, sigma), DATA, find_process(name))
    found = denoiser(y + sigma.reshape(-1, 1, 1, 1) * n, sigma, mx.zeros((len(SIGMAS),), mx.int32))
    assert np.abs(np.array(found - y)).max() < 1e-5 * 14


class Seen(nn.Module):
    def __call__(self, x, c_noise, label):
        self.x, self.c_noise = x, c_noise
        return mx.zeros_like(x)


def seen(name, picture, **parameters):
    y, n, sigma = picture
    network = Seen()
    Denoiser(network, DATA, find_process(name, **parameters))(y + sigma.reshape(-1, 1, 1, 1) * n, sigma, None)
    return np.array(network.x), np.array(network.c_noise)


def test_the_network_sees_the_coordinates_of_its_own_process(picture):
    y, n, sigma = (np.array(part, np.float64) for part in picture)
    s = sigma.reshape(-1, 1, 1, 1)
    kept = 1 / (1 + s**2)
    assert seen("vp_epsilon", picture)[0] == pytest.approx(np.sqrt(kept) * y + np.sqrt(1 - kept) * n, rel=1e-4, abs=1e-6)
    t = s / (1 + s)
    x, told = seen("flow", picture)
    assert x == pytest.approx((1 - t) * y + t * n, rel=1e-4, abs=1e-6)
    assert told == pytest.approx(1000 * t.reshape(-1), rel=1e-5)


@pytest.mark.parametrize(("name", "data"), [("edm", 0.5), ("edm", 2.0), ("vp_epsilon", 1.0), ("vp_v", 1.0)])
def test_the_input_has_unit_variance(name, data):
    sigma = mx.array(SIGMAS)
    variance = np.array(PROCESSES[name].c_in(sigma, data)) ** 2 * (data**2 + SIGMAS**2)
    assert variance == pytest.approx(np.ones(len(SIGMAS)), rel=1e-5)


def test_flow_matching_keeps_the_variance_of_its_straight_line():
    """(1 - t)^2 + t^2 is between a half and one: the process is defined so, and no network of it expects otherwise."""
    variance = np.array(PROCESSES["flow"].c_in(mx.array(SIGMAS), 1.0)) ** 2 * (1 + SIGMAS**2)
    assert variance.min() >= 0.5 - 1e-6
    assert variance.max() <= 1


SCHEDULERS = {
    "linear": {"beta_schedule": "linear"},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}


@pytest.mark.parametrize("schedule", betas.BETAS)
def test_the_tables_are_those_of_diffusers(schedule):
    diffusers = pytest.importorskip("diffusers")
    kept = diffusers.DDPMScheduler(**SCHEDULERS[schedule]).alphas_cumprod.numpy().astype(np.float64)
    ours = 1 / (1 + betas.sigmas(schedule) ** 2)
    assert np.abs(ours - kept).max() <= 1e-6


@pytest.mark.parametrize("schedule", betas.BETAS)
def test_levels_between_two_steps_are_told_as_diffusers_does(schedule):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.EulerDiscreteScheduler(**{**SCHEDULERS["scaled_linear"], "use_karras_sigmas": True})
    table = betas.sigmas(schedule)
    levels = np.exp(np.linspace(np.log(table[0]) - 0.1, np.log(table[-1]) + 0.1, 200))
    expected = [float(theirs._sigma_to_t(np.array([level]), np.log(table))[0]) for level in levels]
    found = betas.timestep_of_sigma(mx.array(levels.astype(np.float32)), mx.array(np.log(table).astype(np.float32)))
    assert np.array(found) == pytest.approx(expected, abs=0.02)
    inside = slice(10, -10)
    assert betas.sigma_of_timestep(np.array(expected)[inside], table) == pytest.approx(levels[inside], rel=1e-6)


def test_whole_steps_are_told_as_whole_steps(picture):
    table = betas.sigmas("scaled_linear")
    levels = mx.array(table[[0, 1, 500, 998, 999]].astype(np.float32))
    told = np.array(find_process("vp_epsilon", "scaled_linear").c_noise(levels))
    assert told == pytest.approx([0, 1, 500, 998, 999], abs=2e-3)
    assert np.array(find_process("vp_epsilon", "scaled_linear").of_order_one().c_noise(levels)) == pytest.approx(
        told / TIMESTEPS
    )


def test_the_resolution_shift_of_flow_matching_is_a_factor_on_sigma():
    diffusers = pytest.importorskip("diffusers")
    times = np.linspace(0.01, 0.99, 40)
    for shift in (0.5, 2.0, 3.0):
        shifted = noise.shifted_time(times, shift)
        assert shifted / (1 - shifted) == pytest.approx(shift * times / (1 - times))
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
    unshifted = np.linspace(1, 1000, 1000)[::-1] / 1000
    assert noise.shifted_time(unshifted, 3.0) == pytest.approx(theirs.sigmas.numpy()[:1000], abs=1e-6)


def test_a_quarter_of_the_pixels_is_the_shift_of_that_resolution():
    """Half the edge is a quarter of the pixels: the published shift is sqrt(pixels / base pixels)."""
    times = np.linspace(0.01, 0.99, 40)
    sigma = times / (1 - times) * noise.resolution_scale(14, 28)
    assert sigma / (1 + sigma) == pytest.approx(noise.shifted_time(times, np.sqrt(14**2 / 28**2)))


def drawn(base, index=0, count=40_000):
    cumulative = mx.array(np.cumsum(noise.probabilities(index, base)).astype(np.float32))
    weights = mx.array(noise.importance(index, base).astype(np.float32))
    return [np.array(a) for a in noise.draw_sigma(mx.random.key(0), count, cumulative, weights, mx.array(1.0), base)]


def test_flow_times_are_logit_normal():
    sigma, _ = drawn(noise.reference("flow", "linear"))
    logit = np.log(sigma)  # of t = sigma / (1 + sigma)
    assert np.median(logit) == pytest.approx(0, abs=0.06)  # the floor is not centred on 0
    share = np.mean(np.abs(logit) < 1)
    floor = 0.2 * 2 / (noise.LN_SIGMA_MAX - noise.LN_SIGMA_MIN)
    assert share == pytest.approx(0.8 * 0.683 + floor, abs=0.03)


@pytest.mark.parametrize("schedule", betas.BETAS)
def test_a_variance_preserving_training_draws_its_steps_equally_often(schedule):
    sigma, _ = drawn(noise.reference("vp_epsilon", schedule))
    table = mx.array(np.log(betas.sigmas(schedule)).astype(np.float32))
    steps = np.array(betas.timestep_of_sigma(mx.array(sigma), table))
    tenths = np.histogram(steps, bins=10, range=(0, 999))[0] / len(steps)
    assert tenths[1:9] == pytest.approx(np.full(8, 0.08), abs=0.035)  # a fifth of the draws is uniform in ln sigma


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("index", range(1, len(noise.DENSITIES)))
def test_every_density_of_every_process_estimates_its_reference(process, index):
    base = noise.reference(process, "linear")
    reference, _ = drawn(base)
    sigma, weights = drawn(base, index)
    assert (weights * np.log(sigma)).mean() == pytest.approx(np.log(reference).mean(), abs=0.03)
    assert not np.allclose(np.sort(sigma), np.sort(reference), rtol=0.05)


def test_unknown_rows_are_refused_with_the_known_ones():
    with pytest.raises(ConfigurationError, match=r"'ddpm'.*edm, vp_epsilon, vp_v, flow"):
        find_process("ddpm")
    with pytest.raises(ConfigurationError, match=r"'square'.*linear, scaled_linear, cosine"):
        find_process("vp_v", "square")


class Gaussian(nn.Module):
    """The exact network for pictures of independent N(MEAN, DATA^2) pixels, at the level that its timestep says."""

    MEAN = -0.3

    def __init__(self, row, schedule):
        super().__init__()
        self.row, self.ln_sigma = row, np.log(betas.sigmas(schedule))

    def __call__(self, x, c_noise, label):
        level = np.exp(np.interp(np.array(c_noise), np.arange(betas.STEPS), self.ln_sigma)).astype(np.float32)
        sigma = mx.array(level).reshape(-1, 1, 1, 1)
        noisy = x * mx.sqrt(1 + sigma**2)
        image = (DATA**2 * noisy + sigma**2 * self.MEAN) / (DATA**2 + sigma**2)
        n = (noisy - image) / sigma
        return n if self.row == "vp_epsilon" else (n - sigma * image) * mx.rsqrt(1 + sigma**2)


@pytest.mark.parametrize("schedule", betas.BETAS)
@pytest.mark.parametrize("process", ["vp_epsilon", "vp_v"])
def test_few_steps_of_a_variance_preserving_process_reach_the_data(tiny_config, process, schedule):
    config = replace(tiny_config, process=process, beta_schedule=schedule, student_ladder=())
    levels, solver = way(config, "teacher", 8)
    table = betas.sigmas(schedule)
    assert 0.999 * table[0] < levels[-2] < levels[0] < 1.001 * table[-1], "a network cannot be told of others"
    denoiser = Denoiser(Gaussian(process, schedule), DATA, find_process(process, schedule))
    found = solve(denoiser, np.zeros(64, int), (16, 16, 1), levels, solver, seed=1)
    assert found.std() == pytest.approx(DATA, rel=0.02)
    assert found.mean() == pytest.approx(Gaussian.MEAN, abs=0.03)


@pytest.mark.parametrize("process", ["vp_epsilon", "vp_v", "flow"])
def test_every_process_learns_and_is_measured_by_the_same_formula(make_trainer, take, process):
    trainer = make_trainer(process=process, weighting="uniform", steps=60, beta_schedule="scaled_linear")
    before = float(np.mean(trainer.evaluator.held_out_losses()))
    records = take(trainer, 40)
    assert np.mean([r.loss for r in records[-8:]]) < 0.9 * np.mean([r.loss for r in records[:8]])
    assert float(np.mean(trainer.evaluator.held_out_losses())) < before
