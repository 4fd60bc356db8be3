"""The full table of a model's quality: every measure for each number of steps, beside its noise floor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autotuner.diffusion import features
from autotuner.diffusion.data import Dataset
from autotuner.diffusion.evaluation import FEWEST_IMAGES, Evaluator
from autotuner.diffusion.features import Features
from autotuner.diffusion.quality import paired
from autotuner.diffusion.quality.classifier import Classifier
from autotuner.diffusion.quality.frechet import frechet_distance
from autotuner.diffusion.quality.kernel import BLOCKS, kernel_distance
from autotuner.diffusion.quality.neighbours import NEIGHBOURS, neighbourhood
from autotuner.diffusion.quality.sets import require_comparable

STEPS: dict[str, tuple[int, ...]] = {"teacher": (4, 16), "student": (4,)}
NOISE_SEED, PAIRED_SEED = 19, 23


@dataclass(frozen=True, slots=True)
class Distances:
    """How one set of pictures stands to as many training pictures; NaN where there were too few."""

    frechet: float
    kernel: float
    kernel_standard_error: float
    precision: float
    recall: float
    density: float
    coverage: float


@dataclass(frozen=True, slots=True)
class Row:
    """One sampler: who, in how many steps, and how good."""

    who: str
    steps: int
    evaluations: int
    """Of the network, for one image."""
    distances: Distances
    class_agreement: float
    """Share of samples that the classifier puts in the class they were asked for; NaN without classes."""
    paired_error: float
    """Root mean square difference from the teacher's converged solution, pixels in [-1, 1]; NaN where none was asked for."""
    paired_feature_error: float
    """The same in features, whose standard deviations are about 1 for a classifier."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The converged solutions that paired errors are measured from."""

    images: int
    solver: str
    steps: int
    evaluations: int
    change: float
    """Root mean square change from half the steps: no paired error below it means anything."""
    converged: bool


@dataclass(frozen=True)
class Report:
    """Everything that is measured of one model at one moment."""

    features: str
    """Name of the Frechet distance on these features."""
    images: int
    """Pictures of each kind that every distance compares."""
    floor: Distances
    """Of as many held-out pictures: no sampler can be expected beyond it."""
    rows: tuple[Row, ...]
    reference: Reference | None
    held_out_losses: dict[int, list[float]]
    """By resolution, in each noise bin; resolutions do not compare with each other."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with what the numbers depend on."""
        return {"neighbours": NEIGHBOURS, "kernel_blocks": BLOCKS, **asdict(self)}


def compare(generated: np.ndarray, real: np.ndarray) -> Distances:
    """All distances of two sets of features (count, dimensions).

    Raises ComparisonError unless the counts are equal; with fewer than FEWEST_IMAGES every value is NaN.
    """
    require_comparable(generated, real)
    if len(real) < FEWEST_IMAGES:
        return Distances(*[math.nan] * 7)
    kernel, near = kernel_distance(generated, real), neighbourhood(generated, real)
    distance = frechet_distance(generated, real)
    return Distances(distance, kernel.value, kernel.standard_error, near.precision, near.recall, near.density, near.coverage)


def report(
    evaluator: Evaluator,
    steps: Mapping[str, Sequence[int]] = STEPS,
    images: int | None = None,
    paired_images: int | None = None,
) -> Report:
    """Measure teacher and, where there is one, student for each number of steps.

    ``images`` (default: ``quality_images`` of the configuration) is lowered to the number of held-out pictures, so that
    every value has a floor of its own count. Samples are asked for the labels of the training pictures that they are
    compared with. ``paired_images`` (default: the configuration's) may be 0.
    """
    config, dataset = evaluator.config, evaluator.dataset
    images = min(images or config.quality_images, len(dataset.held_out_images), len(dataset.images))
    paired_images = config.paired_images if paired_images is None else paired_images
    space = features.find("classifier", dataset)
    chosen = evaluator.chosen(images)
    real, labels = space.project(dataset.images[chosen]), dataset.labels[chosen]
    exact = _converge(evaluator, labels[:paired_images]) if paired_images else None
    known = [who for who in steps if who == "teacher" or evaluator.stages.student is not None]
    return Report(
        features=space.metric,
        images=images,
        floor=compare(space.project(dataset.held_out_images[:images]), real),
        rows=tuple(_row(evaluator, space, real, labels, who, count, exact) for who in known for count in steps[who]),
        reference=_reference(evaluator, exact) if exact is not None else None,
        held_out_losses={
            resolution: [float(value) for value in evaluator.held_out_losses_at(resolution)]
            for resolution in sorted({*config.resolutions, dataset.resolution})
        },
    )


def evaluate_checkpoint(
    path: Path,
    dataset: Dataset,
    steps: Mapping[str, Sequence[int]] = STEPS,
    images: int | None = None,
    paired_images: int | None = None,
) -> Report:
    """The report of a checkpoint on the dataset it was trained on. Raises CheckpointError where they do not belong together."""
    from autotuner.diffusion import checkpoint
    from autotuner.diffusion.trainer import Trainer

    trainer = Trainer(checkpoint.configuration(path), dataset)
    checkpoint.restore(trainer, path)
    return report(trainer.evaluator, steps, images, paired_images)


def _row(
    evaluator: Evaluator,
    space: Features,
    real: np.ndarray,
    labels: np.ndarray,
    who: str,
    steps: int,
    exact: paired.Converged | None,
) -> Row:
    found = space.project(evaluator.as_data(evaluator.solutions(who, steps, labels, NOISE_SEED)))
    return Row(
        who,
        steps,
        evaluator.evaluations(who, steps),
        compare(found, real),
        _agreement(space, found, labels),
        *(_paired(evaluator, space, labels, who, steps, exact) if exact is not None else (math.nan, math.nan)),
    )


def _agreement(space: Features, found: np.ndarray, labels: np.ndarray) -> float:
    seen = space.classify(found) if isinstance(space, Classifier) else None
    return math.nan if seen is None else float((seen == labels).mean())


def _paired(
    evaluator: Evaluator, space: Features, labels: np.ndarray, who: str, steps: int, exact: paired.Converged
) -> tuple[float, float]:
    images = evaluator.solutions(who, steps, labels[: len(exact.images)], PAIRED_SEED)
    projected, converged = (space.project(evaluator.as_data(part)) for part in (images, exact.images))
    return paired.rms(images, exact.images), paired.feature_error(projected, converged)


def _converge(evaluator: Evaluator, labels: np.ndarray) -> paired.Converged:
    return paired.converge(lambda steps: evaluator.solutions("teacher", steps, labels, PAIRED_SEED, paired.SOLVER))


def _reference(evaluator: Evaluator, exact: paired.Converged) -> Reference:
    spent = evaluator.evaluations("teacher", exact.steps, paired.SOLVER)
    return Reference(len(exact.images), paired.SOLVER, exact.steps, spent, exact.change, exact.reached)
