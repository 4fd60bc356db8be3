"""Who takes part in a comparison: teachers and students of run directories, each in a number of steps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from autotuner.diffusion import checkpoint
from autotuner.diffusion.blas import mx
from autotuner.diffusion.checkpoint import CheckpointError, Sampler
from autotuner.diffusion.data import Dataset
from autotuner.diffusion.distillation import start, students
from autotuner.diffusion.distillation.students import StudentError
from autotuner.diffusion.evaluation import guided, way
from autotuner.diffusion.flat import Layout
from autotuner.diffusion.guidance import Guided
from autotuner.diffusion.precondition import Denoiser
from autotuner.diffusion.sample import evaluations, solve

ANSWERS_BY = ("network", "fixed", "process", "beta_schedule", "guidance")
"""Fields of a configuration that a network's answers depend on, besides its model and weights."""
SHARED = ("network", "model", "fixed", "process", "beta_schedule")
"""Fields in which a student's file agrees with the checkpoint that its teacher is in."""


@dataclass(frozen=True)
class Network:
    """A teacher or a student of one run, ready to draw."""

    who: str
    """``teacher`` or ``student``."""
    run: str
    """Name of the run's directory."""
    sampler: Sampler

    @property
    def guidance(self) -> float:
        """Scale of classifier-free guidance: that of a student is its teacher's, which it learned."""
        return self.sampler.config.guidance

    @cached_property
    def parameters(self) -> int:
        """Number of trained scalars."""
        return self._plain.size

    @cached_property
    def identity(self) -> str:
        """A hash of the weights and of everything else that its answers depend on."""
        config = self.sampler.config
        model = {**config.model, **config.student_model} if self.who == "student" else config.model
        said = json.dumps([model, self.sampler.shape, *(getattr(config, name) for name in ANSWERS_BY)], sort_keys=True)
        return hashlib.sha256(said.encode() + np.array(self._plain.astype(mx.float32)).tobytes()).hexdigest()[:16]

    def solutions(self, steps: int, labels: np.ndarray, seed: int, solver: str | None = None) -> np.ndarray:
        """float32 images before rounding, one for each label; ``solver`` takes the place of its own."""
        sampler = self.sampler
        levels, name = way(sampler.config, self.who, steps, solver)
        return solve(sampler.denoiser, labels, sampler.shape, levels, name, seed)

    def evaluations(self, steps: int, solver: str | None = None) -> int:
        """Times that the network sees one image; guidance shows it twice."""
        levels, name = way(self.sampler.config, self.who, steps, solver)
        return evaluations(name, levels) * (2 if isinstance(self.sampler.denoiser, Guided) else 1)

    def name(self, steps: int) -> str:
        """What no other way to these samples is called, ever: with its solver and a hash of its noise levels."""
        levels, solver = way(self.sampler.config, self.who, steps)
        grid = hashlib.sha256(levels.astype(np.float32).tobytes()).hexdigest()[:8]
        return f"{self.who} {self.identity} in {steps} steps of {solver} on {grid}"

    @property
    def _plain(self) -> mx.array:
        denoiser = _unguided(self.sampler)
        return Layout(denoiser).pack(denoiser.trainable_parameters())


@dataclass(frozen=True)
class Contender:
    """One network in a number of steps."""

    network: Network
    steps: int
    teacher: Network
    """Whom it is held against: the student's teacher with the guidance that it learned; a teacher's is itself."""

    @property
    def title(self) -> str:
        """What a reader calls it."""
        return f"{self.network.who} of {self.network.run} in {self.steps} steps"


def contenders(outs: Sequence[Path], dataset: Dataset, teacher_steps: Sequence[int]) -> list[Contender]:
    """Teachers and students of run directories: each teacher as it samples, and with the guidance of its students.

    A teacher that several directories hold takes part once. Raises CheckpointError for a directory without a checkpoint of
    this dataset, StudentError for one without students or with those of another model.
    """
    found: list[Contender] = []
    teachers: dict[str, Network] = {}
    for out in outs:
        run = out.resolve().name if len({each.resolve().name for each in outs}) == len(outs) else str(out)
        students_of_it = _checked(out, run, dataset)
        path = out / checkpoint.FILE_NAME
        scales = dict.fromkeys([checkpoint.configuration(path).guidance, *(each.guidance for _, each in students_of_it)])
        own = {scale: _teacher(path, run, scale) for scale in scales}
        new = [network for network in own.values() if network.identity not in teachers]
        own = {scale: teachers.setdefault(network.identity, network) for scale, network in own.items()}
        found += [Contender(network, steps, network) for network in new for steps in sorted(teacher_steps)]
        found += [Contender(network, steps, own[network.guidance]) for steps, network in students_of_it]
    return found


def _checked(out: Path, run: str, dataset: Dataset) -> list[tuple[int, Network]]:
    """The students of a run with their steps, most first."""
    path = out / checkpoint.FILE_NAME
    if not path.is_file():
        raise CheckpointError(f"{path} is not there; a report needs the teacher's checkpoint")
    _require_dataset(path, dataset)
    found = [(steps, Network("student", run, checkpoint.sampler(file, "student", steps))) for steps, file in _students(out)]
    if not found:
        raise StudentError(f"{out / students.FOLDER} holds no student, and neither does {path}; train some first")
    for steps, network in found:
        _require_own(network, path, students.path_of(out, steps))
    return found


def _students(out: Path) -> list[tuple[int, Path]]:
    """Numbers of steps, most first, each with the checkpoint beside its student: all that were kept, and one that learns."""
    kept = dict.fromkeys(students.known(out), out / checkpoint.FILE_NAME)
    for name in (start.FILE_NAME, checkpoint.FILE_NAME):
        if (out / name).is_file():
            kept = {**_learning(out / name), **kept}
    return sorted(kept.items(), reverse=True)


def _learning(path: Path) -> dict[int, Path]:
    vectors, document = checkpoint.read(path)
    ladder = document["config"]["student_ladder"]
    return {ladder[max(document["stage"], 1) - 1]: path} if "student.average" in vectors and ladder else {}


def _teacher(path: Path, run: str, scale: float) -> Network:
    sampler = checkpoint.sampler(path, "teacher", 1)
    config = replace(sampler.config, guidance=scale)
    denoiser = guided(_unguided(sampler), config, "teacher", sampler.classes)
    return Network("teacher", run, sampler._replace(denoiser=denoiser, config=config))


def _unguided(sampler: Sampler) -> Denoiser:
    return sampler.denoiser.denoiser if isinstance(sampler.denoiser, Guided) else sampler.denoiser


def _require_dataset(path: Path, dataset: Dataset) -> None:
    was = checkpoint.read(path)[1]["data"]
    for name in ("name", "resolution", "channels", "classes"):
        if was[name] != getattr(dataset, name):
            raise CheckpointError(f"{path}: {name} of the images was {was[name]!r}, here it is {getattr(dataset, name)!r}")


def _require_own(network: Network, path: Path, file: Path) -> None:
    was, teacher = network.sampler, checkpoint.sampler(path, "teacher", 1)
    if (was.shape, was.classes) != (teacher.shape, teacher.classes):
        raise StudentError(
            f"{file}: a student that draws {was.shape} in {was.classes} classes; {path} holds a teacher of "
            f"{teacher.shape} in {teacher.classes}"
        )
    for name in SHARED:
        own, other = getattr(was.config, name), getattr(teacher.config, name)
        if own != other:
            raise StudentError(f"{file}: its teacher's {name} was {own!r}; {path} holds one with {other!r}")
