"""What is left of a training when it ends: sample grids at several step counts, and result.json."""

from __future__ import annotations

import json
import math
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from autotuner.diffusion.blas import status
from autotuner.diffusion.evaluation import Evaluated
from autotuner.diffusion.noise import DENSITIES
from autotuner.diffusion.plain import finite
from autotuner.diffusion.quality.report import report
from autotuner.diffusion.sample import save_grid
from autotuner.diffusion.trainer import Trainer
from autotuner.hook.files import SHARED, replace_text

FILE_NAME = "result.json"
GRID_STEPS = {"teacher": (2, 4, 8, 16, 32), "student": (2, 4, 8)}
GRID_IMAGES = 32
GRID_SEED = 3


def conclude(trainer: Trainer, out: Path) -> dict[str, Any]:
    """Measure once more, outside the budget, draw the grids and write result.json; returns its content."""
    seconds = trainer.seconds
    trainer.finish_student()
    last = trainer.evaluate(with_quality=True)
    document = summary(trainer, seconds, last)
    document["final_qualities"] = final_qualities(trainer)
    document["quality"] = report(trainer.evaluator).to_dict()
    document["grids"] = grids(trainer, out)
    replace_text(out / FILE_NAME, json.dumps(finite(document), indent=1, allow_nan=False), SHARED)
    return document


def summary(trainer: Trainer, seconds: float, last: Evaluated) -> dict[str, Any]:
    """Everything that a report needs of one run, as plain values; curves are rows of (seconds, step, images, value)."""
    config, stages = trainer.config, trainer.stages
    rows = trainer.evaluations
    return {
        "version": 1,
        "name": config.name,
        "finished": trainer.budget_used >= 1,
        "seconds": seconds,
        "steps": trainer.step,
        "images": trainer.images,
        "held_out_loss": last.held_out_loss,
        "held_out_losses_by_noise_bin": [float(value) for value in trainer.evaluator.held_out_losses()],
        "held_out_curve": [(row.seconds, row.step, row.images, row.held_out_loss) for row in rows],
        "quality_metric": trainer.evaluator.features.metric,
        "quality_images": trainer.evaluator.quality_images,
        "quality_floor": trainer.evaluator.floor,
        "live_schedule": {
            "looks": trainer.schedule.looks,
            "spent_seconds": trainer.schedule.spent_seconds,
            "grids": {str(steps): asdict(found) for steps, found in trainer.schedule.found.items()},
        },
        "quality_curve": [(row.seconds, row.step, row.images, row.quality) for row in rows if not math.isnan(row.quality)],
        "evaluations": [asdict(row) for row in rows],
        "knob_changes": trainer.knobs.history(),
        "knobs": trainer.knobs.to_dict(),
        "densities": [density.name for density in DENSITIES],
        "not_finite_steps": trainer.not_finite_steps,
        "peak_bytes": trainer.peak_bytes,
        "shapes": sorted([resolution, micro_batch, int(student)] for resolution, micro_batch, student in trainer.shapes),
        "injected": trainer.injection is not None,
        "injected_seconds": trainer.injection.seconds if trainer.injection is not None else 0.0,
        "parameters": stages.teacher.layout.size,
        "model": dict(config.model),
        "config": config.to_dict(),
        "data": {
            "name": trainer.dataset.name,
            "origin": trainer.dataset.origin,
            "training_images": len(trainer.dataset.images),
        },
        "versions": {"python": platform.python_version(), "mlx": version("mlx"), "numpy": version("numpy")},
        "blas": status().sentence,
        "platform": f"{platform.system()} {platform.machine()}",
    }


def final_qualities(trainer: Trainer) -> list[dict[str, Any]]:
    """Few-step quality of teacher and student beside the teacher with many steps."""
    few = trainer.config.quality_steps
    students = [few] if trainer.stages.student is not None else []
    measured = [("teacher", few), ("teacher", 16), *(("student", steps) for steps in students)]
    return [{"who": who, "steps": steps, "quality": trainer.evaluator.quality(who, steps)} for who, steps in measured]


def grids(trainer: Trainer, out: Path) -> list[dict[str, Any]]:
    """One PNG for each sampler and number of steps, all from the same noise."""
    written = []
    for who, counts in GRID_STEPS.items():
        if who == "student" and trainer.stages.student is None:
            continue
        for steps in counts:
            file = f"grid-{who}-{steps:02d}.png"
            save_grid(trainer.evaluator.samples(who, steps, GRID_IMAGES, GRID_SEED), str(out / file))
            written.append({"who": who, "steps": steps, "file": file})
    return written
