"""The compiled environment is the scalar one, step for step."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba")

from autotuner_envs import draws
from autotuner_envs.batch.draws import normal, uniform
from autotuner_envs.batch.runs import BatchedRuns
from autotuner_envs.scenarios import FAMILIES, SEEDS, draw
from autotuner_envs.schedules import of_policy, play
from autotuner_envs.training_run import TrainingRun

from autotuner.controller.hold import Hold
from autotuner.controller.rules import Rules

MOST = 80
"""Decisions of one run that are compared: a night's run would take half of the time."""


def scenarios_of(count: int, first: int):
    return [draw(family.name, SEEDS[family.splits[-1]] + first + i) for family in FAMILIES for i in range(count)]


def compare(scenarios, choose) -> None:
    """Play all of them in the batch, each of them in the scalar environment, with the same actions."""
    batch = BatchedRuns(scenarios)
    alone = [TrainingRun() for _ in scenarios]
    for i, (env, scenario) in enumerate(zip(alone, scenarios, strict=True)):
        observation, _ = env.reset(options={"scenario": scenario})
        np.testing.assert_allclose(batch.observations[i], observation, atol=1e-6, err_msg=f"{scenario.family} at reset")
        np.testing.assert_array_equal(batch.masks[i], env.action_masks(), err_msg=f"{scenario.family} at reset")
    for decision in range(MOST):
        live = ~batch.ended
        actions = np.array([choose(env, batch.masks[i]) if live[i] else 0 for i, env in enumerate(alone)])
        batch.step(actions)
        for i in np.flatnonzero(live):
            where = f"{scenarios[i].family} {scenarios[i].seed}, decision {decision}"
            observation, reward, ended, _, _ = alone[i].step(actions[i])
            np.testing.assert_allclose(batch.observations[i], observation, atol=2e-6, err_msg=where)
            assert batch.rewards[i] == pytest.approx(float(reward), abs=1e-9), where
            assert bool(batch.ended[i]) == ended, where
            np.testing.assert_array_equal(batch.masks[i], alone[i].action_masks(), err_msg=where)


def test_random_legal_actions_lead_both_the_same_way():
    random = np.random.default_rng(0)
    compare(scenarios_of(2, 0), lambda env, mask: int(random.choice(np.flatnonzero(mask))))


def test_illegal_actions_are_refused_by_both():
    random = np.random.default_rng(1)
    compare(scenarios_of(1, 50), lambda env, mask: int(random.integers(len(mask))))


def test_decisions_of_the_rules_lead_both_the_same_way():
    rules = Rules()

    def choose(env: TrainingRun, mask: np.ndarray) -> int:
        loop, now = env.loop, env.simulator.state.time
        return rules.choose(loop.observe(now), tuple(mask), loop.window).action

    compare(scenarios_of(1, 100), choose)


def test_seconds_to_the_target_are_those_of_a_scalar_episode():
    scenarios = [draw(name, SEEDS["validation"]) for name in ("stationary", "memory_taken", "low_resolution", "short")]
    batch = BatchedRuns(scenarios)
    rewards = batch.play(lambda runs: np.zeros(len(scenarios), int))
    outcomes = [play(scenario, of_policy(Hold())) for scenario in scenarios]
    np.testing.assert_allclose(batch.seconds_to_target, [outcome.seconds_to_target for outcome in outcomes], rtol=1e-9)
    np.testing.assert_allclose(rewards, [outcome.reward for outcome in outcomes], atol=1e-8)


def test_draws_are_equal():
    for seed in (0, 1, 3_000_017):
        for moment in (0, 1, 999):
            for purpose in range(6):
                assert uniform(np.uint64(seed), moment, purpose) == draws.uniform(seed, moment, purpose)
                assert normal(np.uint64(seed), moment, purpose) == pytest.approx(draws.normal(seed, moment, purpose), abs=1e-12)


def test_a_run_can_be_replaced_and_all_restarted():
    batch = BatchedRuns(scenarios_of(1, 0)[:3])
    first = batch.observations.copy()
    hold = np.zeros(3, int)
    total = batch.play(lambda runs: hold)
    assert batch.ended.all()
    batch.replace(batch.encoded[:1], np.array([2]))
    np.testing.assert_array_equal(batch.ended, [True, True, False])
    np.testing.assert_array_equal(batch.observations[2], first[0])
    batch.restart()
    np.testing.assert_array_equal(batch.observations, first)
    np.testing.assert_array_equal(batch.play(lambda runs: hold), total)
