"""With mx.compile on, as on Apple silicon: on a CPU the first traces call the C++ compiler, so this is slow."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from conftest import TINY
from dataclasses import replace
from autotuner.diffusion.blas import COMPILED
from autotuner.diffusion.data import Dataset
from autotuner.diffusion.trainer import Trainer

images = np.random.default_rng(0).integers(0, 255, (80, 8, 8, 1), np.uint8)
labels = (np.arange(80) % 2).astype(np.int32)
config = replace(TINY, steps=12, student_ladder=(8, 4), **json.loads(sys.argv[2]))
trainer = Trainer(config, Dataset("x", "made", images, labels, images, labels))
losses = []
plan = {3: ("lr_scale", 2.0), 4: ("timestep_density", 2), 5: ("micro_batch", 8), 6: ("micro_batch", 16)}
for progress in trainer.steps():
    losses.append(progress.loss)
    if progress.step in plan:
        trainer.set_knob(*plan[progress.step])
teacher, student = trainer.stages.teacher, trainer.stages.student
print(json.dumps({"compiled": COMPILED, "losses": losses, "teacher": list(teacher.signatures.values()),
                  "student": list(student.signatures.values())}))
"""


def run(compiled, **changes):
    environment = {**os.environ, "AUTOTUNER_MLX_COMPILE": "1" if compiled else "0"}
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), json.dumps(changes)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and sys.platform != "darwin", reason="MLX compiles CPU kernels with g++")
@pytest.mark.parametrize(
    "changes",
    [{}, {"precision": "float16", "ema": "power"}, {"process": "vp_v", "weighting": "min_snr", "gradient_checkpointing": True}],
)
def test_compiled_steps_learn_the_same_and_trace_once_for_each_shape(changes):
    plain, compiled = run(False, **changes), run(True, **changes)
    assert compiled["compiled"] is True
    assert compiled["losses"] == pytest.approx(plain["losses"], rel=1e-3)
    assert compiled["teacher"] == [1, 1]  # two micro-batch sizes; learning rate and density changed without a trace
    assert compiled["student"] == [1]  # student steps and teacher steps changed without a trace
    assert sum(plain["teacher"]) > 2
