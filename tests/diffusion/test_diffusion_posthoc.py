"""Post-hoc EMA on weight trajectories whose exact power-function average is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from autotuner.diffusion import checkpoint, ema, posthoc
from autotuner.diffusion.blas import mx
from autotuner.diffusion.posthoc import Snapshot


def width(gamma):
    """Standard deviation of (gamma + 1) tau^gamma on [0, 1], by its moments."""
    mean, square = (gamma + 1) / (gamma + 2), (gamma + 1) / (gamma + 3)
    return math.sqrt(square - mean**2)


@pytest.mark.parametrize("sigma_rel", [0.02, 0.05, 0.1, 0.2, 0.28])
def test_the_exponent_has_the_width_that_was_asked_for(sigma_rel):
    assert width(ema.exponent(sigma_rel)) == pytest.approx(sigma_rel, rel=1e-9)


@pytest.mark.parametrize("sigma_rel", [0.0, 0.289, -1.0])
def test_a_width_that_no_power_function_has_is_refused(sigma_rel):
    with pytest.raises(ValueError, match=r"allowed is more than 0 and less than 0\.2887"):
        ema.exponent(sigma_rel)


FREQUENCIES = np.linspace(0.3, 3, 7)


def trajectory(t, end):
    """Weights at update t: slow drifts and waves of several lengths."""
    share = t / end
    return np.concatenate([np.cos(2 * np.pi * FREQUENCIES * share), [share, share**2, 1.0]])


def exact(sigma_rel, until, end):
    """The power-function average of the trajectory up to ``until``, by quadrature."""
    gamma = ema.exponent(sigma_rel)
    tau = (np.arange(200_000) + 0.5) / 200_000 * until
    density = (tau / until) ** gamma
    waves = np.cos(2 * np.pi * FREQUENCIES[:, None] * tau / end)
    drifts = np.stack([tau / end, (tau / end) ** 2, np.ones_like(tau)])
    return np.concatenate([waves, drifts]) @ density / density.sum()


def recorded(end, count):
    """Snapshots as a training keeps them: both running averages, ``count`` times."""
    gammas = [ema.exponent(sigma_rel) for sigma_rel in ema.SIGMA_RELS]
    running = [np.zeros(len(FREQUENCIES) + 3) for _ in gammas]
    snapshots = []
    for step in range(1, end + 1):
        weights = trajectory(step, end)
        for index, gamma in enumerate(gammas):
            beta = (1 - 1 / step) ** (gamma + 1)
            running[index] = beta * running[index] + (1 - beta) * weights
        if step % (end // count) == 0:
            pairs = zip(ema.SIGMA_RELS, running, strict=True)
            snapshots += [Snapshot(s, float(step), mx.array(w.astype(np.float32))) for s, w in pairs]
    return snapshots


@pytest.fixture(scope="module")
def snapshots():
    return recorded(4000, 20)


def test_the_decay_makes_the_power_function_average(snapshots):
    for snapshot in snapshots[-2:]:
        assert np.array(snapshot.weights) == pytest.approx(exact(snapshot.sigma_rel, 4000, 4000), abs=2e-3)


@pytest.mark.parametrize("sigma_rel", [0.03, 0.05, 0.075, 0.10, 0.15, 0.20])
def test_any_width_is_reconstructed_from_two(snapshots, sigma_rel):
    found = np.array(posthoc.reconstruct(snapshots, sigma_rel))
    wanted = exact(sigma_rel, 4000, 4000)
    assert np.abs(found - wanted).max() < 0.01
    nearest = min(np.abs(np.array(s.weights) - wanted).max() for s in snapshots[-2:])
    assert np.abs(found - wanted).max() < max(nearest, 3e-3)


def test_an_earlier_end_can_be_asked_for(snapshots):
    found = np.array(posthoc.reconstruct(snapshots, 0.08, updates=2000))
    assert found == pytest.approx(exact(0.08, 2000, 4000), abs=0.01)


def test_a_stored_width_is_its_own_snapshot(snapshots):
    factors = posthoc.mixture(snapshots, 0.10)
    assert factors[-1] == pytest.approx(1, abs=1e-3)
    assert np.abs(factors[:-1]).max() < 1e-3


def test_the_overlap_is_the_integral_of_the_product():
    tau = (np.arange(400_000) + 0.5) / 400_000 * 30
    a = np.where(tau < 20, 3.0 * tau**2 / 20**3, 0)
    b = 6.0 * tau**5 / 30**6
    assert posthoc.overlap(20, 2, 30, 5) == pytest.approx(float((a * b).sum() * 30 / 400_000), rel=1e-4)
    assert posthoc.overlap(30, 5, 20, 2) == posthoc.overlap(20, 2, 30, 5)


def test_a_training_keeps_the_two_averages_exactly(make_trainer):
    trainer = make_trainer(ema="power", steps=25, student_ladder=())
    seen = []
    for _ in trainer.steps():
        seen.append(np.array(trainer.stages.teacher.state.weights, np.float64))
    for sigma_rel, found in zip(ema.SIGMA_RELS, trainer.stages.teacher.state.profiles, strict=True):
        running = 0.0
        for step, weights in enumerate(seen, start=1):
            beta = (1 - 1 / step) ** (ema.exponent(sigma_rel) + 1)
            running = beta * running + (1 - beta) * weights
        assert np.array(found) == pytest.approx(running, abs=1e-6)


def test_the_power_average_is_what_is_evaluated_and_distilled(make_trainer, take):
    trainer = make_trainer(ema="power")
    take(trainer, 4)
    learner = trainer.stages.teacher
    assert mx.array_equal(learner.averaged, learner.state.profiles[1])
    assert not mx.array_equal(learner.averaged, learner.state.average)
    trainer.set_knob("distill", 1)
    assert mx.array_equal(trainer.stages.student.state.weights, learner.averaged)


def test_the_power_average_learns_the_same_weights(make_trainer, take):
    plain, power = take(make_trainer(), 5), take(make_trainer(ema="power"), 5)
    assert [r.loss for r in plain] == [r.loss for r in power]


def test_snapshots_are_spread_over_the_budget_and_serve_after_training(make_trainer, tmp_path):
    trainer = make_trainer(ema="power", steps=20, ema_snapshots=10, student_ladder=(), out=tmp_path)
    for _ in trainer.steps():
        pass
    path = tmp_path / checkpoint.FILE_NAME
    checkpoint.save(trainer, path)
    stored = posthoc.load(tmp_path / posthoc.FOLDER)
    assert [s.updates for s in stored[::2]] == list(range(2, 21, 2))
    own = checkpoint.samples(path, "teacher", 4, 4, seed=1)
    assert np.array_equal(own, trainer.evaluator.as_data(trainer.evaluator.solutions("teacher", 4, np.arange(4) % 2, 1)))
    as_stored = checkpoint.samples(path, "teacher", 4, 4, seed=1, sigma_rel=0.10)
    assert np.abs(as_stored.astype(int) - own).max() <= 2
    assert not np.array_equal(checkpoint.samples(path, "teacher", 4, 4, seed=1, sigma_rel=0.2), own)


def test_without_snapshots_the_reason_is_named(make_trainer, tmp_path):
    path = tmp_path / checkpoint.FILE_NAME
    checkpoint.save(make_trainer(), path)
    with pytest.raises(posthoc.SnapshotError, match="when ema is 'power'"):
        checkpoint.samples(path, "teacher", 4, 4, seed=1, sigma_rel=0.1)


def test_a_damaged_snapshot_is_named(tmp_path):
    (tmp_path / "00000001.safetensors").write_bytes(b"half")
    with pytest.raises(posthoc.SnapshotError, match=r"00000001\.safetensors is no snapshot"):
        posthoc.load(tmp_path)
