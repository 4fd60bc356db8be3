"""A training on disk: one safetensors file, replaced at once, that holds every vector and, as JSON, everything else."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autotuner.diffusion import adam, array_file, posthoc
from autotuner.diffusion.blas import mx
from autotuner.diffusion.config import TrainerConfig
from autotuner.diffusion.distillation import students
from autotuner.diffusion.ema import SIGMA_RELS
from autotuner.diffusion.evaluation import Evaluated, draw, guided
from autotuner.diffusion.flat import Layout
from autotuner.diffusion.guidance import Guided
from autotuner.diffusion.posthoc import Snapshot
from autotuner.diffusion.precondition import Denoiser
from autotuner.diffusion.stages import build
from autotuner.diffusion.step import Learner, State
from autotuner.diffusion.trainer import Trainer
from autotuner.errors import AutotunerError

FORMAT = "1"
FILE_NAME = "checkpoint.safetensors"
MUST_AGREE = ("network", "model", "fixed", "batch", "seed", "process", "beta_schedule", "precision", "ema", "student_model")
"""Fields of the configuration that a checkpoint's vectors depend on."""
DEFAULTS = TrainerConfig().to_dict()
"""What a checkpoint from before a field existed was trained with."""


class CheckpointError(AutotunerError):
    """A checkpoint is missing, damaged, or of another model."""


def save(trainer: Trainer, path: Path) -> None:
    """Write the whole training; a kill at any moment leaves the previous file or the new one, never a part.

    Raises CheckpointError for a training that was interrupted within an optimizer step, WriteError where there is no room:
    the previous file stays.
    """
    learners = [learner for learner in (trainer.stages.teacher, trainer.stages.student) if learner is not None]
    if any(learner.torn for learner in learners):
        raise CheckpointError(
            f"{path}: not written, the training was interrupted within an optimizer step; the last file stands"
        )
    array_file.write(path, _vectors(trainer), {"format": FORMAT, "state": json.dumps(_document(trainer))})
    trainer.saved = True


def check(trainer: Trainer, document: dict[str, Any], path: Path, except_for: Collection[str] = ()) -> None:
    """Raise CheckpointError unless the document of ``path`` is of the trainer's configuration and images."""
    config = json.loads(json.dumps(trainer.config.to_dict()))
    for name in [name for name in MUST_AGREE if name not in except_for]:
        was = document["config"].get(name, DEFAULTS[name])
        if was != config[name]:
            raise CheckpointError(f"{path}: {name} was {was!r}, this training has {config[name]!r}")
    for name in ("name", "resolution", "channels", "classes"):
        was, now = document["data"][name], getattr(trainer.dataset, name)
        if was != now:
            raise CheckpointError(f"{path}: {name} of the images was {was!r}, this training has {now!r}")


def restore_teacher(trainer: Trainer, vectors: dict[str, mx.array], path: Path) -> None:
    """Put the teacher's vectors of a checkpoint in place. Raises CheckpointError."""
    try:
        trainer.stages.teacher.restore(_state(vectors, "teacher"))
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from None


def restore(trainer: Trainer, path: Path) -> None:
    """Continue a training of the same configuration from ``path``; raises CheckpointError."""
    vectors, document = read(path)
    check(trainer, document, path)
    stages, ladder = trainer.stages, trainer.config.student_ladder
    if document["stage"] > len(ladder):
        raise CheckpointError(f"{path}: in distillation stage {document['stage']}; student_ladder {ladder!r} has no such stage")
    restore_teacher(trainer, vectors, path)
    trainer.restart_clock()
    stages.forget_student()
    try:
        if "student.weights" in vectors:
            stages.objective = document.get("objective", stages.objective)
            stages.from_teacher = document.get("from_teacher", stages.from_teacher)
            if document.get("self_taught"):
                student = stages.succeed(vectors["frozen.weights"])
            else:
                student = stages.begin_student(vectors.get("frozen.weights"))
            student.restore(_state(vectors, "student"))
            if "best.weights" in vectors:
                stages.best = document["best_gap"], vectors["best.weights"]
            stages.kept = {int(name.partition(".")[2]): vectors[name] for name in vectors if name.startswith("kept.")}
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    stages.stage, stages.images, stages.student_of = document["stage"], document["learned"], document["student_of"]
    trainer.step, trainer.images, trainer.seconds_before = document["step"], document["images"], document["seconds"]
    trainer.not_finite_steps, trainer.lr_scale = document["not_finite_steps"], document["lr_scale"]
    trainer.peak_bytes = document.get("peak_bytes", 0)
    trainer.evaluations = [Evaluated(**row) for row in document["evaluations"]]
    spent = _budget_used(document)
    trainer.stage_entered = document["stage_entered"] * (trainer.budget_used / spent if spent else 1.0)
    trainer.snapshots = min(document.get("snapshots", 0), int(trainer.budget_used * trainer.config.ema_snapshots))
    if document.get("gradient_checkpointing", False) != stages.gradient_checkpointing:
        trainer.set_gradient_checkpointing(not stages.gradient_checkpointing)
    trainer.restore_knobs(document["knobs"], document["changes"])
    for draft in path.parent.glob(f".{path.stem}.*.safetensors"):  # what a kill left of a save
        draft.unlink(missing_ok=True)


