"""Distillation against closed forms: the published target, the general form and its settings, one gate for all."""

from __future__ import annotations

import numpy as np
import pytest

from autotuner.diffusion.blas import mx
from autotuner.diffusion.config import TrainerConfig
from autotuner.diffusion.course import Course
from autotuner.diffusion.distillation import objectives
from autotuner.diffusion.distillation.gate import Gate, judge
from autotuner.diffusion.distillation.segments import (
    CLOCKS,
    addim,
    ddim,
    ends,
    inverse_ddim,
    rho,
    teacher_steps,
    times,
)
from autotuner.diffusion.sample import student_schedule
from autotuner.errors import ConfigurationError

LOW, HIGH, C = 0.02, 20.0, 0.5
LABELS = mx.zeros((8,), mx.int32)
ONES, ZEROS = mx.ones((8,)), mx.zeros((8,))


def images(seed, count=8):
    return mx.array(np.random.default_rng(seed).standard_normal((count, 4, 4, 1)).astype(np.float32))


def drawn(student_steps, teacher_steps, count=8, clock="cosine", inside=None):
    u = mx.array(np.linspace(0, 0.999, count).astype(np.float32))
    if inside is None:
        inside = np.random.default_rng(9).uniform(0, 1, count)
    inside = mx.array(np.broadcast_to(inside, (count,)).astype(np.float32))
    return times(u, inside, mx.array(float(student_steps)), mx.array(float(teacher_steps)), LOW, HIGH, CLOCKS[clock])


class Gaussian:
    """The exact denoiser of independent Gaussian pixels with deviation C."""

    sigma_data = C

    def __call__(self, x, sigma, labels=None):
        level = sigma.reshape(-1, 1, 1, 1)
        return C**2 / (C**2 + mx.square(level)) * x


class Constant:
    sigma_data = 0.5

    def __init__(self, value):
        self.value = value

    def __call__(self, z, sigma, labels):
        return mx.full(z.shape, self.value)


class Never:
    """A network that must not be asked."""

    def __call__(self, *_):
        raise AssertionError("this network was asked")


def published_target(z, index, steps):
    """The target as Salimans and Ho 2022 write it, with alpha = cos(pi u / 2), for Gaussian data."""
    z = np.array(z, np.float64)
    top = np.arctan(HIGH)
    u = np.array([(index + 1) / steps, (index + 0.5) / steps, index / steps]) * top
    alpha, sigma = np.cos(u), np.sin(u)

    def teacher(at, k):
        x = alpha[k] * C**2 / (alpha[k] ** 2 * C**2 + sigma[k] ** 2) * at
        return x, (at - alpha[k] * x) / sigma[k]

    x1, e1 = teacher(z, 0)
    middle = alpha[1] * x1 + sigma[1] * e1
    x2, e2 = teacher(middle, 1)
    end = alpha[2] * x2 + sigma[2] * e2
    ratio = sigma[2] / sigma[0]
    return x2 if index == 0 else (end - ratio * z) / (alpha[2] - ratio * alpha[0])


@pytest.mark.parametrize("steps", [1, 2, 4, 16])
def test_the_progressive_target_is_the_published_one_for_gaussian_data(steps):
    for index in range(steps):
        u = (index + 0.5) / steps
        at = times(mx.full((8,), u), mx.full((8,), 0.999), mx.array(float(steps)), mx.array(2.0), LOW, HIGH)
        z = images(index)  # variance preserving: divided by alpha it is ours
        alpha = np.cos((index + 1) / steps * np.arctan(HIGH))
        ours = objectives.target(Gaussian()(z / alpha, at.sigma_t), Gaussian(), z / alpha, at)
        assert np.array(ours) == pytest.approx(published_target(z, index, steps), abs=1e-5)


