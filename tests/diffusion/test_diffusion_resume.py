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
