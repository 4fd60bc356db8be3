"""A training that begins with a finished teacher: its configuration, and the teacher's state put in place."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from autotuner.diffusion import checkpoint
from autotuner.diffusion.checkpoint import CheckpointError
from autotuner.diffusion.config import TrainerConfig
from autotuner.diffusion.distillation import students
from autotuner.diffusion.trainer import Trainer
from autotuner.errors import ConfigurationError

FILE_NAME = "distillation.safetensors"
"""The training's own checkpoint, beside the teacher's."""
SHARE = 0.5
"""Of the teacher's training time, where no budget is given."""
FIRST_STEPS = 4
"""Steps of the first student: teacher and student agree after minutes, so that more of them only cost time."""
FROM_THE_FILE = (
    "student_ladder", "student_learning_rate", "objective", "student_clock", "teacher_gap", "student_weighting",
    "student_distance", "addim_eta", "guidance", "stage_rule", "gate", "student_model", "half_life_images",
    "quality_images", "quality_steps", "quality_features", "micro_batch", "micro_batches", "resolutions",
)  # fmt: skip
"""What the file decides; everything else is the teacher's, whatever the file says by now."""


def ladder(to: int, first: int = FIRST_STEPS) -> tuple[int, ...]:
    """Steps of the students on the way to ``to``, each half of the one before, from the larger of ``first`` and ``to`` on.

    Raises ConfigurationError unless ``to`` is a power of two.
    """
    if to < 1 or to & (to - 1):
        raise ConfigurationError(f"a student of {to} steps; allowed are 1, 2, 4, 8 and further powers of two")
    steps = [max(first, to)]
    while steps[-1] > to:
        steps.append(steps[-1] // 2)
    return tuple(steps)


def configured(
    teacher: Path, wanted: TrainerConfig, given: Collection[str], to: int | None, seconds: float | None
) -> TrainerConfig:
    """The configuration of a distillation from the checkpoint ``teacher``.

    ``wanted`` is the file's, ``given`` the fields that it sets. Raises CheckpointError, ConfigurationError.
    """
    document = checkpoint.read(teacher)[1]
    own: dict[str, Any] = {name: getattr(wanted, name) for name in FROM_THE_FILE if name in given}
    if to is not None:
        own["student_ladder"] = ladder(to)
    elif not own.get("student_ladder"):  # a file that asks for a teacher alone says []
        own["student_ladder"] = ladder(FIRST_STEPS)
    config = replace(checkpoint.configuration(teacher), **own)
    return replace(
        config,
        teacher_share=0.0,
        seconds=SHARE * document["seconds"] if seconds is None else seconds,
        steps=None,
        quality_steps=own.get("quality_steps", config.student_ladder[-1]),
        quality_every=1,
        evaluate_every_seconds=None,
        evaluate_every_steps=None,
        multires={},
    )


def take_teacher(trainer: Trainer, path: Path) -> None:
    """Give a new trainer the teacher of a checkpoint. Raises CheckpointError where they do not belong together."""
    vectors, document = checkpoint.read(path)
    checkpoint.check(trainer, document, path, except_for=("student_model", "batch", "seed"))
    if not document["learned"]["teacher"]:
        raise CheckpointError(f"{path}: its teacher has learned from no picture yet")
    checkpoint.restore_teacher(trainer, vectors, path)
    trainer.stages.images["teacher"] = document["learned"]["teacher"]


def resume(trainer: Trainer, path: Path, teacher: Path) -> None:
    """Continue the distillation in ``path``. Raises CheckpointError where it had other stages or ``teacher`` has changed."""
    document, now = checkpoint.read(path)[1], checkpoint.read(teacher)[1]
    was, ladder = tuple(document["config"]["student_ladder"]), trainer.config.student_ladder
    if was != ladder:
        raise CheckpointError(f"{path}: students of {was} steps, asked for are {ladder}; --restart begins anew")
    if document["learned"]["teacher"] != now["learned"]["teacher"]:
        raise CheckpointError(f"{path}: {teacher} has learned on since; --restart begins anew from what it is now")
    checkpoint.restore(trainer, path)


def set_aside(out: Path) -> None:
    """Move an earlier distillation and its students out of the way, into the first free ``distilled.N`` beside them."""
    found = [path for path in (out / FILE_NAME, out / students.FOLDER) if path.exists()]
    if found:
        folder = next(path for n in range(1, 10_000) if not (path := out / f"distilled.{n}").exists())
        folder.mkdir()
        for path in found:
            path.rename(folder / path.name)
