"""Stages of distillation in a real training: who learns from whom, when a stage ends, and what a resume brings back."""

from __future__ import annotations

import numpy as np
import pytest
from mlx.utils import tree_flatten

from autotuner.diffusion import checkpoint
from autotuner.diffusion.blas import mx
from autotuner.diffusion.distillation import students
from autotuner.diffusion.evaluation import Evaluated
from autotuner.diffusion.guidance import Guided
from autotuner.diffusion.looks import MEASURING_SHARE, Looks
from autotuner.diffusion.sample import solve, student_schedule
from autotuner.errors import ConfigurationError

NAN = float("nan")


def measured(trainer, gap):
    """One evaluation of the present stage, as if it had been measured now."""
    row = Evaluated(trainer.step, trainer.seconds, trainer.images, 0.1, 1.0, 4, "student", 0.0, trainer.stages.stage, gap)
    trainer.evaluations.append(row)


def students_of(make_trainer, **changes):
    settings = {"steps": 60, "student_ladder": (4, 2), "teacher_share": 0.1, "gate": {"window": 2}, "stage_rule": "gated"}
    return make_trainer(**{**settings, **changes})


def moves(trainer):
    return [(change.step, int(change.new), change.by) for change in trainer.knobs.changes if change.knob == "distill"]


def test_a_stage_ends_early_when_its_student_is_as_good_as_the_teacher(make_trainer, take):
    trainer = students_of(make_trainer)
    records = trainer.steps()
    while trainer.stages.stage == 0:
        next(records)
    for gap in (1.5, 1.05, 1.04):
        assert trainer.stages.stage == 1
        measured(trainer, gap)
        next(records)
    assert trainer.stages.stage == 2
    assert moves(trainer)[-1][1:] == (2, "gate")
    assert 1 in trainer.stages.kept


def test_a_student_that_passes_as_it_enters_is_asked_again_at_the_next_chance_and_let_through(make_trainer, clock):
    """Every second of measuring asks for patience; a gap that passes waives it, a gap that does not keeps it."""
    clock.tick = 1.0
    settings = {"steps": None, "seconds": 4000.0, "evaluate_every_seconds": 5.0, "evaluate_every_steps": None}
    trainer = students_of(make_trainer, **settings)
    took, gaps = [], iter([1.0, 1.0, 1.3, 1.3, 1.3])
    trainer.evaluator.measure = lambda step, seconds, images, with_quality: Evaluated(
        step, seconds, images, 0.1, 1.0, 4, "student", 0.0, trainer.stages.stage, next(gaps) if trainer.stages.stage else NAN
    )
    for progress in trainer.steps():
        if progress.stage and progress.evaluation is not None:
            took.append((progress.stage, trainer.seconds))
        if len(took) == 4:
            break
    entered = {int(c.new): c.seconds for c in trainer.knobs.changes if c.knob == "distill"}
    assert [stage for stage, _ in took] == [1, 1, 2, 2]
    assert took[0][1] - entered[1] < 20  # as soon as it began
    assert took[1][1] - took[0][1] < 20  # the interval and a step, no more
    assert took[2][1] - entered[2] < 20
    assert took[3][1] - took[2][1] >= trainer.evaluations[-2].took_seconds / MEASURING_SHARE  # back to its patience


def row(stage, gap, took=3.0):
    return Evaluated(10, 1.0, 100, 0.1, 1.0, 4, "student", took, stage, gap)


def test_a_look_that_may_end_a_stage_samples_whatever_the_rhythm_says(make_trainer):
    settings = {
        "steps": None,
        "seconds": 4000.0,
        "evaluate_every_seconds": 5.0,
        "evaluate_every_steps": None,
        "quality_every": 3,
    }
    looks = Looks(students_of(make_trainer, **settings).config)
    assert looks.with_quality(3, row(1, 1.3), gated=True)
    assert not looks.with_quality(4, row(1, 1.3), gated=True)
    assert looks.with_quality(4, row(1, 1.0), gated=True)
    assert not looks.with_quality(4, row(1, 1.0), gated=False)
    assert not looks.with_quality(4, row(2, 1.0), gated=True)  # the last stage has nothing to end in
    looks.enter()
    assert looks.with_quality(4, row(1, 1.3), gated=True)
    assert looks.taken(0.0)
    assert not looks.taken(9.0)


def test_looks_at_a_student_keep_to_their_share_of_its_time(make_trainer):
    settings = {"steps": None, "seconds": 4000.0, "evaluate_every_seconds": 5.0, "evaluate_every_steps": None}
    looks = Looks(students_of(make_trainer, **settings).config)
    assert looks.due(1, 0.0, None, gated=True)
    looks.taken(100.0)
    assert [looks.due(1, at, row(1, 1.3), gated=True) for at in (106.0, 119.0, 120.0)] == [False, False, True]  # 3 s / 0.15
    assert [looks.due(1, at, row(1, 1.0), gated=True) for at in (104.0, 105.0)] == [False, True]
    assert looks.due(1, 105.0, row(0, NAN), gated=True)  # a teacher has the interval alone
    looks.enter()
    assert looks.due(1, 100.1, row(1, 1.3), gated=True)


