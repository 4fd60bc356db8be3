"""One training run that may happen: what it declares, how it learns, and what disturbs it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from autotuner.knobs import KnobDeclaration, declare
from autotuner.messages import Declaration
from autotuner_envs.calibration import Calibration, load
from autotuner_envs.curves import Curve, Distillation
from autotuner_envs.machine import MOST_EVALUATIONS, QUALITY_EVERY, EvaluationCost, MemoryCost, StepCost

BATCH = 64
FULL = 28
_UNLIMITED = 2**40


@dataclass(frozen=True, slots=True)
class HeatSetting:
    """Which machine heats up, and how compressed its time is."""

    profile: str
    ambient_celsius: float = 24.0
    time_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Span:
    """Something that lasts from ``start`` to ``end`` (seconds of the run), with a strength."""

    start: float
    end: float
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """From ``start`` seconds on, other programs leave this much to the run."""

    start: float
    limit_bytes: float


@dataclass(frozen=True)
class Scenario:
    """One training run that may happen: what it declares, how it learns, and what disturbs it."""

    family: str
    seed: int
    declaration: Declaration
    budget_seconds: float
    step: StepCost
    memory: MemoryCost
    evaluation: EvaluationCost
    curve: Curve
    distillation: Distillation
    image_scale: float
    """Images per image of the recorded runs: a larger one learns slower and has the longer budget for it."""
    fixed: dict[str, float]
    """What the knobs stand at that the run does not declare."""
    total_bytes: float
    limits: tuple[MemoryLimit, ...]
    batch: int = BATCH
    full_resolution: int = FULL
    heat: HeatSetting | None = None
    step_noise: float = 0.03
    leak_bytes_per_second: float = 0.0
    gaps: tuple[Span, ...] = ()
    bursts: tuple[Span, ...] = ()
    density_efficiency: tuple[float, ...] = (1.0,)
    stages: int = 0
    """Distillation stages that the script's own learning-rate schedule leaves time for."""
    target: float = 0.0
    """Held-out loss that counts as good enough."""
    target_declared: bool = True
    """Whether the run says so: most people know no loss that would be good enough."""
    decisions: float = 60.0
    """Decisions in a budget: a run of minutes has few of them, one of a night has hundreds."""
    evaluations: int = 25
    """Held-out evaluations in a budget."""
    tells_heat: bool = True
    """Whether the sensors know a heat level; where they do not, only throughput shows it."""

    @property
    def interval_seconds(self) -> float:
        """Between two decisions."""
        return self.budget_seconds / self.decisions

    def limit(self, elapsed: float) -> float:
        """Bytes that the run may use at ``elapsed`` seconds without swapping."""
        current = self.limits[0].limit_bytes
        for limit in self.limits[1:]:
            if limit.start > elapsed:
                break
            current = limit.limit_bytes
        return current


