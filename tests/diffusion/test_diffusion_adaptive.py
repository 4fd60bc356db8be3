"""Heads by sample, on a denoiser in closed form whose best sampler depends on the class: N(m, c^2) in each."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from autotuner.diffusion.adaptive import artefact
from autotuner.diffusion.adaptive import build as building
from autotuner.diffusion.adaptive.allocation import Forecast, choose, learn_forecast, price_for
from autotuner.diffusion.adaptive.curve import Curve, fit_curve, identity
from autotuner.diffusion.adaptive.fit import errors, fit, slopes, with_curve, with_traits
from autotuner.diffusion.adaptive.head import finish, plain
from autotuner.diffusion.adaptive.learn import Effort, learn, oracle, resized
from autotuner.diffusion.adaptive.sampling import Adaptive, batches, sample
from autotuner.diffusion.adaptive.traits import MEASURES, names, traits
from autotuner.diffusion.blas import mx
from autotuner.diffusion.schedules import vp_uniform
from autotuner.diffusion.schedules.artefact import ScheduleError
from autotuner.diffusion.schedules.ladder import Interval
from autotuner.diffusion.schedules.pairs import Pairs, rmse
from autotuner.diffusion.solvers import ipndm
from autotuner.diffusion.solvers.generalised import follow, trace
from autotuner.errors import ConfigurationError

TOP = 20.0
MEANS, DEVIATIONS = np.array([0.4, -0.3, 0.1, 0.0, 0.7]), np.array([0.05, 0.9, 0.3, 2.5, 0.02])
CLASSES = len(MEANS)
SHAPE = (4, 4, 1)


def gaussian(x, sigma, label):
    c, m = (mx.array(values.astype(np.float32))[label].reshape(-1, 1, 1, 1) for values in (DEVIATIONS, MEANS))
    s = sigma.reshape(-1, 1, 1, 1)
    return (c * c * x + s * s * m) / (c * c + s * s)


def pairs(count, seed):
    labels = np.arange(count) % CLASSES
    noise = np.random.default_rng(seed).standard_normal((count, *SHAPE)).astype(np.float32)
    c, m = (values[labels].reshape(-1, 1, 1, 1) for values in (DEVIATIONS, MEANS))
    ends = m + (TOP * noise - m) * c / np.sqrt(c**2 + TOP**2)
    return Pairs(labels, noise, ends.astype(np.float32), 0.0)


def table(evaluations):
    return trace(ipndm, vp_uniform(evaluations, 0.02, TOP))


TRAINING, CHOOSING, JUDGING = pairs(60, 1), pairs(30, 2), pairs(60, 3)


def started(some):
    return [mx.array(some.noise) * TOP], mx.array(some.labels.astype(np.int32))


def solved(head, some):
    return np.array(finish(gaussian, head, *started(some))[-1])


@pytest.fixture(scope="module")
def learned():
    """One global table, and what is learned from it."""
    base, _ = fit(gaussian, plain(table(3), CLASSES), TRAINING, CHOOSING, iterations=3)
    effort = Effort(iterations=2, ridge=1e-3)
    return base, learn(gaussian, TRAINING, CHOOSING, base.table, CLASSES, evaluations=(2, 3, 4), shared=2, effort=effort)


def test_a_head_without_weights_is_its_table():
    given = table(4)
    known, label = started(JUDGING)
    expected = np.array(follow(lambda x, sigma: gaussian(x, sigma, label), known[0], given))
    assert np.abs(solved(plain(given, CLASSES), JUDGING) - expected).max() < 1e-5


def test_traits_of_what_is_not_there_yet_are_zero():
    x, label = mx.ones((3, 4, 4, 1)), mx.array([0, 1, 1])
    found = np.array(traits([x], label, 2))
    assert found.shape == (3, len(names(2)))
    assert not found[:, :-2].any()
    assert found[:, -2:].tolist() == [[1, 0], [0, 1], [0, 1]]


def test_traits_say_what_their_names_say():
    half = mx.full((1, 6, 6, 1), 0.5)
    found = dict(zip(names(1), np.array(traits([half, 0 * half, half, 3 * half], mx.array([0]), 1))[0].tolist(), strict=True))
    assert found["log_size"] == pytest.approx(math.log(1.5), abs=1e-4)
    assert found["log_change"] == pytest.approx(0, abs=1e-4)
    assert found["mean"] == pytest.approx(1.5)
    assert found["mean_change"] == pytest.approx(1)
    assert found["turn"] == pytest.approx(1)
    assert found["thumbnail_1_2"] == pytest.approx(1.5)
    assert found["log_roughness"] < -6


@pytest.mark.parametrize("size", [2, 5])
def test_traits_of_the_smallest_pictures_are_finite(size):
    picture = mx.random.normal((2, size, size, 3), key=mx.random.key(0))
    assert np.isfinite(np.array(traits([picture, picture], mx.array([0, 1]), 2))).all()


def test_labels_of_too_many_classes_are_left_out():
    assert len(names(1000)) == len(names(1)) == len(MEASURES) + 9


def test_derivatives_are_those_of_the_table():
    head = plain(table(3), CLASSES)
    few = JUDGING.first(4)
    found = slopes(gaussian, head, few).jacobian
    assert found.shape == (4, 3 + 1 + 2 + 3 + 4, 16)
    rows, levels = head.table.rows.copy(), head.table.levels.copy()
    rows[1, 1] += 1e-2
    moved = (solved(replace(head, table=replace(head.table, rows=rows)), few) - solved(head, few)) / 1e-2
    assert np.abs(found[:, 3] - moved.reshape(4, -1)).max() < 2e-2 * np.abs(moved).max()
    levels[1] *= math.exp(1e-2)
    moved = (solved(replace(head, table=replace(head.table, levels=levels)), few) - solved(head, few)) / 1e-2
    assert np.abs(found[:, 4] - moved.reshape(4, -1)).max() < 5e-2 * np.abs(moved).max()


def test_the_fit_of_a_table_comes_near_the_ends_on_other_noises():
    head = plain(table(3), CLASSES)
    better, history = fit(gaussian, head, TRAINING, CHOOSING, iterations=3)
    assert history == sorted(history, reverse=True)
    assert history[-1] == pytest.approx(rmse(errors(gaussian, better, CHOOSING)))
    assert rmse(errors(gaussian, better, JUDGING)) < 0.2 * rmse(errors(gaussian, head, JUDGING))
    assert not any(weights.any() for weights in better.weights)


def test_weights_of_traits_lower_the_error_where_samples_differ(learned):
    base, _ = learned
    head, _ = fit(gaussian, with_traits(gaussian, base, TRAINING), TRAINING, CHOOSING, iterations=2, ridge=1e-3)
    assert rmse(errors(gaussian, head, JUDGING)) < 0.5 * rmse(errors(gaussian, base, JUDGING))


def test_stages_before_the_first_free_one_stay():
    head = with_traits(gaussian, plain(table(3), CLASSES), TRAINING)
    better, _ = fit(gaussian, head, TRAINING, CHOOSING, first=2, iterations=1)
    assert np.array_equal(better.table.rows[:2], head.table.rows[:2])
    assert np.array_equal(better.table.levels[:2], head.table.levels[:2])
    assert not any(weights.any() for weights in better.weights[:2])
    assert better.weights[2].any()


def test_a_curve_is_its_knots_and_its_slope_is_its_derivative():
    curve = Curve(np.array([-0.5, 0.5]), np.array([0.1, 1.0, -0.5, 2.0]))
    values = np.array([-1.0, 0.0, 1.0])
    assert np.array(curve(mx.array(values.astype(np.float32)))) == pytest.approx([-0.9, -0.15, 1.35])
    assert curve.slope(values) == pytest.approx([1, 0.5, 2.5])
    assert identity().straight
    assert identity().slope(values).tolist() == [1, 1, 1]


def test_a_curve_learns_to_cut_off():
    values = np.linspace(-2, 2, 400).astype(np.float32)
    ends = np.clip(values, -1, 1)
    found = np.array(fit_curve(values, ends, knots=9)(mx.array(values)))
    assert np.sqrt(np.mean((found - ends) ** 2)) < 0.1 * np.sqrt(np.mean((values - ends) ** 2))


def test_the_curve_of_a_head_never_hurts_where_it_was_fitted():
    head = plain(table(2), CLASSES)
    assert rmse(errors(gaussian, with_curve(gaussian, head, TRAINING), TRAINING)) < rmse(errors(gaussian, head, TRAINING))


def test_a_price_keeps_to_the_mean_and_buys_where_it_pays():
    squares = np.array([[4.0, 1.0, 0.9], [4.0, 3.9, 3.8], [8.0, 2.0, 0.5]])
    evaluations = np.array([2, 3, 4])
    price = price_for(squares, evaluations, 3.0)
    assert evaluations[choose(squares, evaluations, price)].tolist() == [3, 2, 4]
    assert oracle(squares, evaluations, 3.0) == pytest.approx(math.sqrt((1 + 4 + 0.5) / 3))
    assert choose(squares, evaluations, price_for(squares, evaluations, 4.0)).tolist() == [2, 2, 2]
    with pytest.raises(ConfigurationError, match=r"mean of 1.5 evaluations; allowed is 2 or more"):
        price_for(squares, evaluations, 1.5)


def test_a_forecast_recovers_what_is_linear_in_the_log():
    seen = np.random.default_rng(0).standard_normal((400, 3))
    squares = np.exp(np.stack([seen[:, 0] - 1, 0.5 * seen[:, 1] ** 2 - 3], axis=1))
    assert learn_forecast(seen, squares, 1e-6)(seen) == pytest.approx(squares, rel=1e-3)


def test_adaptive_beats_the_global_table_at_equal_mean_evaluations(learned):
    base, found = learned
    sampled = sample(gaussian, JUDGING.noise, JUDGING.labels, found.adaptive)
    error = float(np.sqrt(np.mean((sampled.images - JUDGING.ends) ** 2)))
    assert sampled.evaluations.mean() <= 3 + 0.2
    assert found.mean_evaluations <= 3
    assert error < 0.5 * rmse(errors(gaussian, base, JUDGING))
    assert oracle(found.squares, np.array([2, 3, 4]), 3) <= rmse(found.squares[:, 1])


def test_learning_twice_gives_the_same(learned):
    base, found = learned
    effort = Effort(iterations=2, ridge=1e-3)
    again = learn(gaussian, TRAINING, CHOOSING, base.table, CLASSES, evaluations=(4, 3, 2), shared=2, effort=effort)
    assert again.adaptive.price == found.adaptive.price
    assert np.array_equal(again.squares, found.squares)


def test_another_number_of_evaluations_begins_alike(learned):
    head = learned[1].adaptive.heads[1]
    longer = resized(gaussian, head, TRAINING, 5, 2)
    assert longer.table.evaluations == 5
    assert np.array_equal(longer.table.levels[:2], head.table.levels[:2])
    assert np.array_equal(longer.weights[1], head.weights[1])
    assert (np.diff(longer.table.levels) < 0).all()
    assert rmse(errors(gaussian, longer, JUDGING)) < 0.2


def chosen_by_label(learned):
    """The learned heads, class 4 sent to the last and all others to the first."""
    adaptive = learned[1].adaptive
    traits_count = len(names(CLASSES))
    heads = [replace(head, centre=head.centre.copy(), spread=head.spread.copy()) for head in adaptive.heads]
    heads[0].centre[2], heads[0].spread[2] = 0.0, 1.0
    coefficients = np.zeros((3, 1 + 2 * traits_count))
    coefficients[:, 0] = [0, 9, 0]
    coefficients[0, 1 + traits_count - 1] = 9  # what class 4 would lose with the first
    return replace(adaptive, heads=tuple(heads), forecast=Forecast(coefficients), price=0.01)


@pytest.mark.parametrize("sizes", [(1, 2, 4, 8, 16, 32), (64,), (5, 3)])
def test_what_has_finished_leaves_the_batch(learned, sizes):
    adaptive = chosen_by_label(learned)
    asked = []

    def network(x, sigma, label):
        asked.append(x.shape[0])
        return gaussian(x, sigma, label)

    some = pairs(23, 7)
    sampled = sample(network, some.noise, some.labels, adaptive, sizes=sizes)
    assert sampled.evaluations.tolist() == [4 if label == 4 else 2 for label in some.labels]
    assert set(asked) <= set(sizes)
    assert sampled.computed == sum(asked)
    assert sampled.computed >= sampled.evaluations.sum()
    if sizes[0] == 1:
        assert sampled.computed <= 1.15 * sampled.evaluations.sum()
    for last, head in ((False, adaptive.heads[0]), (True, adaptive.heads[2])):
        which = (some.labels == 4) == last
        alone = solved(head, Pairs(some.labels[which], some.noise[which], some.ends[which], 0.0))
        assert np.abs(sampled.images[which] - alone).max() < 1e-5


def test_batches_are_filled_up_only_where_that_wastes_little():
    assert batches(23, (1, 2, 4, 8, 16, 32)) == [16, 8]
    assert batches(70, (1, 2, 4, 8, 16, 32)) == [32, 32, 8]
    assert batches(5, (64,)) == [64]
    assert batches(7, (3, 5)) == [5, 3]


def test_a_single_sample_is_sampled(learned):
    one = pairs(1, 9)
    sampled = sample(gaussian, one.noise, one.labels, learned[1].adaptive)
    assert sampled.images.shape == (1, *SHAPE)
    assert sampled.computed == sampled.evaluations[0]


def test_what_was_saved_samples_alike(learned, tmp_path):
    adaptive = learned[1].adaptive
    path = artefact.path_of(tmp_path, 3)
    artefact.save(artefact.Saved("abc", adaptive, 2.9, Interval(0.2, 0.1, 0.3), 64), path)
    loaded = artefact.load(path, "abc")
    assert loaded.gain.low == 0.1
    before, after = (sample(gaussian, JUDGING.noise, JUDGING.labels, each) for each in (adaptive, loaded.adaptive))
    assert np.array_equal(before.images, after.images)
    assert np.array_equal(before.evaluations, after.evaluations)
    with pytest.raises(ScheduleError, match="learned for the network abc, this one is abd"):
        artefact.load(path, "abd")


def test_a_damaged_file_is_named(learned, tmp_path):
    path = artefact.path_of(tmp_path, 3)
    artefact.save(artefact.Saved("abc", learned[1].adaptive, 2.9, Interval(0.2, 0.1, 0.3), 64), path)
    raw = json.loads(path.read_text())
    for damage in ({"format": 9}, {"heads": raw["heads"][::-1]}, {"shared": 4}, {"forecast": [[0.0]]}, {"heads": []}):
        path.write_text(json.dumps(raw | damage))
        with pytest.raises(ScheduleError, match="adaptive-3"):
            artefact.load(path, "abc")
    path.write_text("{")
    with pytest.raises(ScheduleError, match="not an adaptive sampler"):
        artefact.load(path, "abc")


def test_heads_that_do_not_begin_alike_are_refused(learned):
    adaptive = learned[1].adaptive
    with pytest.raises(ConfigurationError, match="the same rows, levels and weights"):
        Adaptive((plain(table(2), CLASSES), plain(table(4), CLASSES)), 2, adaptive.forecast, 0.1)
    with pytest.raises(ConfigurationError, match=r"evaluations \[2, 3\], 3 shared, for a table of 3"):
        learn(gaussian, TRAINING, CHOOSING, table(3), CLASSES, evaluations=(2, 3), shared=3)


def test_a_head_of_other_shapes_is_refused():
    head = plain(table(3), CLASSES)
    with pytest.raises(ConfigurationError, match="5 classes needs 4 stages of 23 traits"):
        replace(head, weights=head.weights[:2])


def test_large_images_get_fewer_noises_as_their_derivatives_are_held_at_once(monkeypatch):
    table = trace(ipndm, list(vp_uniform(4, 0.01, TOP)))
    some = pairs(96, 0)
    taken = slopes(gaussian, with_traits(gaussian, plain(table, CLASSES), some), some).jacobian
    assert len(building.affordable(some, table)) == 96
    monkeypatch.setattr(building, "LARGEST_SLOPES", taken.nbytes * 2 // 3)
    assert len(building.affordable(some, table)) == 64
    monkeypatch.setattr(building, "LARGEST_SLOPES", 1)
    assert len(building.affordable(some, table)) == building.CHUNK