def test_the_progressive_errors_are_the_published_ones():
    at, noise, clean = drawn(4, 2, inside=0.999), images(1), images(2)
    level = at.sigma_t.reshape(-1, 1, 1, 1)
    student = Constant(0.1)
    found = objectives.segment_errors(
        student, Gaussian(), "progressive", clean, LABELS, noise, at, ONES, ZEROS, weighting="snr_plus_one"
    )
    z = clean + level * noise
    aim = objectives.target(Gaussian()(z, at.sigma_t), Gaussian(), z, at)
    alpha, sigma = 1 / mx.sqrt(1 + mx.square(level)), level / mx.sqrt(1 + mx.square(level))

    def v(x):
        return alpha * (z - x) / level - sigma * x  # v = alpha n - sigma x

    expected = mx.mean(mx.square(v(aim) - v(mx.full(z.shape, 0.1))), axis=(1, 2, 3))
    assert np.array(found) == pytest.approx(np.array(expected), rel=1e-4)


def test_truncated_weights_are_the_larger_of_both_errors():
    sigma = mx.array([0.1, 0.9, 1.1, 8.0])
    x_error, noise_error = 1.0, 1 / mx.square(sigma)
    assert np.array(objectives.truncated_snr(sigma, C)) == pytest.approx(np.maximum(x_error, np.array(noise_error)))


def test_a_step_and_its_inverse_cancel():
    at = drawn(4, 8)
    z, denoised = images(0), images(1)
    reached = ddim(denoised, z, at.sigma_t, at.sigma_step)
    assert np.array(inverse_ddim(reached, z, at.sigma_t, at.sigma_step)) == pytest.approx(np.array(denoised), abs=1e-3)


@pytest.mark.parametrize("clock", CLOCKS)
def test_times_lie_in_one_segment_and_end_on_the_grid_that_sampling_walks(clock):
    for student_steps, steps in ((4, 1), (4, 8), (2, 16), (8, 3)):
        at = drawn(student_steps, steps, count=64, clock=clock)
        t, s, end = (np.array(a) for a in (at.sigma_t, at.sigma_s, at.sigma_step))
        assert np.all(t > s)
        assert np.all(s >= end * (1 - 1e-5))
        grid = student_schedule(student_steps, LOW, HIGH, clock)
        assert all(np.isclose(grid, value, rtol=1e-4, atol=1e-6).any() for value in end)


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_clock_rises_from_no_noise_to_the_most(clock):
    levels = np.array(CLOCKS[clock](mx.array(np.linspace(0, 1, 33)), LOW, HIGH))
    assert levels[0] == 0
    assert levels[-1] == pytest.approx(HIGH, rel=1e-4)
    assert np.all(np.diff(levels) > 0)


def test_one_teacher_step_a_segment_is_diffusion_training():
    at, noise, clean, student = drawn(8, 1), images(0), images(1), Gaussian()
    found = objectives.segment_errors(student, None, "train", clean, LABELS, noise, at, ONES, ZEROS)
    z = clean + at.sigma_t.reshape(-1, 1, 1, 1) * noise
    plain = objectives.edm(at.sigma_t, C) * mx.mean(mx.square(student(z, at.sigma_t) - clean), axis=(1, 2, 3))
    assert np.array(found) == pytest.approx(np.array(plain), rel=1e-3)


def test_training_is_distilling_with_no_share_of_the_teacher():
    at, noise, clean = drawn(2, 4), images(0), images(1)
    train = objectives.segment_errors(Gaussian(), Never(), "train", clean, LABELS, noise, at, ONES, ZEROS)
    distil = objectives.segment_errors(Gaussian(), Constant(7.0), "distil", clean, LABELS, noise, at, ZEROS, ONES)
    assert np.array(distil) == pytest.approx(np.array(train), rel=1e-5)


def test_distilling_two_steps_into_one_from_a_teacher_that_the_student_equals_is_progressive_distillation():
    at, noise, clean = drawn(4, 2, inside=0.999), images(0), images(1)
    found = {
        name: objectives.segment_errors(Gaussian(), Gaussian(), name, clean, LABELS, noise, at, ONES, ZEROS)
        for name in ("distil", "progressive")
    }
    assert np.array(found["distil"]) == pytest.approx(np.array(found["progressive"]), rel=1e-5)
    assert float(found["distil"].min()) > 0