def test_a_resumed_student_is_not_taken_for_one_that_enters(make_trainer, tmp_path):
    trainer = students_of(make_trainer, student_ladder=(2,))
    records = trainer.steps()
    while trainer.stages.stage == 0:
        next(records)
    next(records)
    trainer.stages.best = None
    checkpoint.save(trainer, tmp_path / "half.safetensors")
    resumed = students_of(make_trainer, student_ladder=(2,))
    checkpoint.restore(resumed, tmp_path / "half.safetensors")
    assert resumed.evaluate(with_quality=True).gap == resumed.stages.best[0]


def test_no_stage_lasts_longer_than_its_equal_part(make_trainer):
    gated, equal = students_of(make_trainer), students_of(make_trainer, stage_rule="equal")
    for trainer in (gated, equal):
        list(trainer.steps())
    assert moves(gated) == moves(equal)  # nothing was measured, so nothing came early
    assert [stage for _, stage, _ in moves(gated)] == [1, 2]


def test_a_stage_out_of_reach_gives_back_the_student_before_it(make_trainer):
    trainer = students_of(make_trainer, gate={"window": 1, "patience": 2, "fall_back": 1.5})
    records = trainer.steps()
    while trainer.stages.stage == 0:
        next(records)
    measured(trainer, 1.0)
    next(records)
    assert trainer.stages.stage == 2
    kept = np.array(trainer.stages.kept[1])
    moments = trainer.stages.student.state.moments
    for gap in (2.5, 2.6):
        measured(trainer, gap)
    trainer._follow_plan()
    assert trainer.stages.stage == 1
    assert moves(trainer)[-1][1:] == (1, "gate")
    assert np.array_equal(np.array(trainer.stages.student.averaged), kept)
    assert trainer.stages.student.state.moments is moments  # the optimizer goes on


def test_a_stage_leaves_the_best_student_that_was_measured_in_it(make_trainer, tmp_path):
    trainer = students_of(make_trainer, out=tmp_path, student_ladder=(2,))
    records = trainer.steps()
    while trainer.stages.stage == 0:
        next(records)
    for gap in (1.4, 1.2):
        next(records)
        trainer.stages.saw(gap)
    best = np.array(trainer.stages.student.averaged)
    checkpoint.save(trainer, tmp_path / "half.safetensors")
    for _ in range(3):
        next(records)
        trainer.stages.saw(1.3)
    trainer.keep_student()
    assert np.array_equal(np.array(students.load(students.path_of(tmp_path, 2)).weights), best)
    resumed = students_of(make_trainer, student_ladder=(2,))
    checkpoint.restore(resumed, tmp_path / "half.safetensors")
    assert np.array_equal(np.array(resumed.stages.keep()), best)


def test_a_guided_run_hears_the_gate_but_is_moved_by_the_daemon_alone(make_trainer):
    from test_diffusion_trainer import Changes, Daemon

    daemon = Daemon({3: Changes(distill=(0, 1))}, guided=True)
    trainer = students_of(make_trainer, run=daemon)
    records = trainer.steps()
    for _ in range(5):
        next(records)
    for _ in range(3):
        measured(trainer, 1.0)
        next(records)
    assert trainer.verdict.move == 1
    assert trainer.stages.stage == 1


def test_the_gap_is_the_students_distance_over_its_teachers(make_trainer, take):
    trainer = students_of(make_trainer, quality_steps=4)
    list(trainer.steps())
    assert trainer.stages.student_steps == 2
    row = trainer.evaluate(with_quality=True)
    own, teacher = trainer.evaluator.quality("student", 2), trainer.evaluator.quality("teacher", 16)
    assert row.gap == pytest.approx(own / teacher, rel=1e-6)
    assert row.quality == pytest.approx(trainer.evaluator.quality("student", 4), rel=1e-6)


def test_the_paired_gap_is_the_students_error_over_its_teachers_in_twice_the_steps(make_trainer):
    trainer = students_of(make_trainer, gate={"measure": "paired"}, teacher_share=0.6, steps=200, student_ladder=(2,))
    list(trainer.steps())
    evaluator, labels = trainer.evaluator, trainer.dataset.labels[trainer.evaluator.chosen(32)]
    exact = evaluator.solutions("teacher", 24, labels, 29, "heun")

    def error(who, steps):
        grid = student_schedule(steps, trainer.config.sigma_min, trainer.config.sigma_max)
        return np.sqrt(np.mean((solve(evaluator.sampler(who), labels, (8, 8, 1), grid, "euler", 29) - exact) ** 2))

    row = trainer.evaluate(with_quality=False)
    assert row.gap == pytest.approx(error("student", 2) / error("teacher", 4), rel=1e-4)
    assert row.gap < error("teacher", 2) / error("teacher", 4)  # it has learned something


