"""What a run is judged by: held-out loss and few-step quality, on fixed images, noise and labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autotuner.diffusion.config import TrainerConfig
from autotuner.diffusion.data import Dataset
from autotuner.diffusion.features import PrincipalComponents
from autotuner.diffusion.held_out import HeldOut
from autotuner.diffusion.precondition import Denoiser
from autotuner.diffusion.sample import generate, student_schedule, teacher_schedule
from autotuner.diffusion.stages import Stages

QUALITY_SEED = 11
PREVIEW_SEED = 7
PREVIEW_IMAGES = 16


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


def draw(
    denoiser: Denoiser, config: TrainerConfig, who: str, labels: np.ndarray, shape: tuple[int, int, int], steps: int, seed: int
) -> np.ndarray:
    """uint8 images by the way that ``who`` samples: the teacher by the configured solver, the student by its segments."""
    schedule = teacher_schedule if who == "teacher" else student_schedule
    solver = config.solver if who == "teacher" else "euler"
    return generate(denoiser, labels, shape, schedule(steps, config.sigma_min, config.sigma_max), solver, seed)


class Evaluator:
    """Measures one pair of teacher and student."""

    def __init__(self, config: TrainerConfig, dataset: Dataset, stages: Stages) -> None:
        self._config = config
        self._dataset = dataset
        self._stages = stages
        self._probe = stages.new_denoiser()
        self._held_out = HeldOut(dataset.held_out_images, dataset.held_out_labels, config.held_out_images)
        self._known: tuple[int, np.ndarray] | None = None

    @cached_property
    def features(self) -> PrincipalComponents:
        """The feature space of the quality distance, fitted on training images."""
        return PrincipalComponents(self._dataset.images)

    @cached_property
    def floor(self) -> float:
        """Distance that as many real held-out images have, NaN when there are fewer: no sampler can be expected below it."""
        if len(self._dataset.held_out_images) < self._config.quality_images:
            return math.nan
        return self.features.distance(self._dataset.held_out_images[: self._config.quality_images])

    def held_out_losses(self) -> np.ndarray:
        """Held-out loss in each noise bin; measured again only after the teacher has learned."""
        age = self._stages.images["teacher"]
        if self._known is None or self._known[0] != age:
            self._stages.teacher.show_average(self._probe)
            self._known = (age, self._held_out.losses(self._probe))
        return self._known[1]

    def samples(self, who: str, steps: int, count: int, seed: int) -> np.ndarray:
        """uint8 images of the teacher (by the configured solver) or the student (by its own segments)."""
        config, learner = self._config, self._stages.teacher if who == "teacher" else self._stages.student
        if learner is None:
            raise LookupError("there is no student yet")
        learner.show_average(self._probe)
        labels = np.arange(count) % self._stages.classes
        shape = (self._dataset.resolution, self._dataset.resolution, self._dataset.channels)
        return draw(self._probe, config, who, labels, shape, steps, seed)

    def quality(self, who: str, steps: int) -> float:
        """Frechet distance of ``quality_images`` samples from the training images."""
        return self.features.distance(self.samples(who, steps, self._config.quality_images, QUALITY_SEED))

    def measure(self, step: int, seconds: float, images: int, with_quality: bool) -> Evaluated:
        """One evaluation, its values plain numbers; ``took_seconds`` is left to who holds the clock."""
        loss = float(np.mean(self.held_out_losses()[: self._held_out.measured_bins]))
        who = "student" if self._stages.stage and self._stages.student else "teacher"
        steps = self._config.quality_steps
        quality = self.quality(who, steps) if with_quality else math.nan
        return Evaluated(step, seconds, images, loss, quality, steps, who, math.nan, self._stages.stage)
