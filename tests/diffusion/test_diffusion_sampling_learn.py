"""Learning, racing and judging samplers, on a denoiser whose paths are known: a mixture that bends them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autotuner.diffusion.blas import mx
from autotuner.diffusion.schedules import SCHEDULES, build, newton
from autotuner.diffusion.schedules.candidates import SAMPLERS, candidate, hand_made, race, surveyed
from autotuner.diffusion.schedules.forms import Free, Grid
from autotuner.diffusion.schedules.ladder import Rung, climb, error_interval, gain
from autotuner.diffusion.schedules.learn import Effort, learn, work
from autotuner.diffusion.schedules.pairs import errors, find_pairs, rmse
from autotuner.diffusion.solvers.generalised import trace
from autotuner.errors import ConfigurationError

LOW, HIGH = 0.02, 40.0
SHAPE = (2, 3, 1)
POINTS = np.random.default_rng(8).uniform(-1, 1, (5, 1, *SHAPE)).astype(np.float32)


class Mixture:
    """The exact denoiser of five Gaussians of deviation 0.3 in six pixels; ``calls`` counts the pictures."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x, sigma, label):
        self.calls += len(x)
        variance = 0.09 + mx.square(sigma).reshape(-1, 1, 1, 1)
        distances = mx.stack([mx.square(x - mx.array(point)).sum(axis=(1, 2, 3)) for point in POINTS], axis=1)
        shares = mx.softmax(-distances / (2 * variance.reshape(-1, 1)), axis=1)
        middle = sum(shares[:, k].reshape(-1, 1, 1, 1) * mx.array(point) for k, point in enumerate(POINTS))
        return middle + 0.09 / variance * (x - middle)


@pytest.fixture(scope="module")
def sets():
    return build.draw_sets(Mixture(), SHAPE, 1, 64, LOW, HIGH)


def test_other_seeds_and_other_sets_share_no_noise(sets):
    again = build.draw_sets(Mixture(), SHAPE, 1, 32, LOW, HIGH, seed=1)
    firsts = [pairs.noise[0].ravel()[0] for pairs in (sets.training, sets.choosing, sets.judging)]
    firsts += [pairs.noise[0].ravel()[0] for pairs in (again.training, again.choosing, again.judging)]
    assert len(set(map(float, firsts))) == 6


def test_two_solvers_agree_on_where_paths_end():
    labels = np.zeros(20, np.int32)
    first, second = (find_pairs(Mixture(), labels, SHAPE, 4, LOW, HIGH, solver) for solver in ("unipc", "heun"))
    assert np.array_equal(first.noise, second.noise)
    assert np.sqrt(np.mean(np.square(first.ends - second.ends))) < 0.01


