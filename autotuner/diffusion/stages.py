"""Teacher and student: who learns in which distillation stage, and from whom."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from autotuner.diffusion import ema
from autotuner.diffusion.blas import mx
from autotuner.diffusion.config import TrainerConfig
from autotuner.diffusion.distillation.inherit import inherit
from autotuner.diffusion.distillation.objectives import OBJECTIVES, segment_errors
from autotuner.diffusion.distillation.segments import CLOCKS, Times, times
from autotuner.diffusion.flat import Layout
from autotuner.diffusion.guidance import Guided
from autotuner.diffusion.loss import WEIGHTINGS, denoising_errors, to_model
from autotuner.diffusion.multires import Shown, View, merged
from autotuner.diffusion.networks import build_network
from autotuner.diffusion.noise import draw_sigma, importance, probabilities, reference, resolution_scale
from autotuner.diffusion.precondition import Denoiser, find_process
from autotuner.diffusion.step import Applied, Errors, Learner, Rule
from autotuner.errors import ConfigurationError

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
    return sum(array.size for _, array in tree_flatten(module.trainable_parameters()))


class Stages:
    """Stage 0 trains the teacher; stage k trains a student to sample in ``student_ladder[k - 1]`` steps."""

    def __init__(self, config: TrainerConfig, channels: int, classes: int, resolution: int, sigma_data: float) -> None:
        self._config = config
        self._shape = (channels, classes, resolution, sigma_data)
        self.full_resolution = resolution
        self.classes = classes
        self.stage = 0
        self.objective = config.objective
        """A row of ``objectives.OBJECTIVES``; ``set_objective`` changes it between two steps."""
        if config.student_ladder and config.student_model:
            self.new_student()  # what cannot be built is said now and not when distillation begins
        self.reference = reference(config.process, config.beta_schedule)
        self.teacher = Learner(self.new_denoiser(), _teacher_errors(config.weighting), rule=rule(config))
        self.student: Learner | None = None
        self.frozen: Denoiser | None = None
        """The teacher as it was when distillation began; none where the objective asks no teacher."""
        self.self_taught = False
        """Whether ``frozen`` is an earlier student: progressive distillation from its second stage on."""
        self.images = {"teacher": 0, "student": 0}
        self.student_of = -1
        self.gradient_checkpointing = False
        self.kept: dict[int, mx.array] = {}
        """The student's averaged weights that each stage left: the best that were measured in it, else the last."""
        self.best: tuple[float, mx.array] | None = None
        """Smallest gap that was measured in this stage, and the averaged weights that had it."""
        self.from_teacher = 1.0
        """Share of the teacher in the first answer of ``distil``, the rest is the image's: 0 is ``train`` again."""
        self._errors: dict[str, Errors] = {}
        self.set_density(0)

    def new_denoiser(self) -> Denoiser:
        """A denoiser of the teacher's architecture, its weights fresh."""
        return build(self._config, *self._shape)

    def new_student(self) -> Denoiser:
        """A denoiser of the student's architecture, its weights fresh."""
        model = {**self._config.model, **self._config.student_model}
        return build(replace(self._config, model=model), *self._shape)

    @property
    def data(self) -> dict[str, float]:
        """What besides the configuration a denoiser is built from."""
        return dict(zip(("channels", "classes", "resolution", "sigma_data"), self._shape, strict=True))

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

        A student that was kept continues unless its teacher has learned since. In progressive distillation the student of
        one stage is the teacher of the next.
        """
        if stage > 0 and self.stage == 0 and self.student_of != self.images["teacher"]:
            self.begin_student(self.teacher.averaged)
            self.images["student"] = 0
            self.student_of = self.images["teacher"]
        elif self.objective == "progressive" and stage > self.stage > 0 and self.student is not None:
            self.succeed(self.student.state.weights)
        self.stage, self.best = stage, None

    def forget_student(self) -> None:
        """As if no distillation had begun."""
        self.student = self.frozen = self.best = None
        self.self_taught, self.kept = False, {}

    def saw(self, gap: float) -> None:
        """The student as it is now was measured; a NaN is none."""
        if self.student is not None and self.stage and (self.best is None or gap < self.best[0]) and not math.isnan(gap):
            self.best = gap, self.student.averaged

    def keep(self) -> mx.array:
        """Keep the student of the present stage to fall back to; returns its weights. Raises LookupError."""
        if self.student is None or not self.stage:
            raise LookupError("there is no student yet")
        self.kept[self.stage] = self.best[1] if self.best is not None else self.student.averaged
        return self.kept[self.stage]

    def begin_student(self, teacher_weights: mx.array | None) -> Learner:
        """A new student that starts from, and learns of, a teacher with these weights.

        None: it will be restored, and the objective asks no teacher.
        """
        self.frozen, self.self_taught, self.kept = None, False, {}
        student = self.new_student()
        if teacher_weights is not None:
            inherit(student, dict(tree_flatten(self.teacher.layout.unpack(teacher_weights))))
            if self.objective != "train":
                self._freeze(teacher_weights)
        return self._learning(student)

    def succeed(self, student_weights: mx.array) -> Learner:
        """The student becomes the teacher of the next one, which starts where it stands (Salimans and Ho 2022, Algorithm 2)."""
        self.frozen, self.self_taught = self.new_student(), True
        follower = self.new_student()
        for denoiser in (self.frozen, follower):
            denoiser.update(Layout(denoiser).unpack(student_weights))
        return self._learning(follower)

    def _learning(self, student: Denoiser) -> Learner:
        self._errors = {}
        self.student = Learner(student, self._student_errors(), frozen=self.frozen, rule=rule(self._config))
        if self.gradient_checkpointing:
            self.student.set_gradient_checkpointing(True)
        return self.student

    def set_objective(self, objective: str) -> None:
        """What the student minimises from the next step on; its weights, optimizer and average go on.

        Raises ConfigurationError for an unknown one, and where a teacher is asked for that the student never had.
        """
        if objective not in OBJECTIVES:
            raise ConfigurationError(f"objective {objective!r}; allowed: {', '.join(OBJECTIVES)}")
        self.objective = objective
        if self.student is None:
            return
        if objective != "train" and self.frozen is None:
            if self.student_of != self.images["teacher"]:
                raise ConfigurationError(
                    f"objective {objective!r}: the student's teacher has learned on since; allowed is 'train'"
                )
            self._freeze(self.teacher.averaged)
        self.student.pursue(self._student_errors(), self.frozen if objective != "train" else None)

    def restore_student(self, weights: mx.array) -> None:
        """Put a student's earlier weights back; its optimizer goes on."""
        if self.student is None:
            raise LookupError("there is no student yet")
        state = self.student.state
        self.student.restore(state._replace(weights=weights, average=weights, profiles=(weights,) * len(state.profiles)))

    def _freeze(self, weights: mx.array) -> None:
        self.frozen = self.new_denoiser()
        self.frozen.update(self.teacher.layout.unpack(weights))

    def _student_errors(self) -> Errors:
        """The errors of the objective in force, always the same function for one student and teacher."""
        if self.objective not in self._errors:
            self._errors[self.objective] = partial(_segment_errors, self._teaching(), self.objective, self._config)
        return self._errors[self.objective]

    def _teaching(self) -> Callable[..., mx.array] | None:
        """The frozen teacher as the student hears it: guided, unless an earlier student has learned the guidance."""
        if self.frozen is None or self.objective == "train":
            return None
        return Guided(self.frozen, self.classes, 1.0 if self.self_taught else self._config.guidance)

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
        return [mx.ones((count,)), mx.array(images), label, noise, *self._draw_segments(count, keys, scale, teacher_steps)]

    def _draw_segments(self, count: int, keys: mx.array, scale: mx.array, teacher_steps: int) -> list[mx.array]:
        """Levels of a distillation step, and the settings of its objective: all arrays of shape (count,)."""
        config, progressive = self._config, self.objective == "progressive"
        first, second = mx.random.uniform(shape=(count,), key=keys[2]), mx.random.uniform(shape=(count,), key=keys[3])
        if progressive:  # from the top of each segment, in two teacher steps
            second, teacher_steps = mx.full((count,), 0.999), 2
        counts = mx.array(float(self.student_steps)), mx.array(float(teacher_steps))
        at = times(first, second, *counts, *config.levels, CLOCKS[config.student_clock])
        levels = [sigma * scale for sigma in (at.sigma_t, at.sigma_s, at.sigma_step)]
        return [*levels, mx.full((count,), self.from_teacher), mx.full((count,), config.addim_eta)]

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
        averaged = who == "teacher" or self.objective != "progressive"  # there the paper takes the weights as they are
        beta = ema.decay(self.images[who], batch, config.half_life_images) if averaged else 0.0
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


def _segment_errors(
    teacher: Callable[..., mx.array] | None,
    objective: str,
    config: TrainerConfig,
    student: nn.Module,
    images: mx.array,
    labels: mx.array,
    noise: mx.array,
    sigma_t: mx.array,
    sigma_s: mx.array,
    sigma_step: mx.array,
    from_teacher: mx.array,
    eta: mx.array,
) -> mx.array:
    return segment_errors(
        student,
        teacher,
        objective,
        to_model(images),
        labels,
        noise,
        Times(sigma_t, sigma_s, sigma_step),
        from_teacher,
        eta,
        config.student_weighting,
        config.student_distance,
    )
