"""An MLX loop of one's own, with micro-batch, pace and cache limit. Run: python examples/own_loop_mlx.py 20"""

import sys
import time
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_map

from autotuner.adapters.device_memory import mlx_memory
from autotuner.adapters.training import Training
from autotuner.hook import attach, knob

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
BATCH = 64
mx.random.seed(0)
stripes = mx.broadcast_to((mx.random.uniform(shape=(2048, 1, 16, 1)) > 0.5) * 2.0 - 1.0, (2048, 16, 16, 1))
model = nn.Sequential(nn.Conv2d(2, 24, 3, padding=1), nn.SiLU(), nn.Conv2d(24, 1, 3, padding=1))
optimizer = optim.AdamW(learning_rate=2e-3)


def loss_of(clean: mx.array, level: mx.array, noise: mx.array) -> mx.array:
    """Mean squared error of the predicted noise."""
    noisy = (1 - level) * clean + level * noise
    return mx.mean((model(mx.concatenate([noisy, mx.broadcast_to(level, clean.shape)], axis=-1)) - noise) ** 2)


@partial(mx.compile, inputs=model.state, outputs=model.state)
def gradients(clean: mx.array, level: mx.array, noise: mx.array) -> tuple:
    """Of one micro-batch; compiled once for each of the few shapes that the ladder allows."""
    return nn.value_and_grad(model, loss_of)(clean, level, noise)


run = attach(
    "own-loop-mlx",
    framework="mlx",
    knobs={
        "micro_batch": knob(64, [8, 16, 32, 64], "boundary"),
        "pace": knob(1.0, [0.5, 0.75, 1.0]),
        "cache_limit": knob(2**30, [2**26, 2**28, 2**30]),
    },
    budget_seconds=SECONDS,
    clear_cache=mx.clear_cache,
)
training = Training(run, memory=lambda: mlx_memory(mx), set_cache_limit=mx.set_cache_limit)
began = time.monotonic()
while time.monotonic() - began < SECONDS:
    batch = stripes[mx.random.randint(0, 2048, (BATCH,))]
    total, summed, size = 0.0, None, run.knobs.micro_batch
    share = size / BATCH
    for start in range(0, BATCH, size):  # accumulation keeps the effective batch
        clean = batch[start : start + size]
        level, noise = mx.random.uniform(shape=(size, 1, 1, 1)), mx.random.normal(clean.shape)
        loss, grads = gradients(clean, level, noise)
        summed = grads if summed is None else tree_map(mx.add, summed, grads)
        mx.eval(loss, summed)
        total += loss.item() * share
        training.rest()
    optimizer.update(model, tree_map(partial(mx.multiply, share), summed))
    mx.eval(model.parameters(), optimizer.state)
    training.stepped(total, BATCH)
run.close()
print(f"loss {total:.3f}; {training.summary}")
