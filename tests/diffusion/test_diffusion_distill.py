from __future__ import annotations

import numpy as np
import pytest

from autotuner.diffusion import distill
from autotuner.diffusion.blas import mx
from autotuner.diffusion.noise import sigma_of_time
from autotuner.diffusion.sample import student_schedule

LOW, HIGH, C = 0.02, 20.0, 0.5
LABELS = mx.zeros((8,), mx.int32)


def images(seed, count=8):
    return mx.array(np.random.default_rng(seed).standard_normal((count, 4, 4, 1)).astype(np.float32))


def drawn(student_steps, teacher_steps, count=8):
    u = mx.array(np.linspace(0, 0.999, count).astype(np.float32))
    inside = mx.array(np.random.default_rng(9).uniform(0, 1, count).astype(np.float32))
    return distill.times(u, inside, mx.array(float(student_steps)), mx.array(float(teacher_steps)), LOW, HIGH)


def test_a_step_and_its_inverse_cancel():
    at = drawn(4, 8)
    z, denoised = images(0), images(1)
    reached = distill.ddim(denoised, z, at.sigma_t, at.sigma_step)
    found = distill.inverse_ddim(reached, z, at.sigma_t, at.sigma_step)
    assert np.array(found) == pytest.approx(np.array(denoised), abs=1e-3)


def test_times_lie_in_one_segment_and_end_on_the_grid_that_sampling_walks():
    for student_steps, teacher_steps in ((4, 1), (4, 8), (2, 16), (8, 3)):
        at = drawn(student_steps, teacher_steps, count=64)
        t, s, end = (np.array(a) for a in (at.sigma_t, at.sigma_s, at.sigma_step))
        assert np.all(t > s)
        assert np.all(s >= end * (1 - 1e-5))
        grid = student_schedule(student_steps, LOW, HIGH)
        assert all(np.isclose(grid, value, rtol=1e-4, atol=1e-6).any() for value in end)


def test_one_teacher_step_per_segment_is_the_diffusion_target():
    at, z, clean = drawn(8, 1), images(0), images(1)
    found = distill.target(lambda *_: images(2), clean, z, at, LABELS)
    assert np.array(found) == pytest.approx(np.array(clean), abs=1e-3)


def test_data_of_one_image_is_its_own_target_at_any_setting():
    only = mx.ones((8, 4, 4, 1)) * 0.3
    for settings in ((1, 4), (4, 8), (8, 2)):
        found = distill.target(lambda *_: only, only, images(0) * 3, drawn(*settings), LABELS)
        assert np.array(found) == pytest.approx(np.array(only), abs=1e-3)


def gap_to_the_exact_flow(teacher_steps):
    """For Gaussian data the path is known: the exact student must be the target's fixed point as teacher steps shrink."""
    at, z = drawn(4, teacher_steps), images(0) * 3

    def exact(x, sigma, labels):
        end = at.sigma_step.reshape(-1, 1, 1, 1)
        here = sigma.reshape(-1, 1, 1, 1)
        reached = x * mx.sqrt((C**2 + end**2) / (C**2 + here**2))
        return mx.where(here > end, distill.inverse_ddim(reached, x, mx.maximum(sigma, at.sigma_step + 1e-6), at.sigma_step), x)

    level = at.sigma_t.reshape(-1, 1, 1, 1)
    teacher = C**2 / (C**2 + level**2) * z
    return float(mx.abs(distill.target(exact, teacher, z, at, LABELS) - exact(z, at.sigma_t, LABELS)).mean())


def test_the_exact_student_is_the_fixed_point_of_fine_teacher_steps():
    coarse, fine = gap_to_the_exact_flow(8), gap_to_the_exact_flow(128)
    assert fine < 0.02
    assert fine < coarse / 8  # the gap of a single Euler step falls with its square


def test_settings_are_arrays_so_a_change_needs_no_new_trace():
    first, second = drawn(4, 2), drawn(2, 16)
    assert [a.shape for a in (first.sigma_t, first.sigma_s)] == [a.shape for a in (second.sigma_t, second.sigma_s)]
    assert not np.allclose(np.array(first.sigma_t), np.array(second.sigma_t))


def test_teacher_steps_are_annealed():
    found = [distill.teacher_steps(progress) for progress in (0.0, 0.5, 1.0, 3.0)]
    assert found == [2, 6, 16, 16]
    assert distill.teacher_steps(-1.0) == 2


def test_the_switch_between_teacher_and_images_changes_the_loss():
    class Constant:
        sigma_data = 0.5

        def __init__(self, value):
            self.value = value

        def __call__(self, z, sigma, labels):
            return mx.full(z.shape, self.value)

    at = drawn(4, 1)
    pixels = mx.zeros((8, 4, 4, 1))
    losses = [
        distill.consistency_errors(Constant(0.0), Constant(1.0), pixels, LABELS, images(0), at, mx.full((8,), share))
        for share in (0.0, 1.0)
    ]
    assert float(losses[0].max()) < 1e-6
    assert float(losses[1].min()) > 0.5


def test_a_student_comes_nearer_to_its_teachers_long_path_than_the_teacher_in_as_few_steps(make_trainer):
    trainer = make_trainer(model={"width": 24, "depth": 2, "mlp_ratio": 2}, steps=500, student_ladder=(2,), solver="euler")
    list(trainer.steps())
    assert trainer.stages.stage == 1
    long = trainer.evaluator.samples("teacher", 64, 64, 0).astype(float)

    def error(who):
        return np.sqrt(np.mean((trainer.evaluator.samples(who, 2, 64, 0) - long) ** 2))

    assert error("student") < 0.8 * error("teacher")


def test_the_student_schedule_starts_at_most_noise_and_ends_clean():
    grid = student_schedule(4, LOW, HIGH)
    assert grid[0] == pytest.approx(HIGH, rel=1e-4)
    assert grid[-1] == 0
    assert np.array(sigma_of_time(mx.array([0.75]), LOW, HIGH)) == pytest.approx(grid[1], rel=1e-4)
