from __future__ import annotations

import mlx.nn as nn
import numpy as np
import pytest

from autotuner.diffusion import adam, checkpoint, ema
from autotuner.diffusion.blas import mx
from autotuner.diffusion.step import Learner


def arrays(trainer, resolution=8):
    chosen = trainer.dataset.batch_indices(0, trainer.config.batch, 0)
    return trainer.stages.draw(trainer.dataset.at(resolution)[chosen], trainer.dataset.labels[chosen], 0, 2)


def gradient(trainer, micro_batch):
    learner, drawn = trainer.stages.teacher, arrays(trainer)
    for start in range(0, 16, micro_batch):
        learner.accumulate(micro_batch / 16, *(array[start : start + micro_batch] for array in drawn))
    return np.array(learner.pending.gradient), float(learner.pending.loss)


@pytest.mark.parametrize("micro_batch", [4, 8])
def test_accumulation_gives_the_gradient_of_the_full_batch(make_trainer, micro_batch):
    whole, whole_loss = gradient(make_trainer(), 16)
    parts, parts_loss = gradient(make_trainer(), micro_batch)
    assert parts == pytest.approx(whole, rel=1e-3, abs=1e-6)
    assert parts_loss == pytest.approx(whole_loss, rel=1e-5)
    assert np.abs(whole).max() > 0


def test_a_gradient_that_is_not_finite_changes_nothing(make_trainer):
    learner = make_trainer().stages.teacher
    before = [np.array(part) for part in (learner.state.weights, learner.state.average, *learner.state.moments)]
    weights, *rest = arrays(make_trainer())
    learner.accumulate(1.0, weights * mx.array(float("nan")), *rest)
    applied = learner.apply(1e-2, 0.9)
    assert not bool(applied.finite)
    after = [np.array(part) for part in (learner.state.weights, learner.state.average, *learner.state.moments)]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert learner.pending is None


def test_the_step_after_a_bad_one_is_as_if_it_had_not_been(make_trainer):
    clean, dirty = make_trainer().stages.teacher, make_trainer().stages.teacher
    drawn = arrays(make_trainer())
    dirty.accumulate(1.0, drawn[0] * mx.array(float("inf")), *drawn[1:])
    dirty.apply(1e-2, 0.9)
    for learner in (clean, dirty):
        learner.accumulate(1.0, *drawn)
        learner.apply(1e-2, 0.9)
    assert np.array_equal(np.array(clean.state.weights), np.array(dirty.state.weights))


def test_large_gradients_are_clipped_to_unit_norm(make_trainer):
    learner = make_trainer().stages.teacher
    drawn = arrays(make_trainer())
    learner.accumulate(1e6, *drawn)
    learner.apply(1e-2, 0.0)
    norm = float(mx.linalg.norm(learner.state.moments.first)) / (1 - adam.BETA_1)
    assert norm == pytest.approx(1, rel=1e-3)


def test_adam_is_the_published_update():
    generator = np.random.default_rng(0)
    weights, first, second = generator.standard_normal(5), np.zeros(5), np.zeros(5)
    ours, moments = mx.array(weights.astype(np.float32)), adam.begin(5)
    for count in range(1, 4):
        g = generator.standard_normal(5)
        first, second = 0.9 * first + 0.1 * g, 0.99 * second + 0.01 * g**2
        step = (first / (1 - 0.9**count)) / (np.sqrt(second / (1 - 0.99**count)) + 1e-8)
        weights = weights - 1e-2 * 0.1 * weights - 1e-2 * step
        gradient = mx.array(g.astype(np.float32))
        moments = adam.Moments(
            adam.average(moments.first, gradient, adam.BETA_1),
            adam.average(moments.second, mx.square(gradient), adam.BETA_2),
            moments.updates + 1,
        )
        ours = adam.step(ours, moments, mx.array(1e-2), mx.array(0.1))
    assert np.array(ours) == pytest.approx(weights, rel=1e-4)


def test_the_average_is_the_exponential_one():
    found = ema.update(mx.array([1.0, 2.0]), mx.array([3.0, 2.0]), mx.array(0.75))
    assert np.array(found) == pytest.approx([1.5, 2.0])


def test_the_averages_horizon_is_counted_in_images():
    assert ema.decay(1e9, 64, 6400) == pytest.approx(0.5 ** (1 / 100))
    assert ema.decay(1e9, 32, 6400) ** 2 == pytest.approx(ema.decay(1e9, 64, 6400))
    assert ema.decay(64, 64, 6400) < ema.decay(64_000, 64, 6400)


def test_weights_survive_the_way_through_one_vector(make_trainer):
    learner = make_trainer().stages.teacher
    vector = learner.layout.pack(learner.denoiser.trainable_parameters())
    assert vector.size == learner.layout.size
    assert mx.array_equal(learner.layout.pack(learner.layout.unpack(vector)), vector)


def test_a_step_that_was_interrupted_halfway_is_not_saved(make_trainer, take, tmp_path, monkeypatch):
    trainer = make_trainer()
    take(trainer, 1)
    checkpoint.save(trainer, tmp_path / "x.safetensors")
    good = (tmp_path / "x.safetensors").read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer.stages.teacher, "_updates", [*trainer.stages.teacher._updates[:2], interrupted])
    with pytest.raises(KeyboardInterrupt):
        take(trainer, 1)
    with pytest.raises(checkpoint.CheckpointError, match="interrupted within an optimizer step"):
        checkpoint.save(trainer, tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").read_bytes() == good


def test_the_update_holds_no_second_state(stripes):
    """Weights, average, two moments and the gradient are five vectors; four more are room for temporaries."""
    network = nn.Linear(1500, 1500, bias=False)
    learner = Learner(network, lambda model, x: mx.mean(mx.square(model(x)), axis=1))
    learner.accumulate(1.0, mx.ones((1,)), mx.ones((1, 1500)))
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(learner.apply(1e-3, 0.9), learner.state)
    assert mx.get_peak_memory() - before < 4.2 * 4 * learner.layout.size
    assert not learner.torn
