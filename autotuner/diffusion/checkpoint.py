"""A training on disk: one safetensors file, replaced at once, that holds every vector and, as JSON, everything else."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from autotuner.diffusion import adam, posthoc
from autotuner.diffusion.blas import mx
from autotuner.diffusion.config import TrainerConfig
from autotuner.diffusion.ema import SIGMA_RELS
from autotuner.diffusion.evaluation import Evaluated, draw
from autotuner.diffusion.flat import Layout
from autotuner.diffusion.posthoc import Snapshot
from autotuner.diffusion.stages import build
from autotuner.diffusion.step import Learner, State
from autotuner.diffusion.trainer import Trainer
from autotuner.errors import AutotunerError

FORMAT = "1"
FILE_NAME = "checkpoint.safetensors"
MUST_AGREE = ("network", "model", "fixed", "batch", "seed", "process", "beta_schedule", "precision", "ema")
"""Fields of the configuration that a checkpoint's vectors depend on."""
DEFAULTS = {field.name: field.default for field in fields(TrainerConfig)}
"""What a checkpoint from before a field existed was trained with."""


class CheckpointError(AutotunerError):
    """A checkpoint is missing, damaged, or of another model."""


def save(trainer: Trainer, path: Path) -> None:
    """Write the whole training; a kill at any moment leaves the previous file or the new one, never a part.

    Raises CheckpointError for a training that was interrupted within an optimizer step: the previous file stays.
    """
    learners = [learner for learner in (trainer.stages.teacher, trainer.stages.student) if learner is not None]
    if any(learner.torn for learner in learners):
        raise CheckpointError(
            f"{path}: not written, the training was interrupted within an optimizer step; the last file stands"
        )
    draft = path.with_name(f".{path.stem}.{os.getpid()}.safetensors")
    metadata = {"format": FORMAT, "state": json.dumps(_document(trainer))}
    mx.save_safetensors(str(draft), _vectors(trainer), metadata=metadata)
    with draft.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(draft, path)
    trainer.saved = True


def restore(trainer: Trainer, path: Path) -> None:
    """Continue a training of the same configuration from ``path``; raises CheckpointError."""
    vectors, document = read(path)
    config = json.loads(json.dumps(trainer.config.to_dict()))
    for name in MUST_AGREE:
        was = document["config"].get(name, DEFAULTS[name])
        if was != config[name]:
            raise CheckpointError(f"{path}: {name} was {was!r}, this training has {config[name]!r}")
    for name in ("name", "resolution", "channels", "classes"):
        was, now = document["data"][name], getattr(trainer.dataset, name)
        if was != now:
            raise CheckpointError(f"{path}: {name} of the images was {was!r}, this training has {now!r}")
    stages, ladder = trainer.stages, trainer.config.student_ladder
    if document["stage"] > len(ladder):
        raise CheckpointError(f"{path}: in distillation stage {document['stage']}; student_ladder {ladder!r} has no such stage")
    try:
        stages.teacher.restore(_state(vectors, "teacher"))
        if "student.weights" in vectors:
            stages.begin_student(vectors["frozen.weights"]).restore(_state(vectors, "student"))
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
    vectors, document = read(path)
    if f"{who}.average" not in vectors:
        raise CheckpointError(f"{path} holds no {who}")
    config = _configured(document)
    data = document["data"]
    denoiser = build(config, data["channels"], data["classes"], data["resolution"], data["sigma_data"])
    weights = _evaluated(vectors, who) if sigma_rel is None else _reconstructed(path, vectors, who, sigma_rel)
    denoiser.update(Layout(denoiser).unpack(weights))
    labels, shape = np.arange(count) % data["classes"], (data["resolution"], data["resolution"], data["channels"])
    return draw(denoiser, config, who, labels, shape, steps, seed)


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
    return TrainerConfig(**{name: _tuples(value) for name, value in document["config"].items() if name in known})


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _vectors(trainer: Trainer) -> dict[str, mx.array]:
    stages = trainer.stages
    vectors = _named("teacher", stages.teacher)
    if stages.student is not None:
        vectors |= _named("student", stages.student)
        vectors["frozen.weights"] = stages.teacher.layout.pack(stages.frozen.trainable_parameters())
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
        "not_finite_steps": trainer.not_finite_steps,
        "peak_bytes": trainer.peak_bytes,
        "lr_scale": trainer.lr_scale,
        "snapshots": trainer.snapshots,
        "gradient_checkpointing": trainer.stages.gradient_checkpointing,
        "knobs": trainer.knobs.to_dict(),
        "changes": trainer.knobs.history(),
        "evaluations": [asdict(row) for row in trainer.evaluations],
    }
