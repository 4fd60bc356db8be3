"""The simulation of demotions: its machines, and that the rules hear a loss and stay calm without one."""

from __future__ import annotations

import numpy as np
import pytest

from autotuner.daemon.holdout import BLOCK_RUNS
from benchmarks import demotion
from benchmarks.demotion import MACHINES, Runs, bet, draw, interval, mixture


def runs(loss, name="normal", count=160, spread=0.05, seed=0):
    return draw(MACHINES[name], count, loss, spread, 0.2, np.random.default_rng(seed))


@pytest.mark.parametrize("rule", [interval, mixture, bet])
def test_every_rule_sees_a_large_loss_and_no_rule_a_large_gain(rule):
    assert BLOCK_RUNS <= rule(runs(0.5)) <= 160
    assert rule(runs(-0.5)) is None


def test_a_demotion_is_told_at_the_run_that_brings_it():
    seen = bet(runs(0.5))
    shown = runs(0.5)
    until = Runs(shown.log_seconds[: seen - 1], shown.held_out[: seen - 1], shown.kind[: seen - 1])
    assert seen % BLOCK_RUNS == 0
    assert bet(until) is None


@pytest.mark.parametrize("name", MACHINES)
def test_without_a_loss_the_arms_of_a_machine_differ_by_luck_only(name):
    drawn = runs(0.0, name, count=20_000, spread=0.2)
    assert drawn.held_out.mean() == pytest.approx(0.2, abs=0.02)
    if "days" not in name and name != "wandering":  # those wander further than the arms could differ
        ours, theirs = drawn.log_seconds[~drawn.held_out], drawn.log_seconds[drawn.held_out]
        assert np.median(ours) == pytest.approx(np.median(theirs), abs=0.06)


def test_the_bet_keeps_its_promise_where_machines_drift_and_held_out_runs_vary_more():
    for name in ("faster by days", "wide held-out", "skewed"):
        assert demotion.false_demotions(name, 60, 200, 0.2, 0.1, ["bet"])["bet"] <= 0.1, name


def test_a_machine_that_gets_faster_deceives_neither_arm():
    """In a block, what is drawn late is as likely treated as held out: the advantage has no direction."""
    found = [bet(runs(0.0, "faster by days", spread=0.001, seed=seed)) for seed in range(20)]
    assert sum(end is not None for end in found) <= 4
