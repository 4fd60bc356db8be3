from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from autotuner.diffusion import noise, plan
from autotuner.diffusion.blas import mx
from autotuner.diffusion.config import TrainerConfig
from autotuner.diffusion.course import Course
from autotuner.diffusion.data import Dataset
from autotuner.diffusion.inert import NoRun
from autotuner.diffusion.injection import Injection
from autotuner.diffusion.pace import NAP_SECONDS
from autotuner.diffusion.trainer import Trainer
from autotuner.errors import ConfigurationError, DeclarationError
from autotuner.messages import FLAG_FIRST_OF_SHAPE, FLAG_NOT_FINITE
from autotuner.telemetry.scripted import InjectedState


class Changes:
    def __init__(self, **changed):
        self.changed = changed


class Daemon(NoRun):
    """A hook whose polls are scripted by step, and that remembers what it was told."""

    def __init__(self, polls=None, guided=False):
        self.polls = dict(polls or {})
        self.guided = guided
        self.step = 0
        self.acknowledged, self.sets, self.reports, self.evaluations = [], [], [], []

    def poll(self):
        return self.polls.pop(self.step, None)

    def acknowledge(self, step):
        self.acknowledged.append(step)

    def set(self, name, value):
        self.sets.append((name, value))

    def report(self, step, loss, **fields):
        self.step = step
        self.reports.append((step, loss, fields))

    def evaluation(self, step, held_out_loss, **fields):
        self.evaluations.append((step, held_out_loss, fields))


def test_the_loss_falls_within_thirty_steps(make_trainer, take):
    records = take(make_trainer(), 30)
    losses = [record.loss for record in records]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_a_training_of_the_unet_learns_too(make_trainer, take):
    records = take(make_trainer(network="unet", model={"width": 8, "depth": 2}, fixed={}, resolutions=(4, 8)), 30)
    assert np.mean([r.loss for r in records[-5:]]) < 0.8 * np.mean([r.loss for r in records[:5]])


def test_the_same_seed_repeats_exactly_and_another_does_not(make_trainer, take):
    first, second = take(make_trainer(), 5), take(make_trainer(), 5)
    assert [r.loss for r in first] == [r.loss for r in second]
    assert [r.loss for r in first] != [r.loss for r in take(make_trainer(seed=1), 5)]


def test_resolution_and_micro_batch_change_between_two_steps_and_no_step_is_lost(make_trainer, take):
    daemon = Daemon({2: Changes(resolution=(8, 4)), 4: Changes(micro_batch=(16, 4), resolution=(4, 6))})
    trainer = make_trainer(daemon)
    records = take(trainer, 6)
    assert [r.step for r in records] == [1, 2, 3, 4, 5, 6]
    assert [r.images for r in records] == [16, 32, 48, 64, 80, 96]
    assert [(r.resolution, r.micro_batch) for r in records] == [(8, 16)] * 2 + [(4, 16)] * 2 + [(6, 4)] * 2
    assert daemon.acknowledged == [3, 5]
    seen = {(signature[1][1], signature[1][0]) for signature in trainer.stages.teacher.signatures}
    assert seen == {(8, 16), (4, 16), (6, 4)}  # the shapes that the network itself was given


def test_the_first_step_of_a_shape_is_marked(make_trainer, take):
    daemon = Daemon({1: Changes(resolution=(8, 4)), 2: Changes(resolution=(4, 8))})
    marked = [bool(r.flags & FLAG_FIRST_OF_SHAPE) for r in take(make_trainer(daemon), 3)]
    assert marked == [True, True, False]


def test_micro_batch_does_not_change_what_is_learned(make_trainer, take):
    whole, parts = take(make_trainer(), 4), take(make_trainer(micro_batch=4), 4)
    assert [r.loss for r in parts] == pytest.approx([r.loss for r in whole], rel=1e-3)


def test_the_learning_rate_knob_multiplies_the_schedule_and_ramps(make_trainer, take):
    plain, scaled = make_trainer(), make_trainer()
    scaled.set_knob("lr_scale", 2.0)
    before, after = take(plain, 60), take(scaled, 60)
    ratios = [b.learning_rate / a.learning_rate for a, b in zip(before, after, strict=True)]
    assert ratios[0] < 1.05
    assert ratios[-1] == pytest.approx(2)
    assert all(b >= a for a, b in itertools.pairwise(ratios))


