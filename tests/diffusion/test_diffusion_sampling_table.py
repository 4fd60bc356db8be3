"""Tables: any linear sampler as numbers, equal to the solver that they were traced from."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from autotuner.diffusion.blas import mx
from autotuner.diffusion.schedules import SCHEDULES
from autotuner.diffusion.schedules.candidates import SAMPLERS
from autotuner.diffusion.schedules.forms import Free, Grid
from autotuner.diffusion.solvers import dpmpp_3m
from autotuner.diffusion.solvers.generalised import Table, begun_at, follow, trace
from autotuner.errors import ConfigurationError

LOW, HIGH = 0.02, 40.0


def denoise(x, sigma):
    """Not linear in ``x``."""
    level = sigma.reshape(-1, 1, 1, 1).astype(x.dtype)
    return mx.tanh(x) / (1 + level) + 0.1 * x / (1 + level * level)


@pytest.fixture
def start():
    """float64, where rounding hides nothing."""
    values = np.random.default_rng(0).standard_normal((3, 4, 4, 1)) * HIGH
    with mx.stream(mx.cpu):
        yield mx.array(values.tolist(), dtype=mx.float64)


@pytest.mark.parametrize("steps", [1, 2, 4, 9])
@pytest.mark.parametrize("grid", ["karras", "uniform"])
@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_a_table_walks_exactly_as_the_solver_it_was_traced_from(name, grid, steps, start):
    sigmas = [float(s) for s in SCHEDULES[grid](steps, LOW, HIGH)]
    expected, found = SAMPLERS[name](denoise, start, sigmas), follow(denoise, start, trace(SAMPLERS[name], sigmas))
    assert float(mx.abs(found - expected).max()) < 1e-9


@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_3m", "ipndm"])
def test_with_corrections_at_zero_a_generalised_sampler_is_its_base(name, start):
    sigmas = [float(s) for s in SCHEDULES["log_snr"](6, LOW, HIGH)]
    expected = SAMPLERS[name](denoise, start, sigmas)
    free = Free(trace(SAMPLERS[name], sigmas), memory=3)
    moved = Grid(SAMPLERS[name], sigmas)
    for form in (free, moved):
        found = follow(denoise, start, form.table(np.zeros(form.size)))
        assert float(mx.abs(found - expected).max()) < 1e-6
    nudged = follow(denoise, start, free.table(np.full(free.size, 1e-2)))
    assert float(mx.abs(nudged - expected).max()) > 1e-3


def test_the_order_of_the_last_steps_is_traced_too(start):
    sigmas = [float(s) for s in SCHEDULES["karras"](8, LOW, HIGH)[:-1]]
    plain = partial(dpmpp_3m, lower_order_final=False)
    assert float(mx.abs(follow(denoise, start, trace(plain, sigmas)) - plain(denoise, start, sigmas)).max()) < 1e-9
    assert not np.allclose(trace(plain, sigmas).rows, trace(dpmpp_3m, sigmas).rows)


def test_moving_a_grid_moves_the_coefficients_with_it():
    sigmas = SCHEDULES["karras"](4, LOW, HIGH)
    moved = Grid(SAMPLERS["dpmpp_2m"], list(sigmas)).table(np.array([0.1, -0.2, 0.3]))
    again = trace(SAMPLERS["dpmpp_2m"], [sigmas[0], *(sigmas[1:-1] * np.exp([0.1, -0.2, 0.3])), 0.0])
    assert np.array_equal(moved.rows, again.rows)
    assert moved.levels == pytest.approx(again.levels)
    with pytest.raises(ConfigurationError, match="each below the one before"):
        Grid(SAMPLERS["dpmpp_2m"], list(sigmas)).table(np.array([0.0, 5.0, 0.0]))


def test_beginning_below_the_highest_level_scales_the_noise_down_and_frees_the_first_level(start):
    sigmas = [float(s) for s in SCHEDULES["karras"](4, LOW, HIGH / 2)]
    expected = SAMPLERS["ipndm"](denoise, start / 2, sigmas)
    lowered = begun_at(trace(SAMPLERS["ipndm"], sigmas), HIGH)
    assert float(mx.abs(follow(denoise, start, lowered) - expected).max()) < 1e-9
    form = Grid(SAMPLERS["ipndm"], sigmas, HIGH)
    assert form.size == 4
    assert form.table(np.zeros(4)).rows == pytest.approx(lowered.rows)
    assert form.table(np.array([0.1, 0, 0, 0])).rows[0, 0] == pytest.approx(np.exp(0.1) / 2)


def test_no_level_is_held_at_a_bound_where_it_begins():
    """The highest one was, at the start's own: its differences were 0, and it never moved."""
    free = Free(trace(SAMPLERS["ipndm"], list(SCHEDULES["karras"](4, LOW, HIGH))), memory=4)
    for index in range(4):
        for sign in (-1, 1):
            theta = np.zeros(free.size)
            theta[index] = sign * 0.1
            assert free.table(theta).levels[index] == pytest.approx(free.start.levels[index] * np.exp(sign * 0.1))


def test_heun_takes_two_evaluations_a_step_and_the_others_one():
    counts = {name: trace(solver, list(SCHEDULES["karras"](5, LOW, HIGH))).evaluations for name, solver in SAMPLERS.items()}
    assert counts.pop("heun") == 9
    assert set(counts.values()) == {5}


def test_outputs_that_are_known_are_not_asked_for_again():
    calls, outputs = [], []

    def counted(x, sigma):
        calls.append(float(sigma[0].item()))
        return denoise(x, sigma)

    table = trace(SAMPLERS["ipndm"], list(SCHEDULES["karras"](4, LOW, HIGH)))
    x = mx.ones((2, 4, 4, 1)) * HIGH
    whole = follow(counted, x, table, watch=lambda step: outputs.append(step.denoised))
    del calls[:]
    assert np.array_equal(np.array(follow(counted, x, table, outputs=outputs[:3])), np.array(whole))
    assert calls == pytest.approx([table.levels[3]])


def test_each_evaluation_is_shown_once():
    seen = []
    table = trace(SAMPLERS["unipc"], list(SCHEDULES["karras"](4, LOW, HIGH)))
    found = follow(denoise, mx.ones((2, 4, 4, 1)) * HIGH, table, watch=seen.append)
    assert [(step.number, step.steps) for step in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [step.sigma for step in seen] == pytest.approx(list(table.levels))
    assert seen[-1].following == 0
    assert np.array_equal(np.array(seen[-1].x), np.array(found))


@pytest.mark.parametrize(
    ("levels", "rows", "sentence"),
    [
        (np.ones(2), np.eye(2), "allowed are K levels above 0"),
        (np.zeros(1), np.eye(2), "allowed are K levels above 0"),
        (np.ones(1), np.full((2, 2), np.nan), "finite numbers"),
        (np.ones(1), np.ones((2, 2)), "only outputs of earlier rows"),
    ],
)
def test_numbers_that_are_no_sampler_are_refused(levels, rows, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        Table(HIGH, levels, rows)