def go_back(trainer: Trainer, path: Path) -> None:
    """Put a training that runs back to ``path``, between two steps; raises CheckpointError, and then it goes on as it was.

    The knobs in force stay: the daemon and its memory model know them, not those of the checkpoint.
    """
    held, movers = trainer.knobs.to_dict(), {change.knob: change.by for change in trainer.knobs.changes}
    restore(trainer, path)
    for name, value in held.items():
        trainer.change(name, value, movers.get(name, "script"))


def read(path: Path) -> tuple[dict[str, mx.array], dict[str, Any]]:
    """Vectors and document of a checkpoint; raises CheckpointError."""
    try:
        loaded: Any = mx.load(str(path), return_metadata=True)
        vectors, metadata = loaded
        document = json.loads(metadata["state"])
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is not a checkpoint: {error}") from None
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path}: format {metadata.get('format')!r}, expected {FORMAT!r}")
    return vectors, document


def knobs(path: Path) -> dict[str, float]:
    """The knob values in force when the checkpoint was written. Raises CheckpointError."""
    return dict(read(path)[1]["knobs"])


def configuration(path: Path) -> TrainerConfig:
    """The configuration that the checkpoint was trained with. Raises CheckpointError."""
    return _configured(read(path)[1])


def samples(path: Path, who: str, steps: int, count: int, seed: int, sigma_rel: float | None = None) -> np.ndarray:
    """uint8 images of the teacher or student in a checkpoint; needs no dataset.

    ``sigma_rel`` asks for another average of the teacher's past weights (post-hoc EMA) than the one that is evaluated.
    Raises CheckpointError, or SnapshotError where no snapshots of averages lie beside the checkpoint.
    """
    drawer = sampler(path, who, steps, sigma_rel)
    labels = np.arange(count) % drawer.classes
    return draw(drawer.denoiser, drawer.config, who, labels, drawer.shape, steps, seed)


class Sampler(NamedTuple):
    """What draws pictures: see ``sampler``."""

    denoiser: Denoiser | Guided
    config: TrainerConfig
    shape: tuple[int, int, int]
    """(height, width, channels) of what it draws: pixels or latents."""
    classes: int


def sampler(path: Path, who: str, steps: int, sigma_rel: float | None = None) -> Sampler:
    """The teacher or student in a checkpoint, ready to draw in ``steps``; the teacher guided as its configuration says.

    Of the students kept beside the checkpoint it is the one of as many steps; else the one that learned last. ``sigma_rel``
    and what is raised: as in ``samples``.
    """
    vectors, document = read(path)
    kept = students.path_of(path.parent, steps)
    if who == "student" and sigma_rel is None and kept.is_file():
        student = students.load(kept)
        document, weights = student.document, student.weights
    elif f"{who}.average" not in vectors:
        raise CheckpointError(f"{path} holds no {who}")
    else:
        weights = _evaluated(vectors, who) if sigma_rel is None else _reconstructed(path, vectors, who, sigma_rel)
    config, data = _configured(document), document["data"]
    built = replace(config, model={**config.model, **config.student_model}) if who == "student" else config
    denoiser = build(built, data["channels"], data["classes"], data["resolution"], data["sigma_data"])
    denoiser.update(Layout(denoiser).unpack(weights))
    shape = (data["resolution"], data["resolution"], data["channels"])
    return Sampler(guided(denoiser, config, who, data["classes"]), config, shape, data["classes"])


