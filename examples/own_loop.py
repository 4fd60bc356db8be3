"""The three lines in a training loop of one's own: a denoiser for digits, in NumPy. Run: python examples/own_loop.py

Start ``autotuner daemon`` in another terminal, and watch ``autotuner status``; without a daemon it trains just the same.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from autotuner.hook import attach, knob

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
BATCH = 256
rng = np.random.default_rng(0)
images = (rng.random((4096, 1, 8)) > 0.5) * np.ones((1, 8, 1)) * 2.0 - 1.0  # stripes of 8 x 8 pixels
images = images.reshape(len(images), 64)
w1, w2 = rng.normal(0, 0.1, (65, 128)), rng.normal(0, 0.1, (128, 64))


def gradients(clean: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Loss and gradients of one micro-batch: predict the clean image from a noisy one and its noise level."""
    sigma = np.exp(rng.normal(-1.0, 1.0, (len(clean), 1)))
    noisy = np.hstack([(clean + sigma * rng.normal(size=clean.shape)) / np.sqrt(1 + sigma**2), np.log(sigma)])
    hidden = np.maximum(noisy @ w1, 0.0)
    error = hidden @ w2 - clean
    d_hidden = (error @ w2.T) * (hidden > 0)
    return float((error**2).mean()), noisy.T @ d_hidden, hidden.T @ error


run = attach(
    "own-loop",
    knobs={"micro_batch": knob(256, [32, 64, 128, 256]), "pace": knob(1.0, [0.5, 0.75, 1.0])},
    budget_seconds=SECONDS,
)
CHECKPOINT = Path(tempfile.gettempdir()) / "own-loop.npz"


def save(asked):
    """Answers ``autotuner checkpoint own-loop``."""
    np.savez(CHECKPOINT, w1=w1, w2=w2)
    asked.done(CHECKPOINT)


def restore(asked):
    """Answers ``autotuner checkpoint own-loop --restore``."""
    path = asked.path or CHECKPOINT
    with np.load(path) as saved:
        w1[:], w2[:] = saved["w1"], saved["w2"]
    asked.done(path)


run.on_save(save)
run.on_restore(restore)
began, step = time.monotonic(), 0
while time.monotonic() - began < SECONDS:
    started = time.monotonic()
    batch = images[rng.integers(0, len(images), BATCH)]
    losses, g1, g2 = [], np.zeros_like(w1), np.zeros_like(w2)
    for i in range(0, BATCH, run.knobs.micro_batch):  # accumulation keeps the effective batch
        loss, d1, d2 = gradients(batch[i : i + run.knobs.micro_batch])
        losses.append(loss)
        g1 += d1
        g2 += d2
    w1 -= 1e-4 * g1
    w2 -= 1e-4 * g2
    busy = time.monotonic() - started
    time.sleep(busy * (1 / run.knobs.pace - 1))
    step += 1
    run.report(step, sum(losses) / len(losses), images=step * BATCH, step_seconds=time.monotonic() - started)
run.close()
print(f"{step} steps, loss {sum(losses) / len(losses):.3f}, knobs {run.knobs}")
