"""Every live knob, changed between two steps and verified in what is computed, alone and 2,000 times at random."""

from __future__ import annotations

import random
import time
from collections import Counter

import numpy as np
import pytest

from autotuner.diffusion import launch, noise
from autotuner.diffusion.blas import mx
from autotuner.diffusion.distillation.segments import times
from autotuner.diffusion.precondition import Denoiser
from autotuner.errors import DeclarationError
from autotuner.hook.page import PageWriter
from autotuner.hook.ring import RingReader
from autotuner.messages import FLAG_FIRST_OF_SHAPE, Acknowledgement, Declaration, Sample

SMALL = {"batch": 4, "micro_batch": 4, "micro_batches": (2, 4), "resolutions": (4, 6, 8), "student_ladder": (4, 2)}


def shapes_of(learner):
    """(resolution, micro-batch) of every call of the network."""
    return {(signature[1][1], signature[1][0]) for signature in learner.signatures}


@pytest.mark.parametrize("value", [4, 6])
def test_resolution_is_the_edge_of_what_the_network_sees_and_scales_the_noise(make_trainer, monkeypatch, value):
    trainer, seen = make_trainer(), []
    inner = Denoiser.__call__
    monkeypatch.setattr(Denoiser, "__call__", lambda self, x, *rest: seen.append(x.shape) or inner(self, x, *rest))
    trainer.set_knob("resolution", value)
    next(trainer.steps())
    assert seen == [(16, value, value, 1)]
    drawn = [trainer.stages.draw(trainer.dataset.at(edge)[:16], trainer.dataset.labels[:16], 0, 2)[4] for edge in (8, value)]
    assert np.array(drawn[1]) == pytest.approx(np.array(drawn[0]) * value / 8, rel=1e-5)


def test_micro_batch_is_the_number_of_images_of_one_pass_and_keeps_the_batch(make_trainer, take):
    trainer = make_trainer()
    trainer.set_knob("micro_batch", 4)
    (record,) = take(trainer, 1)
    assert trainer.stages.teacher.signatures == {((4,), (4, 8, 8, 1), (4,), (4, 8, 8, 1), (4,)): 4}
    assert record.images == 16


@pytest.mark.parametrize("steps", [4, 8, 16])
def test_sampling_steps_are_the_network_evaluations_of_a_preview(make_trainer, monkeypatch, tmp_path, steps):
    trainer, calls = make_trainer(out=tmp_path, solver="euler", sampling_steps=16), []
    trainer.set_knob("sampling_steps", steps)
    monkeypatch.setattr(trainer.evaluator, "held_out_losses", lambda: np.ones(10))
    inner = Denoiser.__call__
    monkeypatch.setattr(Denoiser, "__call__", lambda self, x, *rest: calls.append(x.shape) or inner(self, x, *rest))
    trainer.evaluate(with_quality=False)
    assert calls == [(16, 8, 8, 1)] * steps


def test_distill_trains_a_student_for_its_own_number_of_steps(make_trainer, take):
    trainer = make_trainer()
    take(trainer, 2)
    teacher = np.array(trainer.stages.teacher.state.weights)
    for stage, steps in ((1, 8), (2, 4)):
        trainer.set_knob("distill", stage)
        take(trainer, 1)
        drawn = trainer.stages.draw(trainer.dataset.images[:16], trainer.dataset.labels[:16], 0, 2)
        config, segments = trainer.config, (mx.arange(steps) / steps, mx.zeros(steps), mx.array(float(steps)), mx.array(2.0))
        ends = np.array(times(*segments, config.sigma_min, config.sigma_max).sigma_step)
        assert all(np.isclose(ends, end, rtol=1e-4).any() for end in np.array(drawn[6]))
        assert np.array_equal(teacher, np.array(trainer.stages.teacher.state.weights))
    trainer.set_knob("distill", 0)
    take(trainer, 1)
    assert not np.array_equal(teacher, np.array(trainer.stages.teacher.state.weights))


@pytest.mark.parametrize("index", range(len(noise.DENSITIES)))
def test_density_is_the_histogram_of_the_drawn_levels(make_trainer, index):
    trainer = make_trainer(batch=64, micro_batch=16)
    if index:
        trainer.set_knob("timestep_density", index)
    images, labels = trainer.dataset.images[:64], trainer.dataset.labels[:64]
    levels = np.concatenate([np.array(trainer.stages.draw(images, labels, step, 2)[4]) for step in range(60)])
    edges = np.linspace(noise.LN_SIGMA_MIN, noise.LN_SIGMA_MAX, noise.BINS + 1)
    found = np.histogram(np.log(levels), edges)[0] / len(levels)
    assert found == pytest.approx(noise.probabilities(index), abs=0.006)