LADDERS: dict[str, tuple[float, ...]] = {
    "resolution": (16, 20, 28),
    "micro_batch": (8, 16, 32, 64),
    "sampling_steps": (4, 8, 16, 32),
    "distill": (0, 1, 2),
    "pace": (0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    "lr_scale": (0.5, 0.71, 1.0, 1.41, 2.0),
    "timestep_density": (0, 1, 2),
}
"""The knobs as the simulated scripts offer them."""
_OTHER_LADDERS: dict[str, tuple[float, ...]] = {
    "resolution": (14, 20, 24, 28),
    "sampling_steps": (4, 8, 16),
    "pace": (0.5, 0.7, 0.85, 1.0),
    "lr_scale": (0.25, 0.5, 1.0, 2.0),
    "timestep_density": (0, 1, 2, 3),
}
"""Half of the scripts offer these instead."""
_STARTS: dict[str, float] = {
    "resolution": 28,
    "micro_batch": 64,
    "sampling_steps": 16,
    "distill": 0,
    "pace": 1.0,
    "cache_limit": _UNLIMITED,
    "lr_scale": 1.0,
    "timestep_density": 0,
}
_OFFERED: dict[str, float] = {
    "resolution": 0.95,
    "micro_batch": 0.95,
    "sampling_steps": 0.7,
    "distill": 0.85,
    "pace": 0.85,
    "cache_limit": 0.6,
    "lr_scale": 0.5,
    "timestep_density": 0.35,
}
"""How often a run declares each knob."""


def base(family: str, seed: int, random: np.random.Generator, calibration: Calibration | None = None) -> Scenario:
    """A calm run on a cool machine: calibrated, then varied in size, speed, difficulty and what it declares."""
    facts = calibration or load()
    budget = float(np.exp(random.uniform(math.log(150.0), math.log(1800.0))))
    speed = float(np.exp(random.uniform(math.log(0.5), math.log(2.0)))) * (budget / 300.0) ** 0.5
    memory_scale = float(np.exp(random.uniform(math.log(0.5), math.log(8.0))))
    step = replace(
        facts.step,
        pass_seconds=facts.step.pass_seconds * speed * float(np.exp(random.normal(0.0, 0.7))),
        image_seconds=facts.step.image_seconds * speed,
        exponent=facts.step.exponent * float(random.uniform(0.8, 1.2)),
        compile_seconds=facts.step.compile_seconds * float(random.uniform(0.5, 2.0)),
    )
    memory = replace(
        facts.memory,
        weight_bytes=facts.memory.weight_bytes * memory_scale,
        image_bytes=facts.memory.image_bytes * memory_scale * float(random.uniform(0.7, 1.4)),
    )
    evaluations = int(random.integers(12, MOST_EVALUATIONS + 1))
    share = float(np.exp(random.uniform(math.log(0.01), math.log(0.2))))
    evaluation = scaled(facts.evaluation, share * budget / plain_evaluations(facts.evaluation, evaluations))
    preview = evaluation.preview_step_seconds * float(np.exp(random.normal(0.0, 0.5)))
    images = budget / step.seconds(BATCH, BATCH, 1.0, 0) * BATCH
    difficulty = float(np.exp(random.uniform(math.log(0.25), math.log(1.5))))
    plain = memory.resident(0, 1) + memory.activations(BATCH, 1.0, 0)
    total = plain * float(random.uniform(2.5, 6.0))
    knobs = _knobs(random, plain)
    declared = {knob.name for knob in knobs}
    return Scenario(
        family=family,
        seed=seed,
        declaration=Declaration(
            run_id=f"{family}-{seed}", name=family, pid=1, pid_start=0.0, created_unix=0.0,
            knobs=knobs, framework="simulated", budget_seconds=budget, quality_metric="frechet_pca64",
        ),
        budget_seconds=budget,
        step=step,
        memory=memory if "cache_limit" in declared else replace(memory, cached_share=0.0),  # no knob, no cache
        evaluation=replace(evaluation, preview_step_seconds=preview),
        curve=_vary_curve(facts.curve, random),
        distillation=_vary_distillation(facts.distillation, random),
        image_scale=images / facts.budget_images * difficulty,
        fixed={name: value for name, value in _STARTS.items() if name not in declared},
        total_bytes=total,
        limits=(MemoryLimit(0.0, total),),
        step_noise=float(random.uniform(0.01, 0.06)),
        stages=2 if "distill" in declared else 0,
        decisions=float(np.exp(random.uniform(math.log(20.0), math.log(240.0)))),
        evaluations=evaluations,
        target_declared=bool(random.random() < 0.5),
        tells_heat=bool(random.random() < 0.75),
        density_efficiency=tuple(
            efficiency * (float(np.exp(random.normal(0.0, 0.1))) if i else 1.0)
            for i, efficiency in enumerate(facts.density_efficiency)
        ),
    )  # fmt: skip


def plain_evaluations(cost: EvaluationCost, count: int) -> float:
    """Seconds of ``count`` evaluations of a run whose previews take eight steps."""
    each = cost.held_out_seconds + 8 * cost.preview_step_seconds
    return count * (each + cost.quality_seconds / QUALITY_EVERY)


def scaled(cost: EvaluationCost, scale: float) -> EvaluationCost:
    """The same evaluations on a machine that takes ``scale`` times as long."""
    return EvaluationCost(cost.held_out_seconds * scale, cost.quality_seconds * scale, cost.preview_step_seconds * scale)


def _knobs(random: np.random.Generator, plain_bytes: float) -> tuple[KnobDeclaration, ...]:
    offered = {name: float(random.random()) < share for name, share in _OFFERED.items()}
    knobs = []
    for name, ladder in LADDERS.items():
        if offered[name]:
            start = _STARTS[name]
            if name in _OTHER_LADDERS and random.random() < 0.5:
                ladder = _OTHER_LADDERS[name]
            values = tuple(v for v in ladder if v == start or name in ("distill", "resolution") or random.random() < 0.85)
            knobs.append(declare(name, start, values))
    if offered["cache_limit"]:
        sizes = [float(int(plain_bytes * share)) for share in (0.0, 0.25, 0.5, 2.0)]
        knobs.append(declare("cache_limit", sizes[-1], sizes))
    return tuple(knobs)


def _vary_curve(curve: Curve, random: np.random.Generator) -> Curve:
    def around(value: float, deviation: float) -> float:
        return value * float(np.exp(random.normal(0.0, deviation)))

    # Recorded: one script, at a rate chosen to be good and with coarse images worth as much as full ones at first. The rate of
    # others may be too low or too high, and their coarse images worth less: both are assumed. Around what was recorded: an
    # image loses 5 % of its worth an octave above the script's rate by the slope, and 8 % by the curvature.
    curvature = float(np.exp(random.uniform(math.log(0.03), math.log(0.2))))
    return replace(
        curve,
        coarse=around(curve.coarse, 0.1),
        coarse_images=around(curve.coarse_images, 0.3),
        fine=around(curve.fine, 0.15),
        fine_images=around(curve.fine_images, 0.3),
        efficiency_exponent=abs(float(random.normal(curve.efficiency_exponent, 0.3))),
        fine_exponent_of_ratio=around(curve.fine_exponent_of_ratio, 0.2),
        gap=around(curve.gap, 0.3),
        return_images=around(curve.return_images, 0.3),
        rate_curvature=curvature,
        best_octaves=float(random.normal(-0.05, 0.15)) / (2 * curvature),
    )


def _vary_distillation(distillation: Distillation, random: np.random.Generator) -> Distillation:
    shift = float(random.uniform(0.7, 1.05))  # downwards: the recorded students had minutes to learn
    return replace(
        distillation,
        floors=tuple(floor * shift for floor in distillation.floors),
        images=distillation.images * float(np.exp(random.normal(0.0, 0.3))),
    )