def test_the_learning_rate_reaches_the_update_itself(make_trainer):
    trainer = make_trainer()
    next(trainer.steps())
    before = np.array(trainer.stages.teacher.state.weights)
    trainer.course = Course(replace(trainer.config, learning_rate=0.0))
    next(trainer.steps())
    assert np.array_equal(before, np.array(trainer.stages.teacher.state.weights))


def test_the_density_knob_changes_the_noise_that_is_drawn(make_trainer):
    trainer = make_trainer(batch=64, micro_batch=16)
    images, labels = trainer.dataset.images[:64], trainer.dataset.labels[:64]
    low = [row.name for row in noise.DENSITIES].index("low_noise")
    before = np.array(trainer.stages.draw(images, labels, 0, 2)[4])
    trainer.set_knob("timestep_density", low)
    weights, _, _, _, after = trainer.stages.draw(images, labels, 0, 2)
    assert np.median(np.array(after)) < np.median(before)
    assert np.std(np.array(weights)) > 0


def test_pace_sleeps_in_short_pieces_for_the_rest_of_the_duty_cycle(make_trainer, clock):
    trainer = make_trainer()
    trainer.set_knob("pace", 0.5)
    clock.tick = 0.3  # every look at the clock takes 0.3 s: a step "computes" for a while
    record = next(trainer.steps())
    slept = sum(clock.naps)
    computed = record.step_seconds - slept
    assert max(clock.naps) <= NAP_SECONDS
    assert slept == pytest.approx(computed, abs=0.31 * 2)  # two looks at the clock lie outside the measured part


def test_full_pace_does_not_sleep(make_trainer, take, clock):
    take(make_trainer(), 3)
    assert clock.naps == []


def test_the_cache_limit_is_in_force(make_trainer):
    trainer = make_trainer()
    trainer.set_knob("cache_limit", 2**26)
    assert mx.set_cache_limit(2**30) == 2**26  # MLX answers with the limit that it had


def test_a_switch_of_shapes_gives_cached_memory_back(make_trainer, take):
    trainer = make_trainer()
    take(trainer, 3)
    assert mx.get_cache_memory() > 0
    trainer.set_knob("micro_batch", 4)
    assert mx.get_cache_memory() == 0


def test_sampling_steps_are_those_of_the_preview(make_trainer, monkeypatch, tmp_path):
    asked = []
    trainer = make_trainer(out=tmp_path)
    monkeypatch.setattr(
        trainer.evaluator, "samples", lambda who, steps, *rest: asked.append(steps) or np.zeros((16, 8, 8, 1), np.uint8)
    )
    for steps in (4, 16):
        trainer.set_knob("sampling_steps", steps)
        trainer.evaluate(with_quality=False)
    assert asked == [4, 16]
    assert len(list(tmp_path.glob("preview-*.png"))) == 1  # both after step 0


def test_a_value_off_the_ladder_is_refused_and_named(make_trainer):
    with pytest.raises(DeclarationError, match=r"resolution.*5.*\[4, 6, 8\]"):
        make_trainer().set_knob("resolution", 5)


def test_only_a_change_by_the_script_is_told_as_its_own(make_trainer, take):
    daemon = Daemon({1: Changes(pace=(1.0, 0.7))})
    trainer = make_trainer(daemon)
    take(trainer, 3)
    trainer.set_knob("resolution", 4)
    assert daemon.sets == [("resolution", 4)]
    assert [(c.step, c.knob, c.by) for c in trainer.knobs.changes] == [(2, "pace", "daemon"), (4, "resolution", "script")]


