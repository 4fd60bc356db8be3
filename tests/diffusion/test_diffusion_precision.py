"""Number formats and gradient checkpointing: what they may change, and what they must not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from autotuner.diffusion import precision
from autotuner.diffusion.blas import mx
from autotuner.diffusion.step import Pending
from autotuner.errors import ConfigurationError
from autotuner.messages import FLAG_FIRST_OF_SHAPE, FLAG_NOT_FINITE

NETWORKS = {
    "dit": {"model": {"width": 32, "depth": 4, "mlp_ratio": 2}, "fixed": {"heads": 2, "patch": 2, "attention": "softmax"}},
    "unet": {"network": "unet", "model": {"width": 16, "depth": 2}, "fixed": {}, "resolutions": (4, 8)},
}


IMAGES, REPEATS = 64, 5


def gradient(trainer, micro_batch=IMAGES, checkpointing=False):
    """Gradient at weights off their zeros, and the least peak of memory above what was held before.

    The least of several: how far building the graph runs ahead of working it off is for the machine's scheduler to say.
    """
    learner = trainer.stages.teacher
    moved = learner.state.weights + 0.05 * mx.random.normal(learner.state.weights.shape, key=mx.random.key(1))
    learner.restore(learner.state._replace(weights=moved))
    learner.set_gradient_checkpointing(checkpointing)
    dataset = trainer.dataset
    drawn = trainer.stages.draw(dataset.images[:IMAGES], dataset.labels[:IMAGES], 0, 2)
    mx.eval(drawn, learner.state)
    peaks = []
    for _ in range(REPEATS):
        learner.pending = None
        mx.clear_cache()
        mx.reset_peak_memory()
        held = mx.get_active_memory()
        for start in range(0, IMAGES, micro_batch):
            learner.accumulate(micro_batch / IMAGES, *(array[start : start + micro_batch] for array in drawn))
        mx.eval(learner.pending)
        peaks.append(mx.get_peak_memory() - held)
    factor = float(learner.state.scale[0]) if learner.state.scale else 1.0
    return np.array(learner.pending.gradient) / factor, min(peaks)


def error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("network", "kind", "bound"),
    [("dit", "bfloat16", 0.02), ("dit", "float16", 0.003), ("unet", "bfloat16", 0.04), ("unet", "float16", 0.005)],
)
def test_gradients_in_half_precision_agree_within_its_rounding(make_trainer, network, kind, bound):
    """bfloat16 keeps 8 bits (0.4 % an operation), float16 11 (0.05 %)."""
    expected, peak = gradient(make_trainer(**NETWORKS[network]))
    found, lower = gradient(make_trainer(**NETWORKS[network], precision=kind))
    assert 1e-5 < error(found, expected) < bound
    assert found.dtype == np.float32
    assert lower < 0.8 * peak


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_training_in_half_precision_learns_as_well(make_trainer, take, kind):
    full, half = take(make_trainer(), 30), take(make_trainer(precision=kind), 30)
    assert np.mean([r.loss for r in half[-5:]]) == pytest.approx(np.mean([r.loss for r in full[-5:]]), rel=0.05)
    assert [r.loss for r in half] != [r.loss for r in full]
    assert not any(r.flags & FLAG_NOT_FINITE for r in half)


@pytest.mark.parametrize("kind", precision.PRECISIONS)
def test_master_weights_moments_and_averages_stay_in_float32(make_trainer, take, kind):
    trainer = make_trainer(precision=kind)
    take(trainer, 2)
    learner = trainer.stages.teacher
    state = learner.state
    assert {a.dtype for a in (state.weights, state.average, *state.moments)} == {mx.float32}
    assert learner.denoiser.network.embed.weight.dtype == precision.PRECISIONS[kind]


def test_measurements_are_made_in_float32(make_trainer):
    full, half = make_trainer(), make_trainer(precision="bfloat16")
    assert np.array_equal(full.evaluator.held_out_losses(), half.evaluator.held_out_losses())


def test_small_changes_add_up_in_the_master_weights(make_trainer):
    """In bfloat16 alone a weight of 1 would never move by 1e-3."""
    learner = make_trainer(precision="bfloat16").stages.teacher
    learner.restore(learner.state._replace(weights=mx.ones_like(learner.state.weights)))
    for _ in range(20):
        learner.pending = Pending(mx.ones_like(learner.state.weights), mx.array(0.0))
        learner.apply(1e-3, 0.9)
    assert float(learner.state.weights[0]) == pytest.approx(1 - 20e-3, abs=2e-3)


def test_students_learn_in_the_same_precision(make_trainer):
    records = list(make_trainer(precision="bfloat16", steps=12).steps())
    assert {r.stage for r in records} == {0, 1, 2}
    assert all(math.isfinite(r.loss) for r in records)


def overflow(trainer):
    """One optimizer step whose scaled gradients do not fit into float16."""
    learner, dataset = trainer.stages.teacher, trainer.dataset
    drawn = trainer.stages.draw(dataset.images[:16], dataset.labels[:16], 0, 2)
    learner.accumulate(1e6, *drawn)
    return learner.apply(1e-2, 0.9)


def test_an_overflow_halves_the_loss_scale_and_changes_nothing_else(make_trainer):
    trainer = make_trainer(precision="float16")
    learner = trainer.stages.teacher
    before, factor = np.array(learner.state.weights), float(learner.state.scale[0])
    assert not bool(overflow(trainer).finite)
    assert np.array_equal(before, np.array(learner.state.weights))
    assert float(learner.state.moments.updates) == 0
    assert float(learner.state.scale[0]) == factor / 2


def test_the_loss_scale_grows_after_good_steps(monkeypatch, make_trainer, take):
    monkeypatch.setattr(precision, "GROW_AFTER", 4)
    trainer = make_trainer(precision="float16")
    factors = []
    for _ in trainer.steps():
        factors.append(float(trainer.stages.teacher.state.scale[0]) / precision.FIRST_SCALE)
        if len(factors) == 9:
            break
    assert factors == [1, 1, 1, 2, 2, 2, 2, 4, 4]


def test_the_loss_scale_is_bounded_on_both_sides():
    scale = precision.begin()
    for _ in range(40):
        scale = precision.after(scale, mx.array(False))
    assert float(scale.factor) == 1
    scale = precision.LossScale(mx.array(precision.LARGEST_SCALE), mx.array(float(precision.GROW_AFTER)))
    assert float(precision.after(scale, mx.array(True)).factor) == precision.LARGEST_SCALE


def test_the_reported_loss_is_not_scaled(make_trainer):
    full, half = next(make_trainer().steps()), next(make_trainer(precision="float16").steps())
    assert half.loss == pytest.approx(full.loss, rel=1e-2)


def test_a_step_that_overflows_in_training_is_skipped_and_counted(make_trainer, take):
    trainer = make_trainer(precision="float16")
    learner = trainer.stages.teacher
    learner.state = learner.state._replace(scale=(mx.array(1e12), mx.array(0.0)))
    (record,) = take(trainer, 1)
    assert record.flags & FLAG_NOT_FINITE
    assert trainer.not_finite_steps == 1
    while take(trainer, 1)[0].flags & FLAG_NOT_FINITE:
        assert trainer.step < 40
    assert 1 < float(learner.state.scale[0]) <= precision.LARGEST_SCALE


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("micro_batch", [IMAGES, IMAGES // 2])
def test_recomputed_activations_give_the_same_gradients_with_less_memory(make_trainer, network, micro_batch):
    expected, peak = gradient(make_trainer(**NETWORKS[network]), micro_batch)
    found, lower = gradient(make_trainer(**NETWORKS[network]), micro_batch, checkpointing=True)
    assert error(found, expected) < 1e-6
    assert lower < 0.95 * peak


def test_checkpointing_is_switched_between_two_steps_and_traces_anew(make_trainer, take):
    plain, switched = make_trainer(steps=20), make_trainer(steps=20)
    before = take(switched, 2)
    switched.set_gradient_checkpointing(True)
    after = take(switched, 2)
    switched.set_gradient_checkpointing(False)
    after += list(switched.steps())
    assert [r.loss for r in before + after] == pytest.approx([r.loss for r in plain.steps()], rel=1e-4)
    assert [bool(r.flags & FLAG_FIRST_OF_SHAPE) for r in (before + after)[:6]] == [True, False, True, False, True, False]


def test_a_student_inherits_checkpointing(make_trainer, take):
    trainer = make_trainer(gradient_checkpointing=True)
    take(trainer, 1)
    trainer.set_knob("distill", 1)
    take(trainer, 1)
    assert trainer.stages.teacher.denoiser.network.gradient_checkpointing
    assert trainer.stages.student.denoiser.network.gradient_checkpointing


def test_a_network_that_cannot_recompute_says_so(make_trainer):
    learner = make_trainer().stages.teacher
    del learner.denoiser.network.gradient_checkpointing
    with pytest.raises(ConfigurationError, match="gradient_checkpointing true"):
        learner.set_gradient_checkpointing(True)