@pytest.mark.parametrize("pace", [0.5, 0.7, 0.85, 1.0])
def test_pace_is_the_share_of_the_time_that_is_computed(make_trainer, take, clock, monkeypatch, pace):
    trainer = make_trainer(pace=1.0 if pace < 1 else 0.5)
    trainer.set_knob("pace", pace)

    def second(*args):
        clock.now += 1.0
        return 0.5, True

    monkeypatch.setattr(trainer, "_learn", second)
    records = take(trainer, 3)
    assert [1 / r.step_seconds for r in records] == pytest.approx([pace] * 3)
    assert sum(clock.naps) == pytest.approx(3 / pace - 3)


def test_cache_limit_is_the_memory_that_mlx_keeps(make_trainer, take):
    trainer = make_trainer(cache_limits=(0, 2**18, 2**30), resolutions=(8,))
    kept = {}
    for limit in (2**30, 2**18, 0):
        trainer.set_knob("cache_limit", limit)
        take(trainer, 2)
        kept[limit] = mx.get_cache_memory()
    mx.set_cache_limit(2**30)
    assert kept[0] == 0
    assert kept[2**18] <= 2**18 < kept[2**30]


def test_where_memory_is_short_a_measurement_leaves_nothing_in_the_cache(make_trainer, take):
    trainer = make_trainer(cache_limits=(2**20, 2**30), resolutions=(8,))
    take(trainer, 1)
    trainer.evaluate(with_quality=False)
    assert mx.get_cache_memory() > 0
    trainer.set_knob("cache_limit", 2**20)
    take(trainer, 1)
    trainer.evaluate(with_quality=False)
    assert mx.get_cache_memory() == 0
    mx.set_cache_limit(2**30)


@pytest.mark.parametrize("scale", [0.25, 2.0])
def test_lr_scale_is_the_size_of_the_update(make_trainer, take, scale):
    plain, scaled = make_trainer(), make_trainer()
    scaled.set_knob("lr_scale", scale)
    scaled.lr_scale = scale  # the ramp has another test
    moves = []
    for trainer in (plain, scaled):
        before = np.array(trainer.stages.teacher.state.weights)
        take(trainer, 1)
        moves.append(np.linalg.norm(np.array(trainer.stages.teacher.state.weights) - before))
    assert moves[1] / moves[0] == pytest.approx(scale, rel=1e-3)


def test_a_script_is_refused_its_ninth_shape_and_told_which_it_has_used(make_trainer, take):
    trainer = make_trainer(max_shapes=3)
    for name, value in (("resolution", 4), ("micro_batch", 8)):
        take(trainer, 1)
        trainer.set_knob(name, value)
    take(trainer, 1)
    with pytest.raises(DeclarationError, match=r"micro_batch.*shape 4 .*allowed are 3.*\(4, 8\)"):
        trainer.set_knob("micro_batch", 4)
    trainer.set_knob("micro_batch", 16)  # a shape that it has used stays open
    assert take(trainer, 1)[0].micro_batch == 16
    assert len({shape[:2] for shape in trainer.shapes}) == 3


class Daemon:
    """Writes pages as the daemon does; positions are kept between two of them."""

    def __init__(self, run):
        self.declaration = Declaration.from_json((run.directory / "run.json").read_text())
        self.names = [knob.name for knob in self.declaration.knobs]
        self.positions = list(self.declaration.start)
        self.writer = PageWriter(run.directory / "knobs.page")
        self.writer.heartbeat(time.monotonic(), "act")

    def ask(self, name, value):
        index = self.names.index(name)
        self.positions[index] = self.declaration.knobs[index].values.index(value)
        self.writer.heartbeat(time.monotonic(), "act")
        return self.writer.write(self.positions, time.monotonic())


