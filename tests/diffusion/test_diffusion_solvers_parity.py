"""Trajectories beside the schedulers of diffusers, both fed with one closed-form network: a mixture of Gaussians.

Theirs runs in float64 as far as the scheduler lets it, ours in float32. A variance-preserving scheduler sees alpha x.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from autotuner.diffusion.blas import mx
from autotuner.diffusion.solvers import ddim, dpmpp_2m, dpmpp_3m, euler, heun, ipndm, unipc

diffusers = pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")

# diffusers hands tensors to np.array in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LIMIT = 1e-5
GENERATOR = np.random.default_rng(3)
MEANS = GENERATOR.uniform(-1, 1, (3, 6))
WIDTHS = np.array([0.1, 0.3, 0.6])
SHARES = np.array([0.5, 0.3, 0.2])
NOISE = GENERATOR.standard_normal((5, 6))
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def mixture(x, sigma):
    """D(x, sigma) in float64."""
    variance = WIDTHS**2 + sigma**2
    distance = ((x[:, None] - MEANS) ** 2).sum(-1)
    logits = np.log(SHARES) - 3 * np.log(variance) - distance / (2 * variance)
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    parts = (WIDTHS[:, None] ** 2 * x[:, None] + sigma**2 * MEANS) / variance[:, None]
    return (share[..., None] * parts).sum(1)


def mixture_mlx(x, sigma):
    s = mx.square(sigma)[:, None]
    means, widths = mx.array(MEANS.astype(np.float32)), mx.array((WIDTHS**2).astype(np.float32))
    variance = widths + s
    distance = mx.sum(mx.square(x[:, None] - means), axis=-1)
    logits = mx.array(np.log(SHARES).astype(np.float32)) - 3 * mx.log(variance) - distance / (2 * variance)
    parts = (widths[:, None] * x[:, None] + s[..., None] * means) / variance[..., None]
    return mx.sum(mx.softmax(logits, axis=-1)[..., None] * parts, axis=1)


def start(sigmas):
    return NOISE * float(sigmas[0])


def ours(solver, sigmas):
    return np.array(solver(mixture_mlx, mx.array(start(sigmas).astype(np.float32)), [float(s) for s in sigmas]))


def variance_exploding(scheduler, steps):
    """Run an Euler-like scheduler, whose samples are ours; it is given the noise, epsilon."""
    scheduler.set_timesteps(steps)
    levels = scheduler.sigmas.double().numpy()
    x = torch.tensor(start(levels))
    for t in scheduler.timesteps:
        scheduler.scale_model_input(x, t)
        sigma = float(scheduler.sigmas[scheduler.step_index])
        denoised = mixture(x.double().numpy(), sigma)
        x = scheduler.step((x.double() - torch.tensor(denoised)) / sigma, t, x).prev_sample
    return x.numpy(), levels


def variance_preserving(scheduler, steps):
    """Run a multistep scheduler on alpha x; it is given the image."""
    scheduler.set_timesteps(steps)
    levels = scheduler.sigmas.double().numpy()
    x = torch.tensor(start(levels)) / np.sqrt(1 + levels[0] ** 2)
    for index, t in enumerate(scheduler.timesteps):
        alpha = 1 / np.sqrt(1 + levels[index] ** 2)
        x = scheduler.step(torch.tensor(mixture(x.numpy() / alpha, levels[index])), t, x).prev_sample
    return x.numpy() * np.sqrt(1 + levels[-1] ** 2), levels


def elucidated(scheduler, steps):
    """Run an EDM scheduler; it is given the network's output before its own preconditioning."""
    scheduler.set_timesteps(steps)
    levels = scheduler.sigmas.double().numpy()
    x = torch.tensor(start(levels))
    for index, t in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(x, t)
        sigma, data = levels[index], scheduler.config.sigma_data
        skip, out = data**2 / (sigma**2 + data**2), sigma * data / np.sqrt(sigma**2 + data**2)
        output = (mixture(x.double().numpy(), sigma) - skip * x.double().numpy()) / out
        x = scheduler.step(torch.tensor(output), t, x).prev_sample
    return x.numpy(), levels


