"""Students on disk: one file for each number of steps, written when a stage has been learned, enough to sample from."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotuner.diffusion import array_file
from autotuner.diffusion.blas import mx
from autotuner.errors import AutotunerError

if TYPE_CHECKING:
    from autotuner.diffusion.config import TrainerConfig
    from autotuner.diffusion.stages import Stages

FOLDER = "students"
FORMAT = "1"


class StudentError(AutotunerError):
    """A student's file is missing, damaged, or of another model."""


@dataclass(frozen=True)
class Student:
    """What a file holds."""

    weights: mx.array
    """The averaged weights, one vector."""
    steps: int
    """Sampling steps that it was trained for."""
    document: dict[str, Any]
    """Its configuration, and the shape of its images."""


def path_of(out: Path, steps: int) -> Path:
    """Where the student of that many steps is kept, under a run's directory."""
    return out / FOLDER / f"steps-{steps:03d}.safetensors"


def known(out: Path) -> list[int]:
    """Steps of the students in a run's directory, most first."""
    names = (re.fullmatch(r"steps-(\d+)\.safetensors", file.name) for file in (out / FOLDER).glob("steps-*"))
    return sorted((int(name[1]) for name in names if name), reverse=True)


def save(out: Path, stages: Stages, config: TrainerConfig, weights: mx.array) -> Path:
    """Write the student of the present stage, an earlier one of as many steps is replaced. Raises WriteError."""
    path = path_of(out, stages.student_steps)
    document = {
        "steps": stages.student_steps,
        "images": stages.images["student"],
        "config": config.to_dict(),
        "data": stages.data,
    }
    return array_file.write(path, {"weights": weights}, {"format": FORMAT, "student": json.dumps(document)})


def load(path: Path) -> Student:
    """Read a student's file. Raises StudentError."""
    try:
        loaded: Any = mx.load(str(path), return_metadata=True)
        arrays, metadata = loaded
        document = json.loads(metadata["student"])
        student = Student(arrays["weights"], int(document["steps"]), document)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise StudentError(f"{path} is not a student's file: {error}") from None
    if metadata.get("format") != FORMAT:
        raise StudentError(f"{path}: format {metadata.get('format')!r}, expected {FORMAT!r}")
    return student
