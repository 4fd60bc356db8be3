"""A training that people ask for a checkpoint, or to go back to one, while it runs."""

from __future__ import annotations

import numpy as np
import pytest

from autotuner.diffusion import checkpoint, launch
from autotuner.diffusion.blas import mx
from autotuner.hook import attach, knob
from autotuner.hook.checkpoint import Request, answer_on, ask
from autotuner.hook.page import PageWriter


@pytest.fixture
def run(tiny_config, tmp_path):
    knobs = {name: knob(row.values[row.start], row.values) for name, row in tiny_config.declarations().items()}
    with attach("cats", knobs=knobs, state_dir=tmp_path / "state", auto=False) as run:
        yield run


@pytest.fixture
def page(run):
    page = PageWriter(run.directory / "knobs.page")
    yield page
    page.close()


def weights(trainer):
    return {name: np.array(array.astype(mx.float32)).tobytes() for name, array in checkpoint._vectors(trainer).items()}


def drive(trainer, path, plan):
    """Train to the end; ``plan`` says what happens after which step, once. The steps as they came."""
    steps = []

    def seen(progress):
        steps.append(progress.step)
        if progress.step in plan:
            plan.pop(progress.step)()

    launch.drive(trainer, path, seen)
    return steps


def test_a_checkpoint_is_written_at_the_next_step_and_can_be_gone_back_to(make_trainer, run, page, tmp_path):
    path, trainer, taken = tmp_path / checkpoint.FILE_NAME, make_trainer(run, steps=9), {}

    def save():
        ask(page, Request(1, 1e9, "save"))
        taken["weights"] = weights(trainer)

    def restore():
        answer = answer_on(page.read())
        assert (answer.done, answer.step, answer.text) == (True, 3, str(path))
        trainer.set_knob("micro_batch", 8)
        ask(page, Request(2, 1e9, "restore"))

    def check():
        answer = answer_on(page.read())
        assert (answer.number, answer.done, answer.step) == (2, True, 3)
        assert trainer.knobs["micro_batch"] == 8
        assert weights(trainer) != taken["weights"]

    first = {3: save, 6: restore}
    going = drive(trainer, path, first)
    assert going == [1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8, 9]
    check()


def test_what_is_gone_back_to_is_the_checkpoint_bit_for_bit(make_trainer, tmp_path):
    path, trainer = tmp_path / checkpoint.FILE_NAME, make_trainer(steps=12)
    steps = trainer.steps()
    for _ in range(4):
        next(steps)
    checkpoint.save(trainer, path)
    before = weights(trainer)
    for _ in range(3):
        next(steps)
    assert weights(trainer) != before
    checkpoint.go_back(trainer, path)
    assert weights(trainer) == before
    assert (trainer.step, len(trainer.evaluations)) == (4, sum(row.step <= 4 for row in trainer.evaluations))
    assert next(steps).step == 5


def test_from_a_student_back_to_before_there_was_one(make_trainer, tmp_path):
    path, trainer = tmp_path / checkpoint.FILE_NAME, make_trainer(steps=12)
    steps = trainer.steps()
    next(steps)
    checkpoint.save(trainer, path)
    before = weights(trainer)
    trainer.set_knob("distill", 1)
    next(steps)
    assert trainer.stages.student is not None
    trainer.set_knob("distill", 0)
    checkpoint.go_back(trainer, path)
    assert weights(trainer) == before
    trainer.set_knob("distill", 1)
    next(steps)
    checkpoint.go_back(trainer, path)  # the stage in force stays: its student begins anew, from the teacher of then
    assert trainer.stages.stage == 1
    assert next(steps).step == 2


def test_a_checkpoint_that_is_none_is_refused_and_training_goes_on(make_trainer, run, page, tmp_path):
    trainer = make_trainer(run, steps=4)
    (tmp_path / "broken").write_bytes(b"no checkpoint")
    asking = {2: lambda: ask(page, Request(1, 1e9, "restore", str(tmp_path / "broken")))}
    with pytest.warns(UserWarning, match="is not a checkpoint"):
        assert drive(trainer, tmp_path / checkpoint.FILE_NAME, asking) == [1, 2, 3, 4]
    answer = answer_on(page.read())
    assert not answer.done
    assert "is not a checkpoint" in answer.text
