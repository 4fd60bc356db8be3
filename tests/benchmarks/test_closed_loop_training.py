"""Stage S2's training: when it ends. Real steps of a tiny network, and a clock that moves only when somebody looks."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from autotuner.diffusion import data, presets
from autotuner.diffusion.config import TrainerConfig
from autotuner.diffusion.data import Dataset
from autotuner.diffusion.trainer import Trainer
from benchmarks import closed_loop_training
from benchmarks.closed_loop_training import Spec, train
from tests.diffusion.clock import Clock

SECONDS = 5.0
TINY = TrainerConfig(
    name="tiny",
    model={"width": 16, "depth": 1, "mlp_ratio": 2},
    fixed={"heads": 2, "patch": 2, "attention": "relu"},
    batch=8,
    micro_batch=8,
    micro_batches=(4, 8),
    evaluate_every_steps=3,
    quality_images=8,
    held_out_images=16,
    learning_rate=5e-3,
)


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """Train for at most SECONDS with ``enough``; what there is to tell."""
    generator = np.random.default_rng(5)
    images, labels = generator.integers(0, 256, (80, 8, 8, 1), dtype=np.uint8), np.arange(80, dtype=np.int32) % 2
    dataset = Dataset("noise", "made for tests", images[16:], labels[16:], images[:16], labels[:16])
    monkeypatch.setattr(data, "find", lambda _: dataset)
    monkeypatch.setitem(presets.PRESETS, "tiny", TINY)
    (tmp_path / "out").mkdir()

    def make(enough: float):
        monkeypatch.setattr(closed_loop_training, "Trainer", partial(Trainer, clock=Clock(tick=0.01)))
        state, injected = str(tmp_path / "state"), str(tmp_path / "injected.json")
        return train(Spec("tiny", SECONDS, 1, {}, 0.0, [4, 8], enough, state, injected, str(tmp_path / "out")))

    return make


def test_a_training_ends_at_the_first_evaluation_that_is_low_enough(trained):
    whole = trained(0.0)
    losses = [row[2] for row in whole["curve"]]
    assert whole["seconds"] >= SECONDS, "a loss of 0 is no target: it goes on to the budget"
    assert len(losses) >= 4
    ended = trained(losses[2])
    assert [row[2] for row in ended["curve"]] == losses[: next(i for i, loss in enumerate(losses, 1) if loss <= losses[2])]
    assert ended["seconds"] < SECONDS
    assert ended["steps"] == ended["curve"][-1][1] < whole["steps"]