def _budget_used(document: dict[str, Any]) -> float:
    bounds = (("seconds", document["config"]["seconds"]), ("step", document["config"]["steps"]))
    return max(document[spent] / bound if bound else 0.0 for spent, bound in bounds)


def _evaluated(vectors: dict[str, mx.array], who: str) -> mx.array:
    profiles = _numbered(vectors, f"{who}.profile")
    return profiles[-1] if profiles else vectors[f"{who}.average"]


def _reconstructed(path: Path, vectors: dict[str, mx.array], who: str, sigma_rel: float) -> mx.array:
    if who != "teacher":
        raise CheckpointError(f"{path}: sigma_rel {sigma_rel!r} of the {who}; snapshots are kept of the teacher only")
    updates = float(vectors["teacher.updates"])
    now = [Snapshot(*row) for row in zip(SIGMA_RELS, [updates] * 2, _numbered(vectors, "teacher.profile"), strict=False)]
    earlier = posthoc.load(path.parent / posthoc.FOLDER, until=updates - 1)
    try:
        return posthoc.reconstruct([*earlier, *now], sigma_rel)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _configured(document: dict[str, Any]) -> TrainerConfig:
    known = {field.name for field in fields(TrainerConfig)}
    saved = {"student_clock": "rho", **document["config"]}  # the only one there was before it had a name
    return TrainerConfig(**{name: _tuples(value) for name, value in saved.items() if name in known})


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _vectors(trainer: Trainer) -> dict[str, mx.array]:
    stages = trainer.stages
    vectors = _named("teacher", stages.teacher)
    if stages.student is not None:
        vectors |= _named("student", stages.student)
        vectors |= {f"kept.{stage}": weights for stage, weights in stages.kept.items()}
        if stages.best is not None:
            vectors["best.weights"] = stages.best[1]
        if stages.frozen is not None:
            vectors["frozen.weights"] = Layout(stages.frozen).pack(stages.frozen.trainable_parameters())
    return vectors


def _named(who: str, learner: Learner) -> dict[str, mx.array]:
    state = learner.state
    parts = {"weights": state.weights, "average": state.average, **state.moments._asdict()}
    parts |= {f"profile.{index}": profile for index, profile in enumerate(state.profiles)}
    parts |= {f"scale.{index}": part for index, part in enumerate(state.scale)}
    return {f"{who}.{name}": array for name, array in parts.items()}


def _state(vectors: dict[str, mx.array], who: str) -> State:
    moments = adam.Moments(*(vectors[f"{who}.{name}"] for name in adam.Moments._fields))
    profiles, scale = _numbered(vectors, f"{who}.profile"), _numbered(vectors, f"{who}.scale")
    return State(vectors[f"{who}.weights"], vectors[f"{who}.average"], moments, profiles, scale)


def _numbered(vectors: dict[str, mx.array], name: str) -> tuple[mx.array, ...]:
    count = sum(key.startswith(f"{name}.") for key in vectors)
    return tuple(vectors[f"{name}.{index}"] for index in range(count))


def _document(trainer: Trainer) -> dict[str, Any]:
    dataset = trainer.dataset
    return {
        "config": trainer.config.to_dict(),
        "data": {
            "name": dataset.name,
            "resolution": dataset.resolution,
            "channels": dataset.channels,
            "classes": dataset.classes,
            "sigma_data": dataset.sigma_data,
        },
        "step": trainer.step,
        "images": trainer.images,
        "seconds": trainer.seconds,
        "stage": trainer.stages.stage,
        "stage_entered": trainer.stage_entered,
        "learned": trainer.stages.images,
        "student_of": trainer.stages.student_of,
        "objective": trainer.stages.objective,
        "from_teacher": trainer.stages.from_teacher,
        "self_taught": trainer.stages.self_taught,
        "best_gap": trainer.stages.best[0] if trainer.stages.best is not None else None,
        "not_finite_steps": trainer.not_finite_steps,
        "peak_bytes": trainer.peak_bytes,
        "lr_scale": trainer.lr_scale,
        "snapshots": trainer.snapshots,
        "gradient_checkpointing": trainer.stages.gradient_checkpointing,
        "knobs": trainer.knobs.to_dict(),
        "changes": trainer.knobs.history(),
        "evaluations": [asdict(row) for row in trainer.evaluations],
    }
