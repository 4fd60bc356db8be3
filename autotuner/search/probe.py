"""Train a few steps of a configuration and tell what each cost. Runs in a child process: it may well be killed for memory."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from autotuner.diffusion import recipe
from autotuner.diffusion.config import TrainerConfig
from autotuner.diffusion.inert import NoRun

NEVER = 2**39
"""Steps until the first evaluation: a probe makes none."""


def alone(config: TrainerConfig) -> TrainerConfig:
    """The configuration at its largest shape from the first step on, without evaluations and without an end."""
    return replace(config, multires={}, seconds=None, steps=NEVER, evaluate_every_steps=NEVER, evaluate_every_seconds=None)


def probe(path: Path, changes: Mapping[str, str], steps: int, seconds: float) -> dict[str, Any]:
    """At most ``steps`` steps, and no further one after ``seconds``."""
    import mlx.core as mx

    from autotuner.diffusion.trainer import Trainer

    dataset, config = recipe.read(path, changes).prepared()
    trainer = Trainer(alone(config), dataset, NoRun())
    done: list[dict[str, float]] = []
    began = time.monotonic()
    for progress in trainer.steps():
        done.append({"seconds": progress.step_seconds, "peak_bytes": progress.peak_bytes})
        if len(done) >= steps or time.monotonic() - began > seconds:
            break
    return {
        "steps": done,
        "parameters": trainer.stages.teacher.layout.size,
        "process_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "working_set_bytes": mx.device_info().get("max_recommended_working_set_size"),
    }


def main() -> None:
    """Arguments: the file, its changes as JSON, most steps, most seconds. One JSON object on the last line."""
    path, changes, steps, seconds = sys.argv[1:]
    found = probe(Path(path), json.loads(changes), int(steps), float(seconds))
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
