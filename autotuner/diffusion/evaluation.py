"""What a run is judged by: held-out loss and few-step quality, on fixed images, noise and labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autotuner.diffusion import features
from autotuner.diffusion.config import TrainerConfig
from autotuner.diffusion.data import Dataset
from autotuner.diffusion.features import Features
from autotuner.diffusion.guidance import Guided
from autotuner.diffusion.held_out import HeldOut
from autotuner.diffusion.precondition import Denoiser
from autotuner.diffusion.quality.kernel import BLOCKS
from autotuner.diffusion.sample import evaluations, generate, solve, student_schedule, teacher_schedule, to_pixels
from autotuner.diffusion.stages import Stages

QUALITY_SEED = 11
CHOICE_SEED = 17
FEWEST_IMAGES = 2 * BLOCKS
"""With fewer real images than this no set of images is compared with another."""
PREVIEW_SEED = 7
PREVIEW_IMAGES = 16
PATHS, PATHS_SEED, EXACT_STEPS = 32, 29, 24
"""Noises of the paired gap, and the Heun steps that count as exact."""
REFERENCE_STEPS = 16
"""Of the teacher that a student is held against while it learns."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One evaluation. Quality is NaN when it was not measured this time."""

    step: int
    seconds: float
    images: int
    held_out_loss: float
    """Of the teacher's averaged weights: it stands still while a student learns."""
    quality: float
    quality_steps: int
    quality_of: str
    """``teacher`` or ``student``."""
    took_seconds: float
    stage: int
    gap: float = math.nan
    """Between the student in its own steps and its teacher, as ``distillation.gate.Gate.measure`` says: what the gate reads."""


def draw(
    denoiser: Denoiser | Guided,
    config: TrainerConfig,
    who: str,
    labels: np.ndarray,
    shape: tuple[int, int, int],
    steps: int,
    seed: int,
) -> np.ndarray:
    """uint8 images by the way that ``who`` samples: the teacher by the configured solver, the student by its segments."""
    return generate(denoiser, labels, shape, *way(config, who, steps), seed)


def way(config: TrainerConfig, who: str, steps: int, solver: str | None = None) -> tuple[np.ndarray, str]:
    """Noise levels and solver by which ``who`` samples; ``solver`` takes the place of the configured one."""
    if who == "teacher":
        return teacher_schedule(steps, *config.levels), solver or config.solver
    return student_schedule(steps, *config.levels, config.student_clock), solver or "euler"


def guided(denoiser: Denoiser, config: TrainerConfig, who: str, classes: int) -> Denoiser | Guided:
    """The denoiser as ``who`` samples with it: the teacher guided where the configuration says so, the student as it is."""
    return Guided(denoiser, classes, config.guidance) if who == "teacher" and config.guidance != 1 else denoiser


class Paths:
    """Root mean square errors against where a teacher's paths lead exactly, from a few fixed noises.

    Both teacher and student walk by DDIM on the student's grid.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._labels = evaluator.dataset.labels[evaluator.chosen(PATHS)]
        self._exact: np.ndarray | None = None
        self._teachers: dict[int, float] = {}
        self._of = -1

    def error(self, who: str, steps: int) -> float:
        """Of ``who`` in ``steps``; the teacher's are known after the first time, until it learns on."""
        if self._of != self._evaluator.stages.images["teacher"]:
            self._of, self._exact, self._teachers = self._evaluator.stages.images["teacher"], None, {}
        if who == "student":
            return self._error(who, steps)
        if steps not in self._teachers:
            self._teachers[steps] = self._error(who, steps)
        return self._teachers[steps]

    def _error(self, who: str, steps: int) -> float:
        evaluator = self._evaluator
        if self._exact is None:
            self._exact = evaluator.solutions("teacher", EXACT_STEPS, self._labels, PATHS_SEED, "heun")
        levels, solver = way(evaluator.config, "student", steps)
        found = solve(evaluator.sampler(who), self._labels, evaluator.shape, levels, solver, PATHS_SEED)
        return float(np.sqrt(np.mean(np.square(found - self._exact))))


