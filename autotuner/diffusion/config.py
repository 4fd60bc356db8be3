"""What a training can be told: one frozen dataclass, checked at the door, and the knobs that it offers."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any

from autotuner.diffusion import multires as forms
from autotuner.diffusion import typed
from autotuner.diffusion.distillation.gate import Gate
from autotuner.errors import ConfigurationError
from autotuner.knobs import KnobDeclaration, declare

NETWORKS = ("dit", "unet", "unet2d", "dit2d", "stable_diffusion")
"""Rows of ``networks.NETWORKS``."""
EMAS = ("half_life", "power")
STAGE_RULES = ("gated", "equal")
RANGES: dict[str, tuple[float, float]] = {
    "batch": (1, 2**16),
    "sampling_steps": (1, 1000),
    "quality_steps": (1, 1000),
    "quality_images": (2, 2**20),
    "paired_images": (0, 2**20),
    "held_out_images": (1, 2**20),
    "quality_every": (1, 2**40),
    "evaluate_every_steps": (1, 2**40),
    "evaluate_every_seconds": (1e-3, 1e9),
    "learning_rate": (0, 10),
    "student_learning_rate": (0, 10),
    "half_life_images": (1, 1e12),
    "label_dropout": (0, 1),
    "teacher_share": (0, 1),
    "addim_eta": (0, 1),
    "guidance": (0, 100),
    "ema_snapshots": (1, 4096),
    "beta_1": (0, 0.9999),
    "beta_2": (0, 0.999999),
    "weight_decay": (0, 10),
    "max_norm": (1e-6, 1e9),
    "warm_up": (0, 1),
    "warm_up_steps": (0, 2**40),
    "sigma_min": (1e-6, 1e6),
    "sigma_max": (1e-6, 1e6),
    "max_shapes": (1, 64),
    "seed": (0, 2**40),
}
"""Least and largest value of each number; None passes where the type allows it."""


def choices() -> dict[str, Collection[str]]:
    """The fields that name a row of a table, with the names they may have."""
    from autotuner.diffusion.betas import BETAS
    from autotuner.diffusion.distillation.objectives import DISTANCES, OBJECTIVES, WEIGHTS
    from autotuner.diffusion.distillation.segments import CLOCKS
    from autotuner.diffusion.features import CHOICES
    from autotuner.diffusion.loss import WEIGHTINGS
    from autotuner.diffusion.precision import PRECISIONS
    from autotuner.diffusion.precondition import PROCESSES
    from autotuner.diffusion.solvers import SOLVERS

    return {
        "network": NETWORKS,
        "solver": SOLVERS,
        "process": PROCESSES,
        "beta_schedule": BETAS,
        "weighting": WEIGHTINGS,
        "precision": PRECISIONS,
        "ema": EMAS,
        "quality_features": CHOICES,
        "objective": OBJECTIVES,
        "student_clock": CLOCKS,
        "student_weighting": WEIGHTS,
        "student_distance": DISTANCES,
        "stage_rule": STAGE_RULES,
    }


@dataclass(frozen=True)
class TrainerConfig:
    """Everything about one training but its images and its hook."""

    name: str = "diffusion"
    network: str = "dit"
    model: dict[str, Any] = field(default_factory=lambda: {"width": 64, "depth": 4, "mlp_ratio": 2})
    """Architecture parameters, as declared to the search."""
    fixed: dict[str, Any] = field(default_factory=lambda: {"heads": 2, "patch": 4, "attention": "relu"})
    """Architecture parameters that are not searched."""
    batch: int = 64
    """Images of one optimizer step, whatever the micro-batch."""
    resolution: int = 28
    resolutions: tuple[int, ...] = (16, 20, 28)
    micro_batch: int = 64
    micro_batches: tuple[int, ...] = (8, 16, 32, 64)
    sampling_steps: int = 8
    sampling_ladder: tuple[int, ...] = (4, 8, 16)
    student_ladder: tuple[int, ...] = (8, 4)
    """Sampling steps of the student in distillation stage 1, 2, ..."""
    cache_limit: int = 2**30
    cache_limits: tuple[int, ...] = (2**26, 2**28, 2**30)
    pace: float = 1.0
    seconds: float | None = 150.0
    """Wall time of the training, evaluations included; the final evaluation comes after it."""
    steps: int | None = None
    """Optimizer steps after which it ends, if that comes first; a file that bounds only them has no ``seconds``."""
    learning_rate: float = 3e-3
    student_learning_rate: float = 3e-4
    """Peak of each distillation stage, in which it falls to nearly nothing."""
    student_model: dict[str, Any] = field(default_factory=dict)
    """Architecture parameters in which the student differs from its teacher, e.g. a smaller width or depth."""
    teacher_share: float = 0.7
    """Share of the budget in which only the teacher learns; what is left is the students'."""
    objective: str = "distil"
    """What a student minimises: a row of ``distillation.objectives.OBJECTIVES``."""
    student_clock: str = "cosine"
    """How time is cut into the student's segments: a row of ``distillation.segments.CLOCKS``."""
    teacher_gap: tuple[int, ...] = (16, 64)
    """Teacher steps on the whole path at the beginning and at the end of a stage."""
    student_weighting: str = "edm"
    """Weight on a student's squared error: a row of ``distillation.objectives.WEIGHTS``."""
    student_distance: str = "squared"
    """``squared`` or ``pseudo_huber``, which counts large errors less."""
    addim_eta: float = 0.0
    """Share of the teacher's error that adjusted DDIM makes up for in variance; for four student steps and more."""
    guidance: float = 1.0
    """Scale of classifier-free guidance for the teacher; the student learns it and needs no second evaluation. 1: none."""
    stage_rule: str = "gated"
    """``gated``: a stage ends when its student is as good as its teacher, and no later than under ``equal`` parts."""
    gate: dict[str, Any] = field(default_factory=dict)
    """Bounds of ``gated``: fields of ``distillation.gate.Gate``."""
    half_life_images: float = 20_000
    ema: str = "half_life"
    """What is evaluated: ``half_life`` or the ``power``-function average, which also keeps snapshots for post-hoc EMA."""
    ema_snapshots: int = 32
    """How many snapshots of power-function averages are spread over the budget."""
    beta_1: float = 0.9
    beta_2: float = 0.99
    weight_decay: float = 0.01
    max_norm: float = 1.0
    """Gradients are clipped to this Euclidean norm."""
    warm_up: float = 0.02
    """Share of the teacher's budget in which the learning rate rises; ``warm_up_steps`` counts steps instead."""
    warm_up_steps: int | None = None
    precision: str = "float32"
    """Of weights and activations in the forward and backward pass; master weights and moments are float32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    label_dropout: float = 0.1
    process: str = "edm"
    """A row of ``precondition.PROCESSES``."""
    beta_schedule: str = "linear"
    """Of the variance-preserving processes; a row of ``betas.BETAS``."""
    weighting: str = "edm"
    """A row of ``loss.WEIGHTINGS``; the held-out measurement does not depend on it."""
    sigma_min: float = 0.02
    sigma_max: float = 40.0
    solver: str = "ipndm"
    quality_steps: int = 4
    quality_images: int = 256
    quality_features: str = "pca64"
    """Of the distance while it trains; ``classifier`` where a trained network knows the dataset, else ``pca64``."""
    paired_images: int = 32
    """Images of the paired error at the end, which asks the network some 200 times for each; 0 leaves it out."""
    held_out_images: int = 256
    evaluate_every_seconds: float | None = None
    """None: a twenty-fifth of ``seconds``."""
    evaluate_every_steps: int | None = None
    """Counts steps instead of seconds, for runs that must repeat exactly."""
    quality_every: int = 3
    """Every how many evaluations the few-step quality is measured."""
    max_shapes: int = 8
    """Most pairs of resolution and micro-batch ever: each costs a trace and memory that is not given back."""
    multires: dict[str, Any] = field(default_factory=dict)
    """How several resolutions are used: fields of ``multires.Multires``; empty: full resolution always."""
    seed: int = 0

    def __post_init__(self) -> None:
        typed.check(vars(self), TrainerConfig)
        for name, allowed in choices().items():
            if getattr(self, name) not in allowed:
                raise ConfigurationError(f"{name} {getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigurationError(f"{name} {value!r}; allowed is {low:g} to {high:g}")
        ladder = self.student_ladder
        checks = (
            (self.seconds is not None or self.steps is not None, "neither seconds nor steps bounds the training"),
            (self.seconds is None or 0 < self.seconds < math.inf, f"seconds {self.seconds!r}; allowed is a positive number"),
            (self.steps is None or self.steps > 0, f"steps {self.steps!r}; allowed is a positive number"),
            (self.resolution in self.resolutions, f"resolution {self.resolution} is not on its ladder {self.resolutions}"),
            (
                self.micro_batch in self.micro_batches,
                f"micro_batch {self.micro_batch} is not on its ladder {self.micro_batches}",
            ),
            (
                all(s > 0 for s in ladder) and list(ladder) == sorted(set(ladder), reverse=True),
                f"student_ladder {ladder!r}; allowed are whole numbers of sampling steps, each smaller than the one before",
            ),
            (
                len(self.teacher_gap) == 2 and 1 <= self.teacher_gap[0] <= self.teacher_gap[1],
                f"teacher_gap {self.teacher_gap!r}; allowed are two whole numbers from 1 on, the second no smaller",
            ),
            (
                self.sigma_min < self.sigma_max,
                f"sigma_min {self.sigma_min!r}; allowed is less than sigma_max {self.sigma_max!r}",
            ),
            (
                all(m > 0 and self.batch % m == 0 for m in self.micro_batches),
                f"micro_batches {self.micro_batches!r}; allowed are divisors of the batch of {self.batch}",
            ),
        )
        for passed, message in checks:
            if not passed:
                raise ConfigurationError(message)
        self._check_drawn_levels()
        self._check_networks()
        typed.check(self.gate, Gate, "gate.")
        Gate(**self.gate)
        coarse = self.fixed.get("coarse_patch")
        forms.check(self.planned_views, self.network, self.unit, coarse, self.batch, self.micro_batches)

    def _check_drawn_levels(self) -> None:
        """A variance-preserving process holds levels at the ends of its steps, the others would guess beyond what they saw."""
        from autotuner.diffusion.noise import reference

        highest = math.exp(reference(self.process, self.beta_schedule).high)
        if not self.process.startswith("vp_") and self.sigma_max > highest * (1 + 1e-9):
            raise ConfigurationError(
                f"sigma_max {self.sigma_max!r}; the highest level that {self.process!r} is trained on is {highest:g}"
            )

    def _check_networks(self) -> None:
        from autotuner.diffusion.networks import check, unit

        check(self.network, {**self.model, **self.fixed})
        check(self.network, self.student_model, "student_model")
        for name in self.student_model:
            if name in self.fixed:
                raise ConfigurationError(f"student_model.{name}: {name} is fixed, for students too; allowed are the others")
        students = unit(self.network, {**self.model, **self.student_model, **self.fixed})
        if self.unit % students:
            raise ConfigurationError(
                f"student_model {self.student_model!r} divides edges by {students}; allowed are divisors of {self.unit}"
            )

    @property
    def unit(self) -> int:
        """What edges must be multiples of for this network."""
        from autotuner.diffusion.networks import unit

        return unit(self.network, {**self.model, **self.fixed})

    @property
    def levels(self) -> tuple[float, float]:
        """Lowest and highest noise level that teacher and students are sampled and distilled at; see ``sample.told_levels``."""
        from autotuner.diffusion.sample import told_levels

        return told_levels(self.process, self.beta_schedule, self.sigma_min, self.sigma_max)

    @property
    def bounds(self) -> Gate:
        """The bounds of ``gate``."""
        return Gate(**self.gate)

    @property
    def planned_views(self) -> forms.Multires:
        """The checked form of ``multires``."""
        return forms.configured(self.multires)

    @property
    def evaluation_interval(self) -> float | None:
        """Seconds between two evaluations; None when steps are counted."""
        if self.evaluate_every_steps is not None:
            return None
        if self.evaluate_every_seconds is not None:
            return self.evaluate_every_seconds
        return self.seconds / 25 if self.seconds is not None else 10.0

    def declarations(self) -> dict[str, KnobDeclaration]:
        """The knobs that this training honours, with their ladders; all take effect at the next optimizer step."""
        from autotuner.diffusion.noise import DENSITIES

        first = 1 if self.student_ladder and self.teacher_share == 0 else 0  # nobody trains a teacher that has no share
        ladders: dict[str, tuple[float, tuple[float, ...]]] = {
            "resolution": (self.resolution, forms.ladder(self.planned_views, self.resolution, self.resolutions, self.unit)),
            "micro_batch": (self.micro_batch, self.micro_batches),
            "sampling_steps": (self.sampling_steps, self.sampling_ladder),
            "distill": (first, tuple(range(first, len(self.student_ladder) + 1))),
            "pace": (self.pace, (0.5, 0.7, 0.85, 1.0)),
            "cache_limit": (self.cache_limit, self.cache_limits),
            "lr_scale": (1.0, (0.25, 0.5, 1.0, 2.0)),
            "timestep_density": (0, tuple(range(len(DENSITIES)))),
        }
        return {name: declare(name, start, values) for name, (start, values) in ladders.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)
