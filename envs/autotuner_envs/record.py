"""Records short pieces of real training for the simulator: costs of a step, learning curves, distillation.

Each piece is one small JSON file and is skipped when its file exists, so recording can be done in parts.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from autotuner.diffusion import data, presets
from autotuner.diffusion.data import Dataset
from autotuner.diffusion.progress import Progress
from autotuner.diffusion.trainer import Trainer

STEPS = 600
QUICK_STEPS = 30
EVALUATIONS = 25
_TIMED_STEPS = 4
_ROUNDS = 3
_NEVER = 10**9
PRESET = presets.find("fashion-tiny")


@dataclass(frozen=True)
class CurveRun:
    """One recorded learning curve: a phase at low resolution, then full; budgets are steps, whatever else the machine does."""

    name: str
    half: str
    """``fit`` or ``judge``: which half of the recordings it belongs to."""
    low_share: float = 0.0
    low_resolution: int = 28
    seed: int = 0
    distill_at: tuple[float, ...] = ()
    """Shares of the budget at which stages 1, 2, ... begin; empty trains the teacher alone."""
    lr_scale: float = 1.0
    density: int = 0
    repaired_at: float = 1.0
    """Share of the budget from which the learning-rate scale is 1 and the density the first."""


RUNS: tuple[CurveRun, ...] = (
    CurveRun("full", "fit"),
    CurveRun("full_again", "judge", seed=1),
    CurveRun("low16_long", "fit", 0.3, 16),
    CurveRun("low20_long", "judge", 0.3, 20, seed=1),
    CurveRun("low20_mid", "fit", 0.2, 20),
    CurveRun("low16_mid", "judge", 0.2, 16, seed=1),
    CurveRun("low16_most", "fit", 0.5, 16),
    CurveRun("low20_most", "judge", 0.5, 20, seed=1),
    CurveRun("low20_short", "fit", 0.1, 20),
    CurveRun("low16_short", "judge", 0.1, 16, seed=1),
    CurveRun("low20_long_again", "fit", 0.3, 20, seed=2),
    CurveRun("low16_long_again", "judge", 0.3, 16, seed=2),
    CurveRun("full_third", "fit", seed=2),
    CurveRun("rate_quarter", "fit", lr_scale=0.25),
    CurveRun("rate_double", "fit", lr_scale=2.0),
    CurveRun("rate_half", "judge", lr_scale=0.5, seed=1),
    CurveRun("rate_double_again", "judge", lr_scale=2.0, seed=1),
    CurveRun("rate_repaired", "judge", lr_scale=0.25, repaired_at=0.3, seed=1),
    CurveRun("distill_late", "fit", distill_at=(0.70, 0.85)),
    CurveRun("distill_early", "judge", distill_at=(0.40, 0.60), seed=1),
    CurveRun("density_low", "fit", density=1),
    CurveRun("density_high", "fit", density=2),
    CurveRun("density_uniform", "fit", density=3),
    CurveRun("density_low_again", "judge", density=1, seed=1),
    CurveRun("density_high_again", "judge", density=2, seed=1),
    CurveRun("density_uniform_again", "judge", density=3, seed=1),
    CurveRun("density_repaired", "judge", density=1, repaired_at=0.3, seed=1),
)


def header(command: str) -> dict[str, Any]:
    """How a trace was made; the machine by what matters, not by name."""
    return {
        "command": command,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores; step costs are processor seconds",
        "versions": {"python": platform.python_version(), "mlx": version("mlx"), "numpy": version("numpy")},
    }


def record_costs(dataset: Dataset) -> dict[str, Any]:
    """Seconds and bytes of a step for each shape, of an evaluation, and of a preview step."""
    trainer = Trainer(replace(PRESET, seconds=None, steps=_NEVER, evaluate_every_steps=_NEVER, max_shapes=64), dataset)
    steps = trainer.steps()
    config = trainer.config
    shapes = [(0, r, m) for r, m in itertools.product(config.resolutions, config.micro_batches)]
    shapes += [(1, r, max(config.micro_batches)) for r in config.resolutions]
    rounds = [[_cost_row(trainer, steps, *shape) for shape in shapes] for _ in range(_ROUNDS)]
    rows = [_merged(list(same)) for same in zip(*rounds, strict=True)]
    trainer.evaluate(True)  # fits the feature space once
    quality = _seconds(lambda: trainer.evaluator.quality("teacher", config.quality_steps))
    next(steps)
    trainer.set_knob("distill", 0)
    next(steps)
    held_out = _seconds(lambda: trainer.evaluate(False))
    preview = [_seconds(partial(trainer.evaluator.samples, "teacher", count, 16, 0)) for count in (4, 4, 16)]
    return {
        "kind": "costs",
        "batch": config.batch,
        "full_resolution": dataset.resolution,
        "model": config.model,
        "rows": rows,
        "held_out_seconds": held_out,
        "quality_seconds": quality,
        "preview_step_seconds": max(1e-4, (preview[2] - preview[1]) / 12),
    }


def _seconds(call: Callable[[], Any]) -> float:
    """Processor seconds, which a busy neighbour does not stretch; on one core and without naps they are the wall time."""
    began = time.process_time()
    call()
    return round(time.process_time() - began, 4)


def _cost_row(trainer: Trainer, steps: Iterator[Progress], stage: int, resolution: int, micro_batch: int) -> dict[str, Any]:
    for name, value in (("distill", stage), ("resolution", resolution), ("micro_batch", micro_batch)):
        trainer.set_knob(name, value)
    first = _seconds(lambda: next(steps))
    timed: list[Progress] = []
    seconds = [_seconds(lambda: timed.append(next(steps))) for _ in range(_TIMED_STEPS)]
    typical = min(seconds)
    return {
        "stage": stage,
        "resolution": resolution,
        "micro_batch": micro_batch,
        "step_seconds": round(typical, 5),
        "step_deviation": round(statistics.pstdev(seconds) / statistics.mean(seconds), 4),
        "compile_seconds": round(max(0.0, first - typical), 4),
        "peak_bytes": max(progress.peak_bytes for progress in timed),
        "active_bytes": timed[-1].active_bytes,
        "cache_bytes": timed[-1].cache_bytes,
    }


def _merged(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of several rounds: the fastest step is the one that others disturbed least."""
    fastest = min(rows, key=lambda row: row["step_seconds"])
    deviation = statistics.median(row["step_deviation"] for row in rows)
    memory = {name: rows[0][name] for name in ("peak_bytes", "active_bytes", "cache_bytes")}
    return {**fastest, **memory, "step_deviation": deviation, "compile_seconds": rows[0]["compile_seconds"]}


