"""Teacher and student: who learns in which distillation stage, and from whom."""

from __future__ import annotations

import math
from collections.abc import Sequence

import mlx.nn as nn
import numpy as np

from autotuner.diffusion import ema
from autotuner.diffusion.blas import mx
from autotuner.diffusion.config import TrainerConfig
from autotuner.diffusion.distill import Times, consistency_errors, times
from autotuner.diffusion.loss import WEIGHTINGS, denoising_errors, to_model
from autotuner.diffusion.multires import Shown, View, merged
from autotuner.diffusion.networks import build_network
from autotuner.diffusion.noise import draw_sigma, importance, probabilities, reference, resolution_scale
from autotuner.diffusion.precondition import Denoiser, find_process
from autotuner.diffusion.step import Applied, Errors, Learner, Rule

OWN_NETWORKS = ("dit", "unet")
"""Take noise levels of order one; every other network takes timesteps."""


def build(config: TrainerConfig, channels: int, classes: int, resolution: int, sigma_data: float) -> Denoiser:
    """A new denoiser of the configured architecture; random weights follow ``config.seed``."""
    mx.random.seed(config.seed)
    process = find_process(config.process, config.beta_schedule)
    if config.network in OWN_NETWORKS:
        process = process.of_order_one()
    return Denoiser(build_network(config, channels, classes, resolution), sigma_data, process)


def rule(config: TrainerConfig) -> Rule:
    """The configured optimizer step."""
    sigma_rels = ema.SIGMA_RELS if config.ema == "power" else ()
    return Rule(config.beta_1, config.beta_2, config.weight_decay, config.max_norm, config.precision, sigma_rels)


def parameter_count(module: nn.Module) -> int:
    """Number of trained scalars."""
    from mlx.utils import tree_flatten

    return sum(array.size for _, array in tree_flatten(module.trainable_parameters()))