def test_a_pure_student_never_asks_a_teacher():
    with pytest.raises(AssertionError, match="was asked"):
        objectives.segment_errors(Gaussian(), Never(), "distil", images(0), LABELS, images(1), drawn(2, 4), ONES, ZEROS)


def test_data_of_one_image_is_its_own_target_at_any_setting():
    only = mx.ones((8, 4, 4, 1)) * 0.3
    for settings in ((1, 4), (4, 8), (8, 2)):
        found = objectives.target(only, lambda *_: only, images(0) * 3, drawn(*settings))
        assert np.array(found) == pytest.approx(np.array(only), abs=1e-3)


def gap_to_the_exact_flow(steps):
    """For Gaussian data the path is known: the exact student must be the target's fixed point as teacher steps shrink."""
    at, z = drawn(4, steps), images(0) * 3

    def exact(x, sigma):
        end = at.sigma_step.reshape(-1, 1, 1, 1)
        here = sigma.reshape(-1, 1, 1, 1)
        reached = x * mx.sqrt((C**2 + end**2) / (C**2 + here**2))
        return mx.where(here > end, inverse_ddim(reached, x, mx.maximum(sigma, at.sigma_step + 1e-6), at.sigma_step), x)

    found = objectives.target(Gaussian()(z, at.sigma_t), exact, z, at)
    return float(mx.abs(found - exact(z, at.sigma_t)).mean())


def test_the_exact_student_is_the_fixed_point_of_fine_teacher_steps():
    coarse, fine = gap_to_the_exact_flow(8), gap_to_the_exact_flow(128)
    assert fine < 0.02
    assert fine < coarse / 8  # the gap of a single Euler step falls with its square


def test_adjusted_ddim_of_an_averaged_answer_has_the_variance_of_exact_noise():
    clean, noise = images(3, 4096) * C, images(4, 4096)
    start, end = mx.full((4096,), 2.0), mx.full((4096,), 0.5)
    z = clean + 2.0 * noise
    answer = Gaussian()(z, start)
    variance = mx.full((4096,), float(C**2 * 2.0**2 / (C**2 + 2.0**2)))  # of the posterior, known here
    exact = C**2 + 0.5**2

    def spread(step):
        return float(mx.mean(mx.square(step)))

    plain, adjusted = ddim(answer, z, start, end), addim(answer, z, start, end, variance)
    assert spread(plain) < 0.75 * exact
    assert spread(adjusted) == pytest.approx(exact, rel=0.1)
    assert np.array(addim(answer, z, start, end, 0 * variance)) == pytest.approx(np.array(plain), abs=1e-5)


def test_adjusted_ddim_ends_on_the_answer_where_no_noise_is_left():
    z, answer = images(0), images(1)
    assert np.array(addim(answer, z, ONES, ZEROS, ONES)) == pytest.approx(np.array(answer), abs=1e-6)


def test_a_pseudo_huber_distance_counts_large_errors_once():
    small, large = mx.array([1e-8]), mx.array([1.0])
    assert float(objectives.pseudo_huber(small)[0]) < 1e-4
    assert float(objectives.pseudo_huber(100 * large)[0]) == pytest.approx(10, rel=1e-2)