def record_run(dataset: Dataset, run: CurveRun, steps: int) -> dict[str, Any]:
    """Held-out loss, and quality where there is a student, over one short training."""
    ladder = (8, 4) if run.distill_at else ()
    config = replace(
        PRESET, seconds=None, steps=steps, student_ladder=ladder, evaluate_every_steps=max(1, steps // EVALUATIONS),
        quality_every=1 if ladder else _NEVER, seed=run.seed,
    )  # fmt: skip
    trainer = Trainer(config, dataset)
    points = []
    trainer.set_knob("lr_scale", run.lr_scale)
    trainer.set_knob("timestep_density", run.density)
    for progress in trainer.steps():
        used = progress.step / steps
        if used >= run.repaired_at:
            trainer.set_knob("lr_scale", 1.0)
            trainer.set_knob("timestep_density", 0)
        trainer.set_knob("resolution", run.low_resolution if used < run.low_share else dataset.resolution)
        if run.distill_at:
            trainer.set_knob("distill", float(sum(used >= share for share in run.distill_at)))
        if progress.evaluation is not None:
            points.append(_point(progress, used))
    return {
        "kind": "distillation" if run.distill_at else "curve",
        "name": run.name,
        "half": run.half,
        "seed": run.seed,
        "low_share": run.low_share,
        "low_resolution": run.low_resolution,
        "lr_scale": run.lr_scale,
        "density": run.density,
        "repaired_at": run.repaired_at,
        "full_resolution": dataset.resolution,
        "stages": len(ladder),
        "steps": steps,
        "batch": config.batch,
        "points": points,
    }


def _point(progress: Progress, used: float) -> dict[str, Any]:
    measured = progress.evaluation
    assert measured is not None, "only points with an evaluation are kept"
    quality = None if math.isnan(measured.quality) else round(measured.quality, 4)
    return {
        "budget_used": round(used, 5),
        "seconds": round(progress.seconds, 2),
        "images": progress.images,
        "resolution": progress.resolution,
        "stage": progress.stage,
        "held_out_loss": round(measured.held_out_loss, 6),
        "quality": quality,
    }


def record(directory: Path, command: str, quick: bool, only: str = "") -> list[str]:
    """Record every piece whose file does not exist yet; returns the names recorded."""
    dataset = data.find()
    steps = QUICK_STEPS if quick else STEPS
    pieces: dict[str, Callable[[], dict[str, Any]]] = {"costs": lambda: record_costs(dataset)}
    pieces |= {run.name: partial(record_run, dataset, run, steps) for run in RUNS}
    directory.mkdir(parents=True, exist_ok=True)
    recorded = []
    for name, piece in pieces.items():
        path = directory / f"{name}.json"
        if path.exists() or (only and name != only):
            continue
        document = {**header(command), "data": f"{dataset.name}: {dataset.origin}", **piece()}
        path.write_text(json.dumps(document, indent=None, separators=(",", ":")).replace('{"', '\n{"') + "\n", encoding="utf-8")
        recorded.append(name)
    return recorded