def schedule(config, steps, changes, seed):
    """``changes`` random changes, each of one knob to another of its values, at random steps; one a step at most."""
    chance = random.Random(seed)
    ladders = {name: knob.values for name, knob in config.declarations().items()}
    now = {name: knob.values[knob.start] for name, knob in config.declarations().items()}
    plan = {}
    for step in sorted(chance.sample(range(1, steps), changes)):
        rare = chance.random() < 0.01  # a new student costs as much as many steps
        name = "distill" if rare else chance.choice([name for name in ladders if name != "distill"])
        now[name] = chance.choice([value for value in ladders[name] if value != now[name]])
        plan[step] = (name, now[name])
    return plan


def compare(make_trainer, stripes, tmp_path, steps, changes):
    made = {**SMALL, "steps": steps, "model": {"width": 16, "depth": 1, "mlp_ratio": 2}}
    config = make_trainer(**made).config
    plan = schedule(config, steps, changes, seed=3)
    _, run = launch.attached(config, stripes, state_directory=tmp_path, shape_dwell_steps=0)
    daemon, records, revisions = Daemon(run), [], {}
    told = []
    with run:
        trainer, reader = make_trainer(run, **made), RingReader(run.directory / "telemetry.ring")
        for progress in trainer.steps():
            records.append(progress)
            if progress.step in plan:
                revisions[progress.step] = daemon.ask(*plan[progress.step])
            told += reader.read() if progress.step % 50 == 0 else []
        told += reader.read()
    alone = make_trainer(**made)
    alone.run.guided = True  # the script's own plan of distillation is not what is compared
    by_script = []
    for progress in alone.steps():
        by_script.append(progress)
        if progress.step in plan:
            alone.set_knob(*plan[progress.step])
    return trainer, records, by_script, told, plan, revisions


@pytest.mark.parametrize(("steps", "changes"), [(300, 290), pytest.param(2100, 2000, marks=pytest.mark.slow)])
def test_random_changes_through_the_hook_learn_what_the_script_alone_learns(make_trainer, stripes, tmp_path, steps, changes):
    trainer, records, by_script, told, plan, revisions = compare(make_trainer, stripes, tmp_path, steps, changes)
    assert len(plan) == changes
    assert [r.loss.hex() for r in records] == [r.loss.hex() for r in by_script]
    assert [r.step for r in records] == list(range(1, steps + 1))
    assert [r.images for r in records] == list(range(4, 4 * steps + 1, 4))
    samples = [r for r in told if isinstance(r, Sample)]
    assert [s.step for s in samples] == list(range(1, steps + 1))
    acknowledged = {r.revision: r for r in told if isinstance(r, Acknowledgement)}
    assert all(acknowledged[revision].step == step + 1 for step, revision in revisions.items())
    assert not any(a.refused for a in acknowledged.values())
    assert {c.knob for c in trainer.knobs.changes} == set(SMALL_KNOBS)
    check_shapes(trainer, records)


SMALL_KNOBS = ("resolution", "micro_batch", "sampling_steps", "distill", "pace", "cache_limit", "lr_scale", "timestep_density")


def check_shapes(trainer, records):
    """No more than eight shapes, each traced once a teacher and once a student: a switch costs one step, once."""
    pairs = {(r.resolution, r.micro_batch) for r in records}
    assert pairs == {(resolution, micro) for resolution in (4, 6, 8) for micro in (2, 4)}
    assert shapes_of(trainer.stages.teacher) == pairs
    marked = Counter((r.resolution, r.micro_batch, r.stage > 0) for r in records if r.flags & FLAG_FIRST_OF_SHAPE)
    students = sum(c.knob == "distill" and c.old == 0 for c in trainer.knobs.changes)
    for (_, _, student), count in marked.items():
        assert count <= (students if student else 1)
    assert len(trainer.shapes) <= 2 * 8


def test_a_daemon_that_asks_for_a_ninth_shape_is_refused(make_trainer, stripes, take, tmp_path):
    made = {"micro_batches": (2, 4, 8, 16), "steps": 100}
    config = make_trainer(**made).config
    _, run = launch.attached(config, stripes, state_directory=tmp_path, shape_dwell_steps=0)
    daemon = Daemon(run)
    with run:
        trainer = make_trainer(run, **made)
        for resolution in config.resolutions:
            for micro_batch in config.micro_batches:
                daemon.ask("micro_batch", micro_batch)
                daemon.ask("resolution", resolution)
                take(trainer, 1)
    assert len({shape[:2] for shape in trainer.shapes}) == 8
    assert trainer.step == 12