class Stages:
    """Stage 0 trains the teacher; stage k trains a student to sample in ``student_ladder[k - 1]`` steps."""

    def __init__(self, config: TrainerConfig, channels: int, classes: int, resolution: int, sigma_data: float) -> None:
        self._config = config
        self._shape = (channels, classes, resolution, sigma_data)
        self.full_resolution = resolution
        self.classes = classes
        self.stage = 0
        self.reference = reference(config.process, config.beta_schedule)
        self.teacher = Learner(self.new_denoiser(), _teacher_errors(config.weighting), rule=rule(config))
        self.student: Learner | None = None
        self.frozen = self.new_denoiser()
        """The teacher's average as it was when distillation began."""
        self.images = {"teacher": 0, "student": 0}
        self.student_of = -1
        self.gradient_checkpointing = False
        self.set_density(0)

    def new_denoiser(self) -> Denoiser:
        """A denoiser of the same architecture, its weights fresh."""
        return build(self._config, *self._shape)

    @property
    def learner(self) -> Learner:
        """Who learns in the present stage."""
        return self.teacher if self.stage == 0 or self.student is None else self.student

    @property
    def student_steps(self) -> int:
        """Sampling steps that the student learns, or last learned."""
        return self._config.student_ladder[max(self.stage, 1) - 1]

    def enter(self, stage: int) -> None:
        """Begin a stage: a student starts from the teacher's average; going back to 0 keeps it aside.

        A student that was kept continues unless its teacher has learned since.
        """
        if stage > 0 and self.stage == 0 and self.student_of != self.images["teacher"]:
            self.begin_student(self.teacher.averaged)
            self.images["student"] = 0
            self.student_of = self.images["teacher"]
        self.stage = stage

    def begin_student(self, teacher_weights: mx.array) -> Learner:
        """A new student that starts from, and learns of, a teacher with these weights."""
        weights = self.teacher.layout.unpack(teacher_weights)
        self.frozen.update(weights)
        student = self.new_denoiser()
        student.update(weights)
        self.student = Learner(student, _student_errors(self.frozen), frozen=self.frozen, rule=rule(self._config))
        if self.gradient_checkpointing:
            self.student.set_gradient_checkpointing(True)
        return self.student

    def set_gradient_checkpointing(self, on: bool) -> None:
        """Recompute activations in every backward pass from now on, or keep them. Raises ConfigurationError."""
        for learner in (self.teacher, self.student):
            if learner is not None:
                learner.set_gradient_checkpointing(on)
        self.gradient_checkpointing = on

    def set_density(self, index: int) -> None:
        """Draw noise levels from another row of ``noise.DENSITIES`` from now on."""
        self._cumulative = mx.array(np.cumsum(probabilities(index, self.reference)).astype(np.float32))
        self._importance = mx.array(importance(index, self.reference).astype(np.float32))

    def draw(self, images: np.ndarray, labels: np.ndarray, step: int, teacher_steps: int) -> list[mx.array]:
        """All randomness of one optimizer step, for the whole batch: micro-batches only slice it."""
        count, resolution = len(images), math.sqrt(images.shape[1] * images.shape[2])
        keys = mx.random.split(mx.random.key(self._config.seed * 1_000_003 + step), 4)
        kept = mx.random.uniform(shape=(count,), key=keys[0]) >= self._config.label_dropout
        label = mx.where(kept, mx.array(labels.astype(np.int32)), self.classes)
        noise = mx.random.normal(images.shape, key=keys[1])
        scale = mx.array(resolution_scale(resolution, self.full_resolution))
        if self.stage == 0:
            sigma, weights = draw_sigma(keys[2], count, self._cumulative, self._importance, scale, self.reference)
            return [weights, mx.array(images), label, noise, sigma]
        first, second = mx.random.uniform(shape=(count,), key=keys[2]), mx.random.uniform(shape=(count,), key=keys[3])
        counts = mx.array(float(self.student_steps)), mx.array(float(teacher_steps))
        at = times(first, second, *counts, self._config.sigma_min, self._config.sigma_max)
        scaled = [sigma * scale for sigma in (at.sigma_t, at.sigma_s, at.sigma_step)]
        return [mx.ones((count,)), mx.array(images), label, noise, *scaled, mx.ones((count,))]

    def draw_views(self, shown: Sequence[Shown], labels: np.ndarray, step: int) -> list[list[mx.array]]:
        """As ``draw``, for the teacher and a batch cut into views: one noise level a picture, ascending over all of them."""
        count, ends = len(labels), np.cumsum([len(each.images) for each in shown])
        keys = mx.random.split(mx.random.key(self._config.seed * 1_000_003 + step), 4)
        kept = mx.random.uniform(shape=(count,), key=keys[0]) >= self._config.label_dropout
        label = mx.where(kept, mx.array(labels.astype(np.int32)), self.classes)
        sigma, weights = draw_sigma(keys[2], count, self._cumulative, self._importance, mx.array(1.0), self.reference)
        drawn = []
        for each, end, key in zip(shown, ends, mx.random.split(keys[1], len(shown)), strict=True):
            part = slice(end - len(each.images), end)
            scale = 1.0 if each.view.crop else resolution_scale(each.view.edge, self.full_resolution)
            noise = mx.random.normal(each.images.shape, key=key)
            centres = [] if each.centres is None else [mx.array(each.centres)]
            drawn.append([weights[part], mx.array(each.images), label[part], noise, sigma[part] * scale, *centres])
        return _together(drawn, [each.view for each in shown])

    def apply(self, learning_rate: float, batch: int) -> Applied:
        """End the optimizer step of whoever learns, from ``batch`` images."""
        who, config = "student" if self.learner is self.student else "teacher", self._config
        self.images[who] += batch
        beta = ema.decay(self.images[who], batch, config.half_life_images)
        return self.learner.apply(learning_rate, beta)


def _together(drawn: list[list[mx.array]], views: list[View]) -> list[list[mx.array]]:
    """The arrays of the views that make one pass, one after the other."""
    parts = iter(drawn)
    passes = []
    for whole in merged(tuple(views)):
        inside = [next(parts) for view in views if whole.begin <= view.begin < whole.end]
        passes.append([mx.concatenate(list(each)) for each in zip(*inside, strict=True)])
    return passes


def _teacher_errors(weighting: str) -> Errors:
    def errors(
        denoiser: nn.Module, images: mx.array, labels: mx.array, noise: mx.array, sigma: mx.array, *centres: mx.array
    ) -> mx.array:
        return denoising_errors(denoiser, to_model(images), labels, noise, sigma, WEIGHTINGS[weighting], centres)

    return errors


def _student_errors(frozen: nn.Module) -> Errors:
    def errors(
        student: nn.Module,
        images: mx.array,
        labels: mx.array,
        noise: mx.array,
        sigma_t: mx.array,
        sigma_s: mx.array,
        sigma_step: mx.array,
        from_teacher: mx.array,
    ) -> mx.array:
        at = Times(sigma_t, sigma_s, sigma_step)
        return consistency_errors(student, frozen, to_model(images), labels, noise, at, from_teacher)

    return errors
