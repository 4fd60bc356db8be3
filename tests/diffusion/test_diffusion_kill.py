"""A real process, killed at random moments of its saves: the last good checkpoint must be usable every time."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from autotuner.diffusion import checkpoint

PROGRAM = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from dataclasses import replace
import numpy as np
from conftest import TINY
from autotuner.diffusion import checkpoint
from autotuner.diffusion.blas import mx
from autotuner.diffusion.data import Dataset
from autotuner.diffusion.trainer import Trainer

def told(module, name):
    inner = getattr(module, name)
    def outer(*args, **kwargs):
        print("before", name, flush=True)
        result = inner(*args, **kwargs)
        print("after", name, flush=True)
        return result
    setattr(module, name, outer)

images = np.random.default_rng(0).integers(0, 255, (80, 8, 8, 1), np.uint8)
labels = (np.arange(80) % 2).astype(np.int32)
model = {"width": 128, "depth": 4, "mlp_ratio": 4}
config = replace(TINY, steps=100_000, batch=4, micro_batch=4, micro_batches=(4,), model=model)
trainer = Trainer(config, Dataset("x", "made", images, labels, images, labels))
path = Path(sys.argv[2])
if path.exists():
    checkpoint.restore(trainer, path)
print("from", trainer.step, flush=True)
told(mx, "save_safetensors"), told(os, "fsync"), told(os, "replace")
for progress in trainer.steps():
    checkpoint.save(trainer, path)
    print("saved", progress.step, progress.loss.hex(), flush=True)
"""


def killed(path, lines):
    """Run until it has printed so many lines, kill it there; returns where it resumed and the losses that it had saved."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        resumed = int(process.stdout.readline().split()[1])
        told = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        told += process.stdout.read().splitlines()
    assert process.returncode == -signal.SIGKILL
    saves = [line.split() for line in told if line.startswith("saved")]
    return resumed, {int(step): loss for _, step, loss in saves}


def kill_again_and_again(folder, times):
    chance = random.Random(4)
    path, losses, saved = folder / checkpoint.FILE_NAME, {}, 0
    for _ in range(times):
        resumed, found = killed(path, chance.randint(8, 30))  # a save prints seven lines
        assert resumed in (saved, saved + 1)  # a kill between the rename and its line: saved, but not yet told
        assert all(losses.get(step, loss) == loss for step, loss in found.items())
        losses |= found
        saved = max(losses)
        document = checkpoint.read(path)[1]
        assert document["step"] in (saved, saved + 1)
    assert len(losses) >= max(losses) - times  # every step is there but those whose line the kill swallowed
    assert len(list(folder.iterdir())) <= 2  # the checkpoint, and the draft that the last kill left


def test_a_process_killed_in_its_saves_resumes_from_the_last_good_one(tmp_path):
    kill_again_and_again(tmp_path, 2)


@pytest.mark.slow
def test_a_process_killed_twenty_times_in_its_saves_resumes_every_time(tmp_path):
    kill_again_and_again(tmp_path, 20)
