"""Tiny models and images: what the engine's tests train on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autotuner.diffusion.config import TrainerConfig
from autotuner.diffusion.data import Dataset
from autotuner.diffusion.trainer import Trainer
from tests.diffusion.clock import Clock

TINY = TrainerConfig(
    name="tiny",
    model={"width": 16, "depth": 1, "mlp_ratio": 2},
    fixed={"heads": 2, "patch": 2, "attention": "relu"},
    batch=16,
    resolution=8,
    resolutions=(4, 6, 8),
    micro_batch=16,
    micro_batches=(4, 8, 16),
    seconds=None,
    steps=1000,
    evaluate_every_steps=10_000,
    quality_images=32,
    held_out_images=40,
    learning_rate=5e-3,
)


@pytest.fixture
def tiny_config():
    return TINY


@pytest.fixture(scope="session")
def stripes():
    """Images of 8 x 8 pixels: class 0 has a bright upper half, class 1 a bright left half, both a little noisy."""
    generator = np.random.default_rng(5)
    labels = np.arange(300) % 2
    images = np.full((300, 8, 8, 1), 40.0)
    images[labels == 0, :4] = 210
    images[labels == 1, :, :4] = 210
    noisy = np.clip(images + generator.normal(0, 12, images.shape), 0, 255).astype(np.uint8)
    marks = labels.astype(np.int32)
    return Dataset("stripes", "made for tests", noisy[60:], marks[60:], noisy[:60], marks[:60])


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make_trainer(stripes, clock):
    """Build a Trainer of the tiny configuration, changed by keywords."""

    def make(run=None, **changes):
        injection = changes.pop("injection", None)
        out = changes.pop("out", None)
        config = replace(TINY, **changes)
        return Trainer(config, stripes, run, out=out, injection=injection, clock=clock, sleep=clock.sleep)

    return make


@pytest.fixture
def take():
    """Drive a trainer for a number of steps and return the records."""

    def drive(trainer, count):
        records = []
        for progress in trainer.steps():
            records.append(progress)
            if len(records) == count:
                break
        return records

    return drive