def test_a_broken_image_batch_skips_the_step_and_counts_it(make_trainer, take, monkeypatch):
    trainer = make_trainer()
    good = trainer.stages.draw
    monkeypatch.setattr(trainer.stages, "draw", lambda *args: [good(*args)[0] * mx.array(math.nan), *good(*args)[1:]])
    before = np.array(trainer.stages.teacher.state.weights)
    records = take(trainer, 2)
    assert all(record.flags & FLAG_NOT_FINITE for record in records)
    assert trainer.not_finite_steps == 2
    assert np.array_equal(before, np.array(trainer.stages.teacher.state.weights))
    monkeypatch.setattr(trainer.stages, "draw", good)
    assert math.isfinite(take(trainer, 1)[0].loss)


def test_the_budget_ends_the_run_and_evaluations_count_in_it(make_trainer, clock):
    clock.tick = 0.05
    trainer = make_trainer(seconds=20.0, evaluate_every_steps=None)
    records = list(trainer.steps())
    assert records[-1].seconds == pytest.approx(20, abs=0.5)
    assert trainer.budget_used >= 1
    assert len(trainer.evaluations) > 10
    assert any(not math.isnan(row.quality) for row in trainer.evaluations)


def test_the_hook_is_told_every_step_and_every_evaluation(make_trainer, take):
    daemon = Daemon()
    take(make_trainer(daemon, evaluate_every_steps=2, quality_every=2), 4)
    assert [step for step, _, _ in daemon.reports] == [1, 2, 3, 4]
    fields = daemon.reports[-1][2]
    assert fields["images"] == 64
    assert fields["active_bytes"] > 0
    assert fields["peak_bytes"] >= fields["active_bytes"]
    assert [step for step, _, _ in daemon.evaluations] == [2, 4]
    assert daemon.evaluations[0][2]["quality_steps"] == 4
    assert not math.isnan(daemon.evaluations[0][2]["quality"])
    assert math.isnan(daemon.evaluations[1][2]["quality"])


def test_a_stop_from_a_signal_ends_after_the_step(make_trainer):
    trainer = make_trainer()
    for _ in trainer.steps():
        trainer.stop()
    assert trainer.step == 1


def test_the_own_plan_distils_at_the_end_of_the_budget(make_trainer):
    daemon = Daemon()
    trainer = make_trainer(daemon, steps=20)
    stages = [record.stage for record in trainer.steps()]
    assert stages == [0] * 14 + [1] * 3 + [2] * 3
    assert daemon.sets == [("distill", 1), ("distill", 2)]


def test_a_guided_run_leaves_distillation_to_the_daemon(make_trainer):
    daemon = Daemon({5: Changes(distill=(0, 1)), 8: Changes(distill=(1, 0))}, guided=True)
    stages = [record.stage for record in make_trainer(daemon, steps=12).steps()]
    assert stages == [0] * 5 + [1] * 3 + [0] * 4


def test_going_back_to_the_teacher_keeps_the_student_aside(make_trainer):
    daemon = Daemon({3: Changes(distill=(0, 1)), 6: Changes(distill=(1, 0))}, guided=True)
    trainer = make_trainer(daemon, steps=9)
    list(trainer.steps())
    assert trainer.stages.student is not None
    assert trainer.stages.images == {"teacher": 6 * 16, "student": 3 * 16}


def test_the_first_step_of_a_new_student_is_marked_because_it_is_traced_anew(make_trainer):
    daemon = Daemon({2: Changes(distill=(0, 1)), 4: Changes(distill=(1, 0)), 6: Changes(distill=(0, 1))}, guided=True)
    records = list(make_trainer(daemon, steps=8).steps())
    assert [r.stage for r in records] == [0, 0, 1, 1, 0, 0, 1, 1]
    assert [bool(r.flags & FLAG_FIRST_OF_SHAPE) for r in records] == [True, False, True, False, False, False, True, False]


def test_the_peak_of_a_run_includes_its_evaluations(make_trainer, take):
    trainer = make_trainer(micro_batch=4)
    take(trainer, 1)
    trainer.peak_bytes = 0
    mx.reset_peak_memory()
    trainer.evaluate(with_quality=True)
    assert trainer.peak_bytes == mx.get_peak_memory()


def test_an_injected_machine_stretches_the_step_and_is_reported(make_trainer, clock, tmp_path):
    path = tmp_path / "machine.json"
    InjectedState(time=100.0, frequency_ratio=0.5).write(path)
    trainer = make_trainer(injection=Injection(path))
    clock.tick = 0.1
    next(trainer.steps())
    assert trainer.injection.seconds == pytest.approx(sum(clock.naps))
    assert sum(clock.naps) > 0


