"""Students as a user meets them: from a finished teacher to few steps, of any size and kind of model, in files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mlx.utils import tree_flatten

from autotuner.diffusion import checkpoint
from autotuner.diffusion.distillation import start, students
from autotuner.diffusion.distillation.inherit import inherit
from autotuner.diffusion.trainer import Trainer
from autotuner.errors import ConfigurationError


def test_a_finished_teacher_is_taken_to_few_steps(make_trainer, stripes, tmp_path):
    teacher = make_trainer(steps=40, student_ladder=())
    list(teacher.steps())
    path = tmp_path / checkpoint.FILE_NAME
    checkpoint.save(teacher, path)
    wanted = replace(teacher.config, student_learning_rate=7e-4)
    config = start.configured(path, wanted, {"student_learning_rate"}, to=2, seconds=60.0)
    assert config.student_ladder == (4, 2)
    assert config.student_learning_rate == 7e-4
    assert config.declarations()["distill"].values == (1, 2)
    trainer = make_trainer(out=tmp_path, **{**vars_of(config), "seconds": None, "steps": 20})
    start.take_teacher(trainer, path)
    assert np.array_equal(np.array(trainer.stages.teacher.averaged), np.array(teacher.stages.teacher.averaged))
    list(trainer.steps())
    trainer.keep_student()
    assert trainer.stages.images == {"teacher": 40 * 16, "student": 20 * 16}
    assert students.known(tmp_path) == [4, 2]
    labels = np.arange(8) % 2
    drawn = checkpoint.samples(path, "student", 2, 8, 3)
    learned = trainer.evaluator.as_data(trainer.evaluator.solutions("student", 2, labels, 3))
    assert np.array_equal(drawn, learned)
    assert not np.array_equal(drawn, checkpoint.samples(path, "student", 4, 8, 3))


def vars_of(config):
    return {name: value for name, value in vars(config).items() if name not in ("name",)}


@pytest.mark.parametrize("to", [0, 3, 12])
def test_steps_that_no_ladder_leads_to_are_refused(to):
    with pytest.raises(ConfigurationError, match="powers of two"):
        start.ladder(to)


def test_a_ladder_begins_near_the_teacher_and_halves():
    assert start.ladder(1) == (4, 2, 1)
    assert start.ladder(4) == (4,)
    assert start.ladder(16) == (16,)


def test_an_untrained_teacher_is_refused(make_trainer, tmp_path):
    trainer = make_trainer(steps=5)
    checkpoint.save(trainer, tmp_path / "empty.safetensors")
    with pytest.raises(checkpoint.CheckpointError, match="no picture yet"):
        start.take_teacher(make_trainer(steps=5, teacher_share=0.0), tmp_path / "empty.safetensors")


def test_a_shallower_student_takes_its_teachers_blocks_at_the_same_depth(make_trainer):
    trainer = make_trainer(model={"width": 16, "depth": 3, "mlp_ratio": 2}, student_model={"depth": 2})
    teacher, student = trainer.stages.new_denoiser(), trainer.stages.new_student()
    weights = dict(tree_flatten(teacher.trainable_parameters()))
    weights["network.blocks.2.up.weight"] = weights["network.blocks.2.up.weight"] * 0 + 5
    taken = inherit(student, weights)
    own = dict(tree_flatten(student.trainable_parameters()))
    assert taken == sum(array.size for array in own.values())
    assert float(own["network.blocks.1.up.weight"].min()) == 5


def test_a_damaged_students_file_is_named(tmp_path):
    path = students.path_of(tmp_path, 4)
    path.parent.mkdir()
    path.write_bytes(b"nothing")
    with pytest.raises(students.StudentError, match="steps-004"):
        students.load(path)


@pytest.mark.parametrize(
    ("network", "latent", "guidance", "process"),
    [("dit", False, 2.0, "edm"), ("unet", False, 1.0, "vp_v"), ("unet", True, 2.0, "flow"), ("dit", True, 1.0, "vp_epsilon")],
)
def test_every_kind_of_model_is_distilled(make_trainer, stripes, network, latent, guidance, process):
    """Both networks, pixels and latents, with and without guidance: a student of two steps beats its teacher in two."""
    model = {"width": 16, "depth": 2, "mlp_ratio": 2} if network == "dit" else {"width": 8, "depth": 2}
    fixed = {"heads": 2, "patch": 2, "attention": "relu"} if network == "dit" else {}
    trainer = make_trainer(
        network=network, model=model, fixed=fixed, process=process, guidance=guidance, student_ladder=(2,), steps=160,
        teacher_share=0.6, solver="euler", half_life_images=1000, resolutions=(8,),
    )  # fmt: skip
    if latent:
        floats = [(part.astype(np.float32) / 100 - 1.2) for part in (stripes.images, stripes.held_out_images)]
        dataset = replace(stripes, images=floats[0], held_out_images=floats[1], _resized={})
        trainer = Trainer(trainer.config, dataset)
    list(trainer.steps())
    labels = np.arange(48) % 2
    long = trainer.evaluator.solutions("teacher", 64, labels, 0)

    def error(who):
        return np.sqrt(np.mean((trainer.evaluator.solutions(who, 2, labels, 0) - long) ** 2))

    assert error("student") < 0.9 * error("teacher")
    assert trainer.evaluator.evaluations("student", 2) == 2


def test_files_that_are_no_students_are_not_counted(tmp_path):
    (tmp_path / students.FOLDER).mkdir()
    for name in ("steps-004.safetensors", "steps-many.safetensors", ".steps-002.77.safetensors"):
        (tmp_path / students.FOLDER / name).write_bytes(b"")
    assert students.known(tmp_path) == [4]
