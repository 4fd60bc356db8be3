"""The training of one run of stage S2, in a process of its own: ``python -m benchmarks.closed_loop_training SPEC.json``.

The trainer, its hook and its slowdown by injected readings are the product's; only the start values, the script's own plan of
and what is written at the end are the benchmark's.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from autotuner.diffusion import data, launch, presets
from autotuner.diffusion.config import TrainerConfig
from autotuner.diffusion.injection import Injection
from autotuner.diffusion.plain import finite
from autotuner.diffusion.trainer import Trainer
from autotuner.knobs import KnobDeclaration, declare

RESULT = "training.json"
NEVER = 10**6
"""Evaluations between two qualities while it trains: in a minute they would take a quarter of every arm's time."""


@dataclass(frozen=True)
class Spec:
    """What one training is told."""

    preset: str
    seconds: float
    seed: int
    start: dict[str, float]
    """Knob values of the first step."""
    coarse_until: float
    """Share of the budget at the lowest resolution, by the script's own plan."""
    sampling_ladder: list[int]
    enough: float
    """Held-out loss at which the run may end: its time to the target is known (0: it goes on to its budget)."""
    state: str
    """State directory that the hook writes to; without a daemon nobody answers there."""
    injected: str
    out: str

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self)))


def started(config: TrainerConfig, start: dict[str, float]) -> TrainerConfig:
    """The configuration with every knob declared to start where ``start`` says, also those that have no setting."""

    class Started(TrainerConfig):
        def declarations(self) -> dict[str, KnobDeclaration]:
            declared = super().declarations()
            return {name: declare(name, start.get(name, row.values[row.start]), row.values) for name, row in declared.items()}

    return Started(**vars(config))


class Sleep:
    """Sleeps, and counts how long: what is left of the wall time is the processor's, or somebody else's."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, seconds: float) -> None:
        """Sleep."""
        began = time.monotonic()
        time.sleep(seconds)
        self.seconds += time.monotonic() - began


class Probe:
    """Processor seconds of the held-out measurement: the same work in every arm, so it tells how fast the machine was."""

    def __init__(self, trainer: Trainer) -> None:
        self.seconds: list[float] = []
        self._measure = trainer.evaluator.held_out_losses
        trainer.evaluator.held_out_losses = self._timed

    def _timed(self) -> Any:
        began = time.process_time()
        losses = self._measure()
        self.seconds.append(time.process_time() - began)
        return losses

    @property
    def typical(self) -> float:
        """The median, without those that were only looked up because nothing was learned since."""
        return median([took for took in self.seconds if took > max(self.seconds) / 10])


def train(spec: Spec) -> dict[str, Any]:
    """Train until the loss is low enough or the budget ends, measure once more outside it, and return what there is to tell."""
    dataset = data.find(None)
    fitted = presets.fitted(presets.find(spec.preset), dataset)
    config = replace(fitted, seconds=spec.seconds, seed=spec.seed, sampling_ladder=tuple(spec.sampling_ladder))
    config = replace(config, student_ladder=(), quality_every=NEVER)  # no arm distils: the metric is the teacher's loss
    if spec.coarse_until:
        coarse = {"form": "progressive", "share": spec.coarse_until, "rungs": config.resolutions[:1]}
        config = replace(config, multires=coarse)
    config = started(config, spec.start)
    config, run = launch.attached(config, dataset, state_directory=Path(spec.state), keep_architecture=True)
    sleep = Sleep()
    with run:
        trainer = Trainer(config, dataset, run, out=Path(spec.out), injection=Injection(Path(spec.injected)), sleep=sleep)
        probe = Probe(trainer)
        trainer.restore_knobs(trainer.knobs.to_dict(), [])
        trainer.lr_scale = trainer.knobs["lr_scale"]  # a script that starts there does not ramp to it
        processor = time.process_time()
        for _ in trainer.steps():
            if trainer.evaluations and trainer.evaluations[-1].held_out_loss <= spec.enough:
                trainer.stop()
        seconds, processor = trainer.seconds, time.process_time() - processor
        last = trainer.evaluate(with_quality=True)
    few = config.quality_steps
    return {
        "seconds": seconds,
        "steps": trainer.step,
        "images": trainer.images,
        "curve": [(round(e.seconds, 3), e.step, e.held_out_loss, e.stage) for e in trainer.evaluations[:-1]],
        "held_out_loss": last.held_out_loss,
        "teacher_quality": trainer.evaluator.quality("teacher", few),
        "quality_metric": f"{trainer.evaluator.features.metric}, {few} steps",
        "not_finite_steps": trainer.not_finite_steps,
        "peak_bytes": trainer.peak_bytes,
        "knobs": trainer.knobs.to_dict(),
        "knob_changes": trainer.knobs.history(),
        "injected_seconds": trainer.injection.seconds if trainer.injection else 0.0,
        "slept_seconds": sleep.seconds,
        "processor_seconds": processor,
        "probe_seconds": probe.typical,
        "evaluation_seconds": sum(e.took_seconds for e in trainer.evaluations[:-1]),
        "mlx": version("mlx"),
        "data": dataset.origin.split(" from ")[0],
    }


def main() -> None:
    """Train as the file says; the result is beside the run's pictures."""
    spec = Spec(**json.loads(Path(sys.argv[1]).read_text()))
    document = train(spec)
    (Path(spec.out) / RESULT).write_text(json.dumps(finite(document), allow_nan=False))


if __name__ == "__main__":
    main()
