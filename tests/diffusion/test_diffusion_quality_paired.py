from __future__ import annotations

import numpy as np
import pytest

from autotuner.diffusion.blas import mx
from autotuner.diffusion.quality import paired
from autotuner.diffusion.quality.sets import ComparisonError
from autotuner.diffusion.sample import evaluations, solve, teacher_schedule, to_pixels


def of_order(order, calls=None, error=1.0):
    def solution(steps):
        if calls is not None:
            calls.append(steps)
        return np.full((2, 3, 3, 1), 0.25 + error / steps**order)

    return solution


def test_steps_double_until_the_solution_stands_still():
    calls = []
    found = paired.converge(of_order(2, calls), tolerance=1e-3)
    assert calls == [16, 32, 64]
    assert (found.steps, found.reached) == (64, True)
    assert found.change == pytest.approx(1 / 32**2 - 1 / 64**2)


def test_a_solution_that_does_not_stand_still_is_told_as_such():
    found = paired.converge(of_order(1, error=2.0))
    assert (found.steps, found.reached) == (128, False)
    assert found.change > paired.TOLERANCE


def test_a_solution_that_is_not_a_number_has_not_converged():
    found = paired.converge(lambda steps: np.full((1, 2, 2, 1), np.nan))
    assert not found.reached


def test_the_change_bounds_the_error_that_is_left_for_an_order_of_two():
    found = paired.converge(of_order(2))
    assert abs(found.images - 0.25).max() == pytest.approx(found.change / 3, rel=1e-6)


class Gaussian:
    """The exact denoiser of pixels that are Gaussian with deviation 0.2 about 0.1."""

    def __call__(self, x, sigma, label):
        level = sigma.reshape(-1, 1, 1, 1)
        return 0.1 + 0.04 / (0.04 + mx.square(level)) * (x - 0.1)


def test_the_converged_solution_is_the_exact_one_where_that_is_known():
    labels, shape, seed = np.zeros(3), (4, 4, 1), 5

    def solution(steps, solver=paired.SOLVER):
        return solve(Gaussian(), labels, shape, teacher_schedule(steps, 0.02, 40.0), solver, seed)

    found = paired.converge(solution)
    noise = 40 * np.random.default_rng(seed).standard_normal((3, *shape))
    exact = 0.1 + (noise - 0.1) * 0.2 / np.hypot(0.2, 40.0)
    assert found.reached
    assert paired.rms(found.images, exact) < paired.TOLERANCE
    assert paired.rms(solution(4, "euler"), exact) > 10 * paired.rms(solution(32, "euler"), exact) / 4


def test_a_paired_error_is_a_root_mean_square():
    assert paired.rms(np.array([0.5, -0.5]), np.array([0.2, -0.9])) == pytest.approx(np.sqrt((0.09 + 0.16) / 2))
    assert paired.feature_error(np.zeros((2, 2)), np.array([[1.0, 1.0], [3.0, 1.0]])) == pytest.approx(np.sqrt(3))


def test_paired_errors_of_unequal_counts_are_refused():
    with pytest.raises(ComparisonError, match="3 generated and 2 real"):
        paired.feature_error(np.zeros((3, 2)), np.zeros((2, 2)))


def test_evaluations_are_counted_not_assumed():
    levels = teacher_schedule(8, 0.02, 40.0)
    assert [evaluations(solver, levels) for solver in ("euler", "heun", "dpmpp_2m")] == [8, 15, 8]


def test_pixels_round_clip_and_show_what_is_not_a_number_as_black():
    assert to_pixels(np.array([-2.0, -1.0, 0.0, 1.0, 7.0, np.nan, np.inf], np.float32)).tolist() == [
        0,
        0,
        128,
        255,
        255,
        0,
        255,
    ]
