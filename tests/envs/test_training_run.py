"""The environment as Gymnasium and the product see it."""

import json

import gymnasium
import numpy as np
import pytest
from autotuner_envs.scenarios import FAMILIES, draw, families
from autotuner_envs.schedules import chooser, decisions
from autotuner_envs.training_run import TrainingRun
from gymnasium.utils.env_checker import check_env

from autotuner.controller.actions import ACTION_COUNT, HOLD
from autotuner.controller.observation import FEATURES


def episode(env, seed, choose):
    observation, _ = env.reset(seed=seed)
    seen, ended = [observation.tolist()], False
    while not ended:
        observation, gain, ended, truncated, info = env.step(choose(env))
        assert not truncated
        assert gain == pytest.approx(sum(info["terms"].values()))
        seen.append([*observation.tolist(), gain])
    return seen


def random_legal(seed):
    random = np.random.default_rng(seed)
    return lambda env: random.choice(np.flatnonzero(env.action_masks()))


def test_gymnasium_finds_no_fault():
    env = gymnasium.make("autotuner_envs:autotuner/TrainingRun-v0")
    check_env(env.unwrapped, skip_render_check=True)
    assert env.observation_space.shape == (len(FEATURES),)
    assert env.action_space.n == ACTION_COUNT


def test_the_same_seed_gives_the_same_episode():
    first, second = (episode(TrainingRun(), 3, random_legal(1)) for _ in range(2))
    assert json.dumps(first) == json.dumps(second)
    assert json.dumps(first) != json.dumps(episode(TrainingRun(), 4, random_legal(1)))


@pytest.mark.parametrize("family", [family.name for family in FAMILIES if family.name not in ("long", "hours")])
def test_every_family_plays_to_its_end_within_the_spaces(family):
    env = TrainingRun()
    observation, info = env.reset(seed=0, options={"family": family, "seed": 7})
    assert info == {"family": family, "scenario_seed": 7}
    choose, ended, steps = random_legal(0), False, 0
    while not ended:
        assert env.observation_space.contains(observation)
        assert env.action_masks()[HOLD]
        observation, gain, ended, _, _ = env.step(choose(env))
        assert np.isfinite(gain)
        steps += 1
    assert env.simulator.state.killed or env.simulator.elapsed == pytest.approx(env.scenario.budget_seconds)
    assert steps <= 250


def test_an_illegal_action_is_a_hold():
    env = TrainingRun()
    env.reset(seed=0, options={"family": "stationary", "seed": 1})
    illegal = int(np.flatnonzero(~env.action_masks())[0])
    before = env.loop.positions
    env.step(np.int64(illegal))
    assert env.loop.positions == before
    assert env.decisions[-1].vetoed


def test_the_observation_is_the_products_own():
    env = TrainingRun()
    observation, _ = env.reset(seed=5)
    expected = env.loop.observe(env.simulator.state.time)
    assert observation.tolist() == pytest.approx(list(expected), rel=1e-6)


def test_a_split_draws_only_its_families():
    env = TrainingRun("train")
    seen = {env.reset(seed=seed)[1]["family"] for seed in range(25)}
    assert len(seen) > 5
    assert seen <= set(families("train"))


def test_two_families_and_more_are_kept_for_the_test_alone():
    only_test = set(families("test")) - set(families("train")) - set(families("validation"))
    assert {"leak", "limit_cycle"} <= only_test


def test_a_scenario_is_named_by_family_and_seed():
    assert draw("fanless", 3) == draw("fanless", 3)
    assert draw("fanless", 3) != draw("fanless", 4)
    assert draw("fanless", 3).curve != draw("slow_heat", 3).curve


def test_a_rollout_claims_no_learned_policy_where_another_one_chose():
    lines = list(decisions(draw("fanless", 0), chooser("hand")))
    assert any("the policy chose it" in line for line in lines)
    assert not any("learned policy" in line for line in lines)
    assert "end: reward" in lines[-1]