def difference(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("steps", [7, 20])
@pytest.mark.parametrize("grid", [{}, {"use_karras_sigmas": True}])
@pytest.mark.parametrize(("name", "solver"), [("EulerDiscreteScheduler", euler), ("HeunDiscreteScheduler", heun)])
def test_euler_and_heun_walk_as_their_schedulers(name, solver, grid, steps):
    scheduler = getattr(diffusers, name)(**BETAS, **grid)
    expected, levels = variance_exploding(scheduler, steps)
    if solver is heun:  # theirs holds each level once for the slope at its start and once for the slope at its end
        levels = np.append(levels[:-1:2], 0.0)
    assert difference(ours(solver, levels), expected) < LIMIT


@pytest.mark.parametrize("steps", [7, 20])
@pytest.mark.parametrize("grid", [{}, {"use_karras_sigmas": True}])
@pytest.mark.parametrize(("order", "solver"), [(1, euler), (2, dpmpp_2m), (3, dpmpp_3m)])
def test_dpm_solvers_walk_as_their_scheduler(order, solver, grid, steps):
    """Theirs lowers the second last order below 15 steps only; ours does what it is told."""
    scheduler = diffusers.DPMSolverMultistepScheduler(**BETAS, **grid, solver_order=order, prediction_type="sample")
    expected, levels = variance_preserving(scheduler, steps)
    if solver is dpmpp_3m:
        solver = partial(dpmpp_3m, lower_order_final=steps < 15)
    assert difference(ours(solver, levels), expected) < LIMIT


@pytest.mark.parametrize(("order", "solver"), [(2, dpmpp_2m), (3, partial(dpmpp_3m, lower_order_final=False))])
def test_dpm_solvers_walk_as_their_scheduler_to_a_grid_s_end_above_zero(order, solver):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **BETAS, use_karras_sigmas=True, solver_order=order, prediction_type="sample",
        final_sigmas_type="sigma_min", lower_order_final=False,
    )  # fmt: skip
    scheduler.set_timesteps(10)
    scheduler.sigmas[-1] = scheduler.sigmas[-2] / 2  # theirs repeats the last level, a step of no length
    scheduler.set_timesteps = lambda steps: None
    expected, levels = variance_preserving(scheduler, 10)
    assert difference(ours(solver, levels), expected) < LIMIT


@pytest.mark.parametrize("steps", [7, 20])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_walks_as_its_scheduler(order, variant, steps):
    """For bh1, order 1 and the last step to 0 theirs computes infinity times zero, so its last level is a small one."""
    scheduler = diffusers.UniPCMultistepScheduler(
        **BETAS, use_karras_sigmas=True, solver_order=order, solver_type=variant, prediction_type="sample"
    )
    scheduler.set_timesteps(steps)
    if variant == "bh1":
        scheduler.sigmas[-1] = scheduler.sigmas[-2] / 2
    scheduler.set_timesteps = lambda steps: None
    expected, levels = variance_preserving(scheduler, steps)
    assert difference(ours(partial(unipc, order=order, variant=variant), levels), expected) < LIMIT


@pytest.mark.parametrize("steps", [7, 20])
@pytest.mark.parametrize(
    ("name", "options", "solver"),
    [
        ("EDMEulerScheduler", {}, euler),
        ("EDMDPMSolverMultistepScheduler", {"solver_order": 2}, dpmpp_2m),
        ("EDMDPMSolverMultistepScheduler", {"solver_order": 3}, dpmpp_3m),
    ],
)
def test_edm_schedulers_walk_alike(name, options, solver, steps):
    expected, levels = elucidated(getattr(diffusers, name)(**options), steps)
    if solver is dpmpp_3m:
        solver = partial(dpmpp_3m, lower_order_final=steps < 15)
    assert difference(ours(solver, levels), expected) < LIMIT


def ddim_scheduler(steps):
    scheduler = diffusers.DDIMScheduler(**BETAS, clip_sample=False, prediction_type="sample", timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    cumulative = scheduler.alphas_cumprod[scheduler.timesteps].double().numpy()
    return scheduler, np.append(np.sqrt((1 - cumulative) / cumulative), 0.0)


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_ddim_walks_as_its_scheduler_with_the_same_fresh_noise(eta):
    """The levels are multiples of 1000 / 10, as theirs walks; the last of its steps ends at alpha 1."""
    scheduler, levels = ddim_scheduler(10)
    key = mx.random.key(4)
    x = torch.tensor(start(levels)) / np.sqrt(1 + levels[0] ** 2)
    for index, t in enumerate(scheduler.timesteps):
        denoised = torch.tensor(mixture(x.numpy() * np.sqrt(1 + levels[index] ** 2), levels[index]))
        fresh = torch.tensor(np.array(mx.random.normal(x.shape, key=mx.random.split(key, 10)[index]))).double()
        x = scheduler.step(denoised, t, x, eta=eta, variance_noise=fresh if eta else None).prev_sample
    assert difference(ours(partial(ddim, eta=eta, key=key), levels), x.numpy()) < LIMIT


def test_ipndm_of_order_four_walks_as_its_scheduler():
    """Theirs is given the slope as v; its own betas start at infinite noise, so both get a grid of ours."""
    levels = np.append(np.geomspace(40, 0.05, 12), 0.0)
    betas = levels / np.sqrt(1 + levels**2)
    scheduler = diffusers.IPNDMScheduler(trained_betas=list(betas))
    scheduler.set_timesteps(12)
    levels = (scheduler.betas.double() / scheduler.alphas.double()).numpy()  # as float32 holds them
    x = torch.tensor(start(levels)) / np.sqrt(1 + levels[0] ** 2)
    for index, t in enumerate(scheduler.timesteps):
        alpha = 1 / np.sqrt(1 + levels[index] ** 2)
        sample = x.double().numpy()
        denoised = mixture(sample / alpha, levels[index])
        slope = (sample / alpha - denoised) / levels[index]
        v = (slope - sample * float(scheduler.betas[index])) / float(scheduler.alphas[index])
        x = scheduler.step(torch.tensor(v), t, x).prev_sample
    assert difference(ours(partial(ipndm, order=4), levels), x.numpy()) < LIMIT
