"""What two runs tell, what many tell, and what a daemon bets on: the arithmetic of the gain."""

import itertools
import math

import pytest

from autotuner.daemon.gain import Course, advantage, declaration_key, estimate, evidence, log_ratio
from autotuner.daemon.holdout import EVIDENCE_LIMIT
from autotuner.journal import RunRecord
from autotuner.messages import Declaration
from tests.suites.fake_run import KNOBS


def course(seconds_to_all, key="k", dead=False, progress=1.0, ended=None):
    """Straight progress, from 0 to all of it."""
    times = [0.0, seconds_to_all] + ([ended] if ended else [])
    return Course(key, tuple(times), (0.0, progress, progress)[: len(times)], dead)


def test_half_the_time_is_a_ratio_of_two():
    assert log_ratio(course(100.0), course(200.0)) == pytest.approx(math.log(2))


def test_a_run_that_did_not_arrive_counts_with_its_length():
    slow = course(300.0, progress=0.5, ended=600.0)
    assert log_ratio(course(100.0), slow) == pytest.approx(math.log(600.0 / 80.0))
    assert log_ratio(slow, course(100.0)) == pytest.approx(-math.log(600.0 / 80.0))


def test_a_run_that_was_stopped_early_is_no_faster_than_the_other():
    stopped = course(10.0, progress=0.01)
    assert log_ratio(stopped, course(200.0)) == pytest.approx(0.0)


def test_a_dead_run_pays_for_starting_again():
    dead = course(40.0, progress=0.2, dead=True)
    assert log_ratio(dead, course(100.0)) == pytest.approx(math.log(80.0 / 120.0))


def test_two_runs_that_learned_nothing_tell_nothing():
    assert math.isnan(log_ratio(course(10.0, progress=0.0), course(20.0, progress=0.0)))


def test_the_gain_is_the_share_of_time_saved_and_its_interval_holds_it():
    treated = [course(60.0 + i) for i in range(20)]
    held_out = [course(100.0 + i) for i in range(10)]
    gain = estimate(treated, held_out)
    assert gain.low < gain.ratio < gain.high
    assert gain.ratio == pytest.approx(1 - 69.5 / 104.5, abs=0.02)
    assert (gain.treated, gain.held_out) == (20, 10)
    assert gain == estimate(treated, held_out), "the same runs must give the same verdict after a restart"


def test_runs_of_one_declaration_are_compared_with_each_other():
    short = [course(50.0, "short")] * 10, [course(100.0, "short")]
    long = [course(5000.0, "long")], [course(10000.0, "long")] * 10
    gain = estimate([*short[0], *long[0]], [*short[1], *long[1]])
    assert gain.ratio == pytest.approx(0.5)


def test_runs_without_a_partner_are_compared_with_whom_is_left():
    gain = estimate([course(50.0, f"a{i}") for i in range(10)], [course(100.0, f"b{i}") for i in range(10)])
    assert gain.ratio == pytest.approx(0.5)


def test_budget_and_knobs_make_a_declaration():
    def key(**fields):
        declaration = Declaration("r", "r", 1, 0.0, 1.0, KNOBS, **fields)
        return declaration_key(RunRecord("r", "r", "", "m", declaration.to_json(), 1.0, 1.0))

    assert key(budget_seconds=60.0) == key(budget_seconds=60.0)
    assert key(budget_seconds=60.0) != key(budget_seconds=600.0)


def test_an_advantage_is_the_share_of_pairs_won_less_those_lost():
    treated = [course(100.0), course(200.0), course(300.0), course(400.0)]
    assert advantage(treated, [course(250.0)]) == 0.0
    assert advantage(treated, [course(150.0)]) == pytest.approx(3 / 4 - 1 / 4)
    assert advantage(treated, [course(50.0)]) == 1.0
    assert advantage(treated, [course(500.0)]) == -1.0
    assert advantage(treated, [course(100.0), course(400.0)]) == pytest.approx((3 - 3) / 8)
    assert advantage(treated, []) is None
    assert advantage(treated, [course(320.0, progress=0.0)]) == -0.75, "who never arrives needed at least its length"
    assert advantage([course(9.0, progress=0.0)], [course(9.0, progress=0.0)]) is None


def test_who_is_compared_with_whom_does_not_depend_on_the_arms():
    """Two slow kinds of run and a quick one: over all draws of one held-out run the mean advantage is 0."""
    runs = [course(400.0, "slow"), course(500.0, "slow"), course(10.0, "quick"), course(90.0, "alone"), course(95.0, "single")]
    drawn_one = [advantage(runs[:i] + runs[i + 1 :], [runs[i]]) or 0.0 for i in range(len(runs))]
    assert any(drawn_one)
    assert sum(drawn_one) == pytest.approx(0.0)


def test_evidence_is_fair_money():
    assert evidence([]) == 1.0
    assert evidence([0.0, 0.0]) == 1.0
    assert (evidence([1.0]) + evidence([-1.0])) / 2 == pytest.approx(1.0)
    paths = [evidence(path) for path in itertools.product((-1.0, -0.25, 0.25, 1.0), repeat=4)]
    assert sum(paths) / len(paths) == pytest.approx(1.0)


def test_seven_blocks_that_are_all_lost_demote_and_six_do_not():
    assert evidence([1.0] * 6) < EVIDENCE_LIMIT < evidence([1.0] * 7)


def test_a_daemon_that_wins_has_ever_less_evidence_against_it():
    found = [evidence([-0.2] * blocks) for blocks in range(50)]
    assert found == sorted(found, reverse=True)