class Evaluator:
    """Measures one pair of teacher and student."""

    def __init__(self, config: TrainerConfig, dataset: Dataset, stages: Stages) -> None:
        self.config = config
        self.dataset = dataset
        self.stages = stages
        self._probe = stages.new_denoiser()
        self._held_out = HeldOut(dataset, config.held_out_images)
        self._known: tuple[int, np.ndarray] | None = None
        self._reference: tuple[int, float] | None = None

    @cached_property
    def features(self) -> Features:
        """The feature space of the quality distance, fitted on training images."""
        return features.find(self.config.quality_features, self.dataset)

    @cached_property
    def floor(self) -> float:
        """Distance of as many real held-out images, NaN when there are fewer: no sampler can be expected below it."""
        if len(self.dataset.held_out_images) < self.quality_images:
            return math.nan
        return self.features.distance(self.dataset.held_out_images[: self.quality_images])

    @property
    def quality_images(self) -> int:
        """Samples of one quality: the configured number, lowered to the held-out images so that its floor has as many.

        It is not lowered below FEWEST_IMAGES: there is no floor then.
        """
        wanted, known = self.config.quality_images, len(self.dataset.held_out_images)
        return min(wanted, known) if known >= FEWEST_IMAGES else wanted

    def chosen(self, count: int) -> np.ndarray:
        """Indices of ``count`` training images, a random choice that is always the same; few images come more than once.

        Samples are asked for their labels, so that labels are as frequent among them as in the data.
        """
        return np.resize(np.random.default_rng(CHOICE_SEED).permutation(len(self.dataset.images)), count)

    @cached_property
    def paths(self) -> Paths:
        """Errors against the exact paths of the present teacher."""
        return Paths(self)

    def held_out_losses(self) -> np.ndarray:
        """Held-out loss in each noise bin; measured again only after the teacher has learned."""
        age = self.stages.images["teacher"]
        if self._known is None or self._known[0] != age:
            self.stages.teacher.show_average(self._probe)
            self._known = (age, self._held_out.losses(self._probe))
        return self._known[1]

    def held_out_losses_at(self, resolution: int) -> np.ndarray:
        """Held-out loss of the teacher in each noise bin at another resolution; compares only with that resolution."""
        if resolution == self.dataset.resolution:
            return self.held_out_losses()
        self.stages.teacher.show_average(self._probe)
        return HeldOut(self.dataset, self.config.held_out_images, resolution).losses(self._probe)

    def samples(self, who: str, steps: int, count: int, seed: int, sigmas: np.ndarray | None = None) -> np.ndarray:
        """uint8 images of the teacher (by the configured solver) or the student (by its own segments), labels as ``chosen``.

        ``sigmas`` takes the place of the grid that ``who`` has for as many steps.
        """
        labels = self.dataset.labels[self.chosen(count)]
        configured, solver = way(self.config, who, steps)
        return generate(self.sampler(who), labels, self.shape, configured if sigmas is None else sigmas, solver, seed)

    def solutions(self, who: str, steps: int, labels: np.ndarray, seed: int, solver: str | None = None) -> np.ndarray:
        """float32 images before rounding, one for each label; ``solver`` takes the place of the one that ``who`` has."""
        return solve(self.sampler(who), labels, self.shape, *way(self.config, who, steps, solver), seed)

    def as_data(self, solutions: np.ndarray) -> np.ndarray:
        """Solutions as the dataset has its images: uint8 pixels, or latents as they are."""
        return to_pixels(solutions) if self.dataset.images.dtype == np.uint8 else solutions

    def evaluations(self, who: str, steps: int, solver: str | None = None) -> int:
        """Network evaluations that one image of ``who`` takes in ``steps`` steps."""
        levels, name = way(self.config, who, steps, solver)
        return evaluations(name, levels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of what is sampled."""
        return self.dataset.resolution, self.dataset.resolution, self.dataset.channels

    def sampler(self, who: str) -> Denoiser | Guided:
        """The averaged weights of ``who`` as they are now, guided where the configuration says so. Raises LookupError."""
        if who == "teacher":
            self.stages.teacher.show_average(self._probe)
            return guided(self._probe, self.config, who, self.stages.classes)
        if self.stages.student is None:
            raise LookupError("there is no student yet")
        self.stages.student.show_average(self._student_probe)
        return self._student_probe

    @cached_property
    def _student_probe(self) -> Denoiser:
        return self.stages.new_student() if self.config.student_model else self._probe

    def quality(self, who: str, steps: int) -> float:
        """Frechet distance of ``quality_images`` samples from the training images."""
        labels = self.dataset.labels[self.chosen(self.quality_images)]
        return self.features.distance(self.as_data(self.solutions(who, steps, labels, QUALITY_SEED)))

    def measure(self, step: int, seconds: float, images: int, with_quality: bool) -> Evaluated:
        """One evaluation, its values plain numbers; ``took_seconds`` is left to who holds the clock."""
        loss = float(np.mean(self.held_out_losses()))
        who = "student" if self.stages.stage and self.stages.student else "teacher"
        steps = self.config.quality_steps
        quality = self.quality(who, steps) if with_quality else math.nan
        gap = self._gap(steps, quality) if who == "student" else math.nan
        return Evaluated(step, seconds, images, loss, quality, steps, who, math.nan, self.stages.stage, gap)

    def _gap(self, steps: int, quality: float) -> float:
        """See ``Evaluated.gap``; ``quality`` is the student's in ``steps``, which may be another number than its own."""
        own = self.stages.student_steps
        if self.config.bounds.measure == "paired":
            return self.paths.error("student", own) / self.paths.error("teacher", 2 * own)
        if math.isnan(quality):
            return math.nan
        found = quality if own == steps else self.quality("student", own)
        if self._reference is None or self._reference[0] != self.stages.student_of:
            self._reference = self.stages.student_of, self.quality("teacher", REFERENCE_STEPS)
        return found / self._reference[1]
