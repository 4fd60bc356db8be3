"""What a run is judged by: it depends on no knob, and compares like with like."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from autotuner.diffusion import evaluation
from autotuner.diffusion.trainer import Trainer


def test_held_out_loss_depends_on_no_knob(make_trainer, take):
    trainer = make_trainer()
    take(trainer, 5)
    before = trainer.evaluator.held_out_losses().copy()
    for name, value in (
        ("resolution", 4),
        ("micro_batch", 4),
        ("sampling_steps", 16),
        ("timestep_density", 3),
        ("lr_scale", 2.0),
    ):
        trainer.set_knob(name, value)
    trainer.evaluator._known = None
    assert np.array_equal(before, trainer.evaluator.held_out_losses())


def test_held_out_loss_is_of_the_averaged_weights(make_trainer, take):
    trainer = make_trainer()
    take(trainer, 5)
    learner = trainer.stages.teacher
    before = trainer.evaluator.held_out_losses().copy()
    learner.restore(learner.state._replace(weights=learner.state.weights * 0))
    trainer.evaluator._known = None
    assert np.array_equal(before, trainer.evaluator.held_out_losses())
    learner.restore(learner.state._replace(average=learner.state.average * 0))
    trainer.evaluator._known = None
    assert not np.array_equal(before, trainer.evaluator.held_out_losses())


def test_a_model_that_fails_at_one_noise_level_has_no_held_out_loss(make_trainer, monkeypatch):
    trainer = make_trainer()
    losses = trainer.evaluator.held_out_losses().copy()
    losses[3] = np.nan
    monkeypatch.setattr(trainer.evaluator, "held_out_losses", lambda: losses)
    assert math.isnan(trainer.evaluator.measure(1, 1.0, 16, False).held_out_loss)


def test_a_held_out_part_smaller_than_the_noise_levels_is_measured_at_all_of_them(make_trainer):
    trainer = make_trainer(held_out_images=3)
    assert np.unique(trainer.evaluator.held_out_losses()).size == 10
    assert math.isfinite(trainer.evaluator.measure(1, 1.0, 16, False).held_out_loss)


@pytest.mark.parametrize(("wanted", "compared"), [(32, 32), (256, 60)])
def test_quality_and_floor_are_of_as_many_images_as_both_have(make_trainer, monkeypatch, wanted, compared):
    evaluator = make_trainer(quality_images=wanted).evaluator
    seen = []
    monkeypatch.setattr(evaluator.features, "distance", lambda images: seen.append(len(images)) or 1.0)
    evaluator.quality("teacher", 1)
    assert math.isfinite(evaluator.floor)
    assert seen == [compared, compared]


def test_too_few_held_out_images_make_no_floor_and_take_nothing_from_quality(make_trainer, stripes):
    few = replace(stripes, held_out_images=stripes.held_out_images[:19], held_out_labels=stripes.held_out_labels[:19])
    evaluator = Trainer(make_trainer(quality_images=32).config, few).evaluator
    assert evaluator.quality_images == 32
    assert math.isnan(evaluator.floor)


def test_samples_are_asked_for_labels_as_frequent_as_in_the_data(make_trainer, stripes, monkeypatch):
    kept = np.flatnonzero((stripes.labels == 0) | (np.arange(len(stripes.labels)) < 24))
    uneven = replace(stripes, images=stripes.images[kept], labels=stripes.labels[kept])
    evaluator = Trainer(make_trainer(quality_images=40).config, uneven).evaluator
    asked = []
    images = np.zeros((40, 8, 8, 1), np.float32)
    monkeypatch.setattr(evaluation, "solve", lambda denoiser, labels, *_: asked.append(labels) or images)
    monkeypatch.setattr(evaluation, "generate", lambda denoiser, labels, *_: asked.append(labels) or images)
    evaluator.quality("teacher", 1)
    evaluator.samples("teacher", 1, 40, seed=0)
    assert np.array_equal(*asked)
    assert asked[0].mean() == pytest.approx(uneven.labels.mean(), abs=0.05)
