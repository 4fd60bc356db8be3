"""The reward ranks what people would rank, before anything is trained on it."""

import numpy as np
import pytest
from autotuner_envs.rewards import Costs, Potential, Weights, reward, waited
from autotuner_envs.scenarios import SEEDS, draw, families
from autotuner_envs.schedules import HAND_TUNED, PLANS, of_policy, planned, play, random_legal

from autotuner.controller.hold import Hold

CALM = Costs(elapsed=30.0, seconds=10.0, pressure_seconds=0.0, heat_seconds=0.0, out_of_memory=0, killed=False, changes=0)
EPISODES_A_FAMILY = 3


@pytest.fixture(scope="module")
def scenarios():
    return [draw(name, SEEDS["train"] + i) for name in families("train") for i in range(EPISODES_A_FAMILY)]


def mean_reward(scenarios, chooser):
    return float(np.mean([play(scenario, chooser).reward for scenario in scenarios]))


def test_random_loses_to_hold_which_loses_to_a_hand_tuned_schedule_which_loses_to_the_oracle(scenarios):
    assert len(scenarios) >= 30
    random = mean_reward(scenarios, random_legal(0))
    hold = mean_reward(scenarios, of_policy(Hold()))
    hand = mean_reward(scenarios, HAND_TUNED)
    oracle = float(np.mean([planned(scenario, (HAND_TUNED, *PLANS[4::4])).reward for scenario in scenarios]))
    assert random < hold < hand < oracle


def test_progress_is_a_difference_of_potentials_so_a_detour_earns_nothing():
    a, b = Potential(0.5, 0.0), Potential(0.2, 0.0)
    away, back = (reward(x, y, CALM, 100.0)["progress"] for x, y in ((a, b), (b, a)))
    assert away + back == pytest.approx(0.0)
    assert away < 0 < back


def test_waiting_costs_only_above_the_target():
    far, near = Potential(0.2, 0.0), Potential(1.2, 0.0)
    assert reward(far, far, CALM, 100.0)["waiting"] < 0
    assert reward(near, near, CALM, 100.0)["waiting"] == 0


def test_waits_add_up_to_the_logarithm_of_the_time_to_the_target():
    parts = [
        waited(before, after, elapsed, 10.0, 600.0)
        for before, after, elapsed in ((0.2, 0.6, 20), (0.6, 1.4, 30), (1.4, 1.2, 40))
    ]
    assert sum(parts) == pytest.approx(np.log((35.0 + 10.0) / (20.0 + 10.0)))  # met half way through the second; 600 / 60 added
    assert waited(1.2, 0.9, 50, 10.0, 600.0) > 0  # lost again


@pytest.mark.parametrize(
    ("change", "term"),
    [
        ({"pressure_seconds": 10.0}, "pressure"),
        ({"heat_seconds": 10.0}, "heat"),
        ({"out_of_memory": 1}, "out_of_memory"),
        ({"killed": True}, "out_of_memory"),
        ({"changes": 1}, "changes"),
    ],
)
def test_every_cost_costs_its_weight(change, term):
    same = Potential(0.5, 0.0)
    costs = Costs(**{**{name: getattr(CALM, name) for name in Costs.__dataclass_fields__}, **change})
    assert reward(same, same, costs, 100.0)[term] < 0 == reward(same, same, CALM, 100.0)[term]
    nothing = Weights(pressure=0.0, heat=0.0, out_of_memory=0.0, killed=0.0, change=0.0)
    assert reward(same, same, costs, 100.0, nothing)[term] == 0
