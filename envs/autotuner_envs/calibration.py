"""The simulator's parameters: fitted to recorded runs by ``fitting``, kept as JSON, read here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from autotuner_envs.curves import Curve, Distillation
from autotuner_envs.machine import EvaluationCost, MemoryCost, StepCost

PATH = Path(__file__).with_name("calibration.json")


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the recordings say of one machine and model; every scenario varies it."""

    step: StepCost = field(default_factory=StepCost)
    memory: MemoryCost = field(default_factory=MemoryCost)
    evaluation: EvaluationCost = field(default_factory=EvaluationCost)
    curve: Curve = field(default_factory=Curve)
    distillation: Distillation = field(default_factory=Distillation)
    density_efficiency: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    """What an image is worth whose noise level comes from each density of the engine's table."""
    budget_images: float = 60_000.0
    """Images that a plain run sees in the recorded budget."""

    def to_document(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Calibration:
        """As JSON gave it."""
        distillation = dict(document["distillation"], floors=tuple(document["distillation"]["floors"]))
        return cls(
            StepCost(**document["step"]),
            MemoryCost(**document["memory"]),
            EvaluationCost(**document["evaluation"]),
            Curve(**document["curve"]),
            Distillation(**distillation),
            tuple(document["density_efficiency"]),
            document["budget_images"],
        )


@cache
def load(path: Path = PATH) -> Calibration:
    """The committed calibration."""
    return Calibration.from_document(json.loads(path.read_text(encoding="utf-8"))["parameters"])