def test_settings_are_arrays_so_a_change_needs_no_new_trace():
    traces = []

    def errors(step, inside, student_steps, steps, share):
        traces.append(1)
        at = times(step, inside, student_steps, steps, LOW, HIGH)
        return objectives.segment_errors(Gaussian(), Constant(0.2), "distil", images(0), LABELS, images(1), at, share, ZEROS)

    from autotuner.diffusion.blas import COMPILED

    compiled = mx.compile(errors)
    u = mx.array(np.linspace(0, 0.999, 8).astype(np.float32))
    settings = ((8, 2, 1.0), (4, 16, 1.0), (1, 64, 0.0))
    found = [compiled(u, u, mx.array(float(s)), mx.array(float(n)), mx.full((8,), share)) for s, n, share in settings]
    mx.eval(found)
    assert len(traces) == (1 if COMPILED else len(settings))
    assert not np.allclose(np.array(found[0]), np.array(found[1]))
    assert not np.allclose(np.array(found[1]), np.array(found[2]))


def test_the_teachers_steps_grow_and_are_spread_over_the_students():
    assert [teacher_steps(progress, 1) for progress in (-1.0, 0.0, 0.5, 1.0, 3.0)] == [16, 16, 32, 64, 64]
    assert [teacher_steps(1.0, steps) for steps in (1, 2, 4, 64, 128)] == [64, 32, 16, 1, 1]


def test_a_student_comes_nearer_to_its_teachers_long_path_than_the_teacher_in_as_few_steps(make_trainer):
    trainer = make_trainer(model={"width": 24, "depth": 2, "mlp_ratio": 2}, steps=500, student_ladder=(2,), solver="euler")
    list(trainer.steps())
    assert trainer.stages.stage == 1
    long = trainer.evaluator.samples("teacher", 64, 64, 0).astype(float)

    def error(who):
        return np.sqrt(np.mean((trainer.evaluator.samples(who, 2, 64, 0) - long) ** 2))

    assert error("student") < 0.8 * error("teacher")


def test_the_student_schedule_starts_at_most_noise_and_ends_clean():
    grid = ends(4, LOW, HIGH, rho)
    assert grid[0] == pytest.approx(HIGH, rel=1e-4)
    assert grid[-1] == 0
    assert student_schedule(2, LOW, HIGH)[1] == pytest.approx(np.tan(np.arctan(HIGH) / 2), rel=1e-4)


def test_the_gate_advances_only_after_a_whole_window_within_its_bound():
    gate = Gate(advance=1.1, window=2)
    assert judge(gate, []).move == 0
    assert judge(gate, [1.05]).move == 0
    assert judge(gate, [1.3, 1.05]).move == 0
    found = judge(gate, [1.3, 1.05, 1.08])
    assert found.move == 1
    assert "1.08" in found.why


def test_the_gate_falls_back_only_from_a_stage_that_is_far_off_and_learns_no_more():
    gate = Gate(fall_back=1.5, patience=3)
    assert judge(gate, [2.5, 2.2, 2.0]).move == 0  # far off, but learning
    assert judge(gate, [2.0, 2.0, 1.4]).move == 0
    assert judge(gate, [2.0, 2.0]).move == 0
    assert judge(gate, [2.5, 2.01, 2.0, 2.0]).move == -1


@pytest.mark.parametrize("wrong", [{"advance": 0.0}, {"advance": 1.7}, {"window": 0}, {"patience": 1}])
def test_bounds_that_contradict_each_other_are_refused(wrong):
    with pytest.raises(ConfigurationError, match="allowed are"):
        Gate(**wrong)


def test_an_unknown_measure_is_refused_with_the_known_ones():
    with pytest.raises(ConfigurationError, match="allowed: frechet, paired"):
        Gate(measure="fid")


def test_teacher_steps_wait_for_a_student_that_has_had_few_updates():
    course = Course(TrainerConfig(student_ladder=(1,), teacher_gap=(16, 64)))
    assert [course.teacher_steps(1, 1.0, updates) for updates in (0, 80, 160, 10_000)] == [16, 32, 64, 64]
    assert course.teacher_steps(1, 0.5, 10_000) == 32  # the budget's share bounds it too
    assert Course(TrainerConfig(student_ladder=(1,), teacher_gap=(16, 16))).teacher_steps(1, 1.0, 5) == 16
    assert course.teacher_steps(0, 1.0, 10_000) == 1