def test_an_old_or_missing_injection_slows_nothing_down(tmp_path):
    path = tmp_path / "machine.json"
    assert Injection(path).extra_seconds(1.0, 0, now=0.0) == 0
    InjectedState(time=100.0, frequency_ratio=0.5).write(path)
    assert Injection(path).extra_seconds(1.0, 0, now=500.0) == 0
    assert Injection(path).extra_seconds(1.0, 0, now=101.0) == pytest.approx(0.9)


def test_the_injection_is_read_at_most_four_times_a_second(tmp_path):
    path = tmp_path / "machine.json"
    InjectedState(time=0.0, frequency_ratio=0.5).write(path)
    injection = Injection(path)
    assert injection.extra_seconds(1.0, 0, now=0.0) > 0
    InjectedState(time=0.0, frequency_ratio=1.0).write(path)
    assert injection.extra_seconds(1.0, 0, now=0.2) > 0
    assert injection.extra_seconds(1.0, 0, now=0.3) == 0


def test_nothing_but_shapes_distinguishes_two_calls_of_the_compiled_step(make_trainer, take, monkeypatch):
    """A Python number among the arguments would trace anew for every value, and a captured one would be stale."""
    trainer = make_trainer()
    calls = []
    inner = trainer.stages.teacher._accumulate

    def recorded(*arguments):
        calls.append(tuple((tuple(a.shape), a.dtype) if isinstance(a, mx.array) else type(a) for a in arguments))
        return inner(*arguments)

    monkeypatch.setattr(trainer.stages.teacher, "_accumulate", recorded)
    for name, value in (("lr_scale", 2.0), ("timestep_density", 2), ("pace", 0.85), ("sampling_steps", 16), ("micro_batch", 8)):
        take(trainer, 1)
        trainer.set_knob(name, value)
    take(trainer, 1)
    assert all(isinstance(part, tuple) for call in calls for part in call)
    assert len(set(calls)) == 2  # one for each micro-batch size


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"micro_batches": (5, 16)}, "allowed are divisors of the batch of 16"),
        ({"resolution": 7}, "not on its ladder"),
        ({"network": "vit"}, "allowed: dit, unet"),
        ({"steps": None}, "bounds the training"),
        ({"steps": -1}, "positive"),
    ],
)
def test_a_wrong_configuration_is_answered_with_what_is_allowed(tiny_config, changes, message):
    with pytest.raises(ConfigurationError, match=message):
        replace(tiny_config, **changes)


def test_the_default_configuration_can_be_written_as_json():
    assert json.loads(json.dumps(TrainerConfig().to_dict()))["batch"] == 64


def test_the_plan_is_a_function_of_the_budget_alone():
    assert [plan.planned_stage(used, 2) for used in (0, 0.69, 0.7, 0.84, 0.86, 1.0)] == [0, 0, 1, 1, 2, 2]
    assert plan.planned_stage(0.9, 0) == 0
    assert plan.teacher_rate(0.0, 2) < plan.teacher_rate(0.1, 2)
    assert plan.teacher_rate(0.7, 2) == pytest.approx(plan.FINAL)
    assert plan.teacher_rate(0.7, 0) > 0.1
    assert plan.student_rate(0.5) == 0.5
    assert plan.student_rate(0.0) == plan.FINAL  # a stage begins gently: the optimizer remembers smaller gradients
    assert plan.student_rate(0.1) == pytest.approx(0.45)
    assert [plan.fewer_steps(steps) for steps in (16, 4, 2, 1)] == [1.0, 1.0, 0.5, 0.25]


def test_an_image_set_of_another_size_and_colour_trains(tiny_config):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, (40, 8, 8, 3), np.uint8)
    labels = np.zeros(40, np.int32)
    trainer = Trainer(replace(tiny_config, steps=2), Dataset("rgb", "made", images, labels, images[:20], labels[:20]))
    assert len(list(trainer.steps())) == 2