def test_differences_give_the_slope_of_the_loss(sets):
    """The gradient of the normal equations against two losses nearby."""
    form = Free(trace(SAMPLERS["ipndm"], list(SCHEDULES["karras"](4, LOW, HIGH))), memory=4)
    pairs, zero = sets.training, np.zeros(form.size)
    normal = newton.equations(Mixture(), pairs, form, zero)
    assert normal.loss == pytest.approx(errors(Mixture(), pairs, form.table(zero)).mean(), rel=1e-4)
    for index in (1, form.size - 1, form.size // 2):
        ahead = zero.copy()
        ahead[index] = 1e-2
        slope = (errors(Mixture(), pairs, form.table(ahead)).mean() - normal.loss) / 1e-2
        assert 2 * normal.gradient[index] == pytest.approx(slope, rel=0.2, abs=2e-4)


def test_an_iteration_lowers_the_loss_or_does_not_move(sets):
    form = Grid(SAMPLERS["dpmpp_2m"], list(SCHEDULES["karras"](4, LOW, HIGH)))
    before = errors(Mixture(), sets.training, form.table(np.zeros(3))).mean()
    found = newton.iterate(Mixture(), sets.training, form, np.zeros(3), 0.1)
    after = errors(Mixture(), sets.training, form.table(found.theta)).mean()
    assert found.moved
    assert after == pytest.approx(found.loss, rel=1e-4)
    assert after < before


def test_only_what_changes_is_evaluated_again():
    base = trace(SAMPLERS["ipndm"], list(SCHEDULES["karras"](4, LOW, HIGH)))
    levels, rows = base.levels.copy(), base.rows.copy()
    levels[2] *= 2
    rows[4, 1] += 1
    assert newton.first_difference(base, replace(base, levels=levels)) == 2
    assert newton.first_difference(base, replace(base, rows=rows)) == 4


def test_a_learned_sampler_halves_the_error_of_the_strongest_hand_made_one_on_fresh_noise(sets):
    found = build.build(Mixture(), sets, 4)
    assert [verdict.rung.level for verdict in found.verdicts] == [0, 1, 2]
    assert found.verdicts[2].kept
    saved = found.saved("mixture")
    assert (saved.level, saved.network, saved.table.evaluations) == (2, "mixture", 4)
    assert saved.gain.value > 0.5
    assert saved.gain.low > 0.3


def test_learning_is_the_same_again_and_never_worse_where_it_chose(sets):
    starts = [candidate("ipndm", "karras", SCHEDULES["karras"](3, LOW, HIGH))]
    effort = Effort(grid_iterations=1, short_iterations=1, free_iterations=2)
    first, again = (learn(Mixture(), sets.training, sets.choosing, starts, effort) for _ in range(2))
    assert np.array_equal(first.table.rows, again.table.rows)
    assert np.array_equal(first.table.levels, again.table.levels)
    assert first.error <= rmse(errors(Mixture(), sets.choosing, starts[0].table))


def test_nothing_is_learned_after_the_deadline(sets):
    starts = [candidate("ipndm", "karras", SCHEDULES["karras"](3, LOW, HIGH))]
    found = learn(Mixture(), sets.training, sets.choosing, starts, Effort(deadline=1.0, clock=lambda: 2.0))
    assert found.iterations == 0
    assert np.array_equal(found.table.rows, starts[0].table.rows)


def test_one_evaluation_can_be_learned_too(sets):
    starts = [candidate("euler", "karras", SCHEDULES["karras"](1, LOW, HIGH))]
    found = learn(Mixture(), sets.training, sets.choosing, starts, Effort(free_iterations=2))
    assert found.error < rmse(errors(Mixture(), sets.choosing, starts[0].table))


@pytest.mark.parametrize("evaluations", [3, 9])
def test_work_is_counted_as_it_is_done(evaluations, sets):
    from autotuner.diffusion.schedules.learn import memory_of

    denoiser = Mixture()
    form = Free(trace(SAMPLERS["dpmpp_2m"], list(SCHEDULES["karras"](evaluations, LOW, HIGH))), memory_of(evaluations))
    newton.iterate(denoiser, sets.training.first(32), form, np.zeros(form.size), 0.1)
    assert denoiser.calls / 32 == pytest.approx(work(evaluations), rel=0.1)


def test_a_race_finds_what_measuring_all_finds(sets):
    entered = hand_made(4, LOW, HIGH, 0.6) + surveyed(4, sets.survey)
    assert {each.table.evaluations for each in entered} == {3, 4}
    everyone = {each.name: rmse(errors(Mixture(), sets.choosing, each.table)) for each in entered}
    error, best = race(Mixture(), sets.choosing, entered)[0]
    assert error == pytest.approx(everyone[best.name], rel=1e-6)
    assert error <= 1.1 * min(everyone.values())


def rung(level, squares, evaluations=4):
    table = trace(SAMPLERS["euler"], list(SCHEDULES["karras"](evaluations, LOW, HIGH)))
    return Rung(level, f"level {level}", table, np.asarray(squares))


NOISY = np.random.default_rng(2).gamma(2.0, 0.01, 60)


def test_a_level_is_kept_only_where_it_surely_beats_the_level_kept_below():
    wobble = NOISY * np.random.default_rng(3).uniform(0.8, 1.25, 60)
    verdicts = climb([rung(0, NOISY), rung(1, wobble), rung(2, 0.5 * NOISY)])
    assert [verdict.kept for verdict in verdicts] == [True, False, True]
    assert verdicts[2].gain.value == pytest.approx(1 - np.sqrt(0.5))
    assert "beats level 0: error 29.3 % lower" in verdicts[2].why


def test_a_worse_level_is_left_and_the_lowest_always_stays():
    verdicts = climb([rung(0, NOISY), rung(1, 2 * NOISY), rung(2, np.full(60, np.inf))])
    assert [verdict.kept for verdict in verdicts] == [True, False, False]


def test_an_interval_holds_its_value_and_narrows_with_more_noises():
    few, many = error_interval(NOISY[:20]), error_interval(np.tile(NOISY, 20))
    assert few.low < few.value < few.high
    assert many.high - many.low < (few.high - few.low) / 3


def test_levels_measured_otherwise_do_not_compare():
    with pytest.raises(ConfigurationError, match="allowed are equal counts of both"):
        gain(rung(0, NOISY), rung(1, NOISY[:10]))
    with pytest.raises(ConfigurationError, match="8 evaluations"):
        gain(rung(0, NOISY), rung(1, NOISY, evaluations=8))


def test_time_is_turned_into_noises_and_shared_by_work():
    assert build.affordable(1e-9, 1.0, [4]) == build.FEWEST
    assert build.affordable(1e9, 1e-3, [4]) == build.MOST
    assert build.FEWEST < build.affordable(200, 1e-3, [4, 6]) < build.affordable(300, 1e-3, [4, 6])
    deadlines = [effort.deadline for effort in build.shares(Effort(clock=lambda: 5.0), 10.0, [4, 8])]
    assert deadlines[1] == pytest.approx(15)
    assert 5 < deadlines[0] < 10
    with pytest.raises(ConfigurationError, match="5 noises of each set; at least 32"):
        build.draw_sets(Mixture(), SHAPE, 1, 5, LOW, HIGH)
