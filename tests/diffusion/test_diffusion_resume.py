"""A killed training continues bit for bit: every vector, counter and knob, from any moment of any stage."""

from __future__ import annotations

import random

import numpy as np
import pytest

from autotuner.diffusion import checkpoint, posthoc
from autotuner.diffusion.blas import mx

STEPS = 24
PLAN = {
    3: ("resolution", 4),
    5: ("micro_batch", 4),
    7: ("timestep_density", 2),
    9: ("lr_scale", 2.0),
    12: ("pace", 0.85),
    15: ("resolution", 8),
}
KINDS = {
    "default": {},
    "power": {"ema": "power", "ema_snapshots": 12},
    "float16": {"precision": "float16"},
    "bfloat16 checkpointed": {"precision": "bfloat16", "gradient_checkpointing": True},
    "flow": {"process": "flow", "weighting": "min_snr", "warm_up_steps": 4},
}


def everything(trainer):
    """All that a training is, as plain values: what must be equal bit for bit."""
    vectors = {name: np.array(array.astype(mx.float32)).tobytes() for name, array in checkpoint._vectors(trainer).items()}
    document = checkpoint._document(trainer)
    for changing in ("seconds", "peak_bytes", "evaluations"):
        document.pop(changing)
    for change in document["changes"]:
        change.pop("seconds")
    return vectors, document


def drive(trainer, until):
    losses = []
    for progress in trainer.steps():
        losses.append(progress.loss)
        if progress.step in PLAN:
            trainer.set_knob(*PLAN[progress.step])
        if progress.step == until:
            break
    return losses


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_killed_in_each_stage_ends_as_if_it_had_not_been(make_trainer, tmp_path, kind):
    made = {**KINDS[kind], "steps": STEPS, "batch": 8, "micro_batch": 8, "micro_batches": (4, 8)}
    path = tmp_path / checkpoint.FILE_NAME
    through = make_trainer(**made, out=tmp_path / "through")
    (tmp_path / "through").mkdir()
    expected = drive(through, STEPS)
    chance = random.Random(kind)
    killed_at = [chance.randint(1, 15), chance.randint(17, 19), chance.randint(21, 23)]  # teacher, first and second student
    out = tmp_path / "killed"
    out.mkdir()
    trainer, losses = make_trainer(**made, out=out), []
    for moment in killed_at:
        losses += drive(trainer, moment)
        checkpoint.save(trainer, path)
        drive(trainer, min(moment + chance.randint(0, 3), STEPS - 1))  # what the kill then loses
        trainer = make_trainer(**made, out=out)
        checkpoint.restore(trainer, path)
    losses += drive(trainer, STEPS)
    assert losses == expected
    assert everything(trainer) == everything(through)
    if kind == "power":
        mine, theirs = (posthoc.load(folder / posthoc.FOLDER) for folder in (out, tmp_path / "through"))
        assert [(s.updates, np.array(s.weights).tobytes()) for s in mine] == [
            (s.updates, np.array(s.weights).tobytes()) for s in theirs
        ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "float16"}, "precision was 'float32', this training has 'float16'"),
        ({"ema": "power"}, "ema was 'half_life'"),
        ({"process": "flow"}, "process was 'edm'"),
    ],
)
def test_a_checkpoint_of_another_kind_of_training_is_refused(make_trainer, tmp_path, changes, message):
    path = tmp_path / checkpoint.FILE_NAME
    checkpoint.save(make_trainer(), path)
    with pytest.raises(checkpoint.CheckpointError, match=message):
        checkpoint.restore(make_trainer(**changes), path)


def test_a_larger_budget_trains_the_teacher_further_and_then_its_students_anew(make_trainer, tmp_path):
    path = tmp_path / checkpoint.FILE_NAME
    first = make_trainer(steps=20)
    assert [r.stage for r in first.steps()][-1] == 2
    checkpoint.save(first, path)
    learned = first.stages.images["teacher"]
    second = make_trainer(steps=40)
    checkpoint.restore(second, path)
    assert [r.stage for r in second.steps()] == [0] * 8 + [1] * 6 + [2] * 6
    assert second.stages.images["teacher"] == second.stages.student_of == learned + 8 * 16


def test_a_stage_that_somebody_else_chose_is_left_alone_by_a_larger_budget(make_trainer, tmp_path):
    path = tmp_path / checkpoint.FILE_NAME
    first = make_trainer(steps=20)
    drive(first, 5)
    first.set_knob("distill", 1)
    drive(first, 10)
    checkpoint.save(first, path)
    entered = first.stage_entered
    second = make_trainer(steps=40)
    checkpoint.restore(second, path)
    assert second.stage_entered == pytest.approx(entered / 2)
    assert {r.stage for r in second.steps() if r.step < 28} == {1}


def test_a_larger_budget_goes_on_keeping_snapshots(make_trainer, tmp_path):
    path = tmp_path / checkpoint.FILE_NAME
    power = {"ema": "power", "ema_snapshots": 10, "student_ladder": (), "out": tmp_path}
    first = make_trainer(**power, steps=20)
    drive(first, 20)
    checkpoint.save(first, path)
    second = make_trainer(**power, steps=40)
    checkpoint.restore(second, path)
    drive(second, 40)
    assert sorted(int(file.stem) for file in (tmp_path / posthoc.FOLDER).iterdir()) == [*range(2, 21, 2), *range(24, 41, 4)]


def test_a_stage_that_the_ladder_no_longer_has_is_refused(make_trainer, tmp_path):
    path = tmp_path / checkpoint.FILE_NAME
    first = make_trainer(steps=20)
    drive(first, 20)
    checkpoint.save(first, path)
    with pytest.raises(checkpoint.CheckpointError, match=r"distillation stage 2; student_ladder \(4,\) has no such stage"):
        checkpoint.restore(make_trainer(student_ladder=(4,)), path)


def test_checkpointing_that_was_switched_on_live_is_on_after_the_resume(make_trainer, take, tmp_path):
    path = tmp_path / checkpoint.FILE_NAME
    first = make_trainer()
    first.set_gradient_checkpointing(True)
    take(first, 1)
    checkpoint.save(first, path)
    second = make_trainer()
    checkpoint.restore(second, path)
    assert second.stages.gradient_checkpointing
    assert second.stages.teacher.denoiser.network.gradient_checkpointing
