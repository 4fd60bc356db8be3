"""``autotuner distill run``, as a user runs it: from a finished teacher to kept students, and what may be in the way."""

from __future__ import annotations

import re
import shutil
from functools import partial

import pytest

from autotuner.cli import main
from autotuner.diffusion import checkpoint, trainer
from autotuner.diffusion.distillation import start, students
from tests.cli.digits import toml
from tests.diffusion.clock import Clock

TEXT = toml(20, evaluation="paired_images = 0", more="[distillation]\nstudent_ladder = []")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    (folder / "digits.toml").write_text(TEXT)
    assert main(["train", str(folder / "digits.toml"), "--no-hook"]) == 0
    return folder


@pytest.fixture
def config(teacher, tmp_path, monkeypatch):
    """A copy of the teacher's folder, and a clock that moves at every look: a budget is as many steps on any machine."""
    monkeypatch.setattr(trainer, "Trainer", partial(trainer.Trainer, clock=Clock(tick=0.01)))
    shutil.copytree(teacher, tmp_path / "copy")
    return tmp_path / "copy" / "digits.toml"


def distil(config, *words):
    return main(["distill", "run", str(config), "--no-hook", "--seconds", "3", *words])


def test_a_teacher_is_taken_to_two_steps_and_what_is_told_is_of_the_student_that_is_kept(config, capsys):
    assert distil(config, "--to", "2") == 0
    said, out = capsys.readouterr().out, config.parent / "here"
    assert students.known(out) == [4, 2]
    assert "digits.toml --who student --steps 2" in said
    gaps = [row["gap"] for row in checkpoint.read(out / start.FILE_NAME)[1]["evaluations"] if row["stage"] == 2]
    told = float(re.search(r", ([\d.]+) of the teacher's; students of", said)[1])
    assert told == pytest.approx(min(gaps), abs=0.006)


def test_a_finished_distillation_is_told_again_and_other_steps_are_refused(config, capsys):
    assert distil(config) == 0
    first = capsys.readouterr().out.splitlines()[-4]
    assert distil(config) == 0
    assert capsys.readouterr().out.splitlines()[-4] == first
    assert distil(config, "--to", "1") == 1
    assert "students of (4,) steps, asked for are (4, 2, 1); --restart begins anew" in capsys.readouterr().err


def test_students_of_a_teacher_that_learned_on_are_not_continued(config, capsys):
    assert distil(config) == 0
    assert main(["train", str(config), "--no-hook", "--set", "budget.steps=30"]) == 0
    assert distil(config) == 1
    assert "has learned on since" in capsys.readouterr().err


def test_a_restart_keeps_the_earlier_students_aside(config):
    assert distil(config) == 0
    before = (students.path_of(config.parent / "here", 4)).read_bytes()
    assert distil(config, "--restart") == 0
    aside = config.parent / "here" / "distilled.1"
    assert students.path_of(aside, 4).read_bytes() == before
    assert (aside / start.FILE_NAME).is_file()
    assert students.known(config.parent / "here") == [4]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [(["--to", "3"], "powers of two"), (["--seconds", "0"], "seconds 0.0; allowed is a positive number")],
)
def test_what_cannot_be_asked_for_is_refused(config, capsys, words, sentence):
    assert distil(config, *words) != 0
    assert sentence in capsys.readouterr().err


def test_without_a_teacher_the_command_says_what_to_run(tmp_path, capsys):
    (tmp_path / "digits.toml").write_text(TEXT)
    assert distil(tmp_path / "digits.toml") == 1
    assert "train a teacher first: autotuner train" in capsys.readouterr().err


def test_a_full_disk_leaves_what_was_there_and_says_so(config, capsys, monkeypatch):
    from autotuner.diffusion import array_file

    def full(*_, **__):
        raise RuntimeError("No space left on device")

    monkeypatch.setattr(array_file.mx, "save_safetensors", full)
    assert distil(config) == 1
    assert "not written (No space left on device)" in capsys.readouterr().err
    monkeypatch.undo()
    assert checkpoint.samples(config.parent / "here" / checkpoint.FILE_NAME, "teacher", 4, 2, 0).shape[0] == 2
    assert not list((config.parent / "here").glob(".*"))