def test_pure_training_holds_no_second_network(make_trainer):
    trainer = students_of(make_trainer, objective="train")
    list(trainer.steps())
    assert trainer.stages.stage == 2
    assert trainer.stages.frozen is None


def test_the_objective_changes_between_two_steps_without_a_new_optimizer(make_trainer):
    trainer = students_of(make_trainer, objective="train")
    records = trainer.steps()
    while trainer.stages.stage == 0:
        next(records)
    for _ in range(3):
        next(records)
    learner, updates = trainer.stages.student, float(trainer.stages.student.state.moments.updates)
    before = np.array(learner.state.weights)
    trainer.stages.set_objective("distil")
    next(records)
    assert trainer.stages.student is learner
    assert float(learner.state.moments.updates) == updates + 1
    assert trainer.stages.frozen is not None
    assert not np.array_equal(np.array(learner.state.weights), before)


def test_a_teacher_that_learned_on_cannot_be_asked_for(make_trainer):
    trainer = students_of(make_trainer, objective="train")
    list(trainer.steps())
    trainer.stages.images["teacher"] += 1
    with pytest.raises(ConfigurationError, match="allowed is 'train'"):
        trainer.stages.set_objective("distil")
    with pytest.raises(ConfigurationError, match="allowed: distil, train, progressive"):
        trainer.stages.set_objective("magic")


def test_in_progressive_distillation_each_student_becomes_the_next_teacher(make_trainer):
    trainer = students_of(make_trainer, objective="progressive", stage_rule="equal")
    records = trainer.steps()
    while trainer.stages.stage < 1:
        next(records)
    first = trainer.stages.frozen
    while trainer.stages.stage < 2:
        last = trainer.stages.student.state.weights
        next(records)
    assert trainer.stages.frozen is not first
    found = np.concatenate([np.array(a).ravel() for _, a in tree_flatten(trainer.stages.frozen.trainable_parameters())])
    assert found == pytest.approx(np.array(last), abs=0)
    assert np.array_equal(np.array(trainer.stages.student.state.average), np.array(trainer.stages.student.state.weights))


@pytest.mark.parametrize("objective", ["distil", "train", "progressive"])
def test_a_resumed_distillation_goes_on_as_if_it_had_not_stopped(make_trainer, take, tmp_path, objective):
    path = tmp_path / checkpoint.FILE_NAME
    settings = {"objective": objective, "stage_rule": "equal", "steps": 40}
    through = take(students_of(make_trainer, **settings), 40)
    first = students_of(make_trainer, **settings)
    take(first, 30)
    assert first.stages.stage == 2
    checkpoint.save(first, path)
    second = students_of(make_trainer, **settings)
    checkpoint.restore(second, path)
    assert list(second.stages.kept) == [1]
    assert [row.loss for row in take(second, 10)] == [row.loss for row in through[30:]]


def test_a_narrower_student_learns_and_is_resumed(make_trainer, take, tmp_path):
    settings = {"student_model": {"width": 8}, "stage_rule": "equal", "steps": 30}
    through = take(students_of(make_trainer, **settings), 30)
    first = students_of(make_trainer, out=tmp_path, **settings)
    take(first, 20)
    assert first.stages.student.layout.size < first.stages.teacher.layout.size
    checkpoint.save(first, tmp_path / checkpoint.FILE_NAME)
    second = students_of(make_trainer, **settings)
    checkpoint.restore(second, tmp_path / checkpoint.FILE_NAME)
    assert [row.loss for row in take(second, 10)] == [row.loss for row in through[20:]]
    assert checkpoint.samples(tmp_path / checkpoint.FILE_NAME, "student", 2, 4, 0).shape == (4, 8, 8, 1)


def test_a_guided_answer_moves_away_from_the_one_without_a_label(make_trainer):
    trainer = make_trainer(steps=30, student_ladder=())
    list(trainer.steps())
    denoiser = trainer.stages.teacher.denoiser
    x, sigma = mx.random.normal((4, 8, 8, 1), key=mx.random.key(0)), mx.full((4,), 0.7)
    label, none = mx.array([0, 1, 0, 1]), mx.full((4,), 2)
    told, untold = denoiser(x, sigma, label), denoiser(x, sigma, none)
    guided = Guided(denoiser, 2, 3.0)(x, sigma, label)
    assert np.array(guided) == pytest.approx(np.array(untold + 3 * (told - untold)), abs=1e-5)
    assert np.array_equal(np.array(Guided(denoiser, 2, 1.0)(x, sigma, label)), np.array(told))


def test_falling_back_reaches_every_average(make_trainer):
    trainer = students_of(make_trainer, ema="power", student_ladder=(2,))
    list(trainer.steps())
    weights = trainer.stages.student.averaged * 0.5
    trainer.stages.restore_student(weights)
    assert np.array_equal(np.array(trainer.stages.student.averaged), np.array(weights))
