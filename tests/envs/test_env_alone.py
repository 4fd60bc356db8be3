"""Runs without Autotuner: the comparison that every promise needs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from autotuner_envs.alone import Halving, Planned, Static, play_alone
from autotuner_envs.scenarios import draw
from autotuner_envs.schedules import crossing, of_policy, play
from autotuner_envs.simulator import Simulator

from autotuner.controller.hold import Hold


def test_where_nothing_happens_a_guard_makes_no_difference():
    scenario = draw("stationary", 2_000_001)
    alone, guarded = play_alone(scenario, Static()), play(scenario, of_policy(Hold()))
    assert alone.reached
    assert alone.seconds_to_target == pytest.approx(guarded.seconds_to_target, rel=0.02)
    assert alone.changes == 0


def test_where_the_first_micro_batch_does_not_fit_nobody_comes_to_help():
    scenarios = [draw("tight_start", 2_000_000 + i) for i in range(4)]
    alone = [play_alone(scenario, Static()) for scenario in scenarios]
    guarded = [play(scenario, of_policy(Hold())) for scenario in scenarios]
    assert all(one.killed or one.pressure_seconds_share > 0.5 for one in alone)
    assert not any(one.killed or one.pressure_seconds_share > 0.5 for one in guarded)


def test_a_static_setting_stands_from_the_first_step_to_the_last():
    scenario = draw("stationary", 2_000_001)
    outcome = play_alone(scenario, Static((("micro_batch", 8.0), ("no such knob", 1.0))))
    assert outcome.changes == 1
    assert outcome.seconds_to_target > play_alone(scenario, Static()).seconds_to_target


def test_a_plan_distils_when_its_shares_of_the_budget_are_up():
    scenario = next(s for s in (draw("stationary", 2_000_000 + i) for i in range(9)) if s.stages)
    simulator, plan = Simulator(scenario), Planned(distill_from=(0.5, 0.8))
    assert plan(simulator)["distill"] == 0.0
    while simulator.elapsed < 0.6 * scenario.budget_seconds:
        simulator.advance(simulator.positions, scenario.budget_seconds / 50)
    assert plan(simulator)["distill"] == 1.0
    assert play_alone(scenario, plan).quality < play_alone(scenario, Static()).quality


def test_halving_halves_once_for_every_time_that_memory_ran_out():
    scenario = draw("tight_start", 2_000_000)
    scenario = replace(scenario, limits=tuple(replace(limit, limit_bytes=limit.limit_bytes / 3) for limit in scenario.limits))
    simulator, script = Simulator(scenario), Halving()
    first = script(simulator)["micro_batch"]
    simulator.advance(simulator.positions, 1.0)
    assert simulator.state.out_of_memory == 1
    assert script(simulator)["micro_batch"] == first / 2 == script(simulator)["micro_batch"]


def test_the_target_is_met_where_the_straight_line_meets_it():
    assert crossing(10.0, 0.5, 20.0, 0.3, 0.4) == pytest.approx(15.0)
    assert crossing(10.0, 0.3, 20.0, 0.3, 0.4) == 20.0
