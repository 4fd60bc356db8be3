"""The oracle beats what a person would plan, and is the same each time."""

import numpy as np
import pytest
from autotuner_envs.batch.runs import BatchedRuns, encoded
from autotuner_envs.scenarios import SEEDS, draw
from autotuner_envs.schedules import Schedule, play
from autotuner_policies import oracle


@pytest.mark.parametrize("family", ["small_micro_batch", "memory_taken", "low_resolution"])
def test_it_meets_the_target_sooner_than_a_hand_tuned_plan(family):
    scenario = draw(family, SEEDS["validation"])
    found = oracle.best_seconds(scenario)
    assert 0 < found <= play(scenario, Schedule(distill_from=(0.70, 0.73))).seconds_to_target
    assert found == oracle.best_seconds(scenario)


def test_a_plan_moves_towards_what_it_wants_and_only_legally():
    runs = BatchedRuns(encoded([draw("stationary", SEEDS["validation"] + i) for i in range(8)]))
    plans = np.zeros((8, len(oracle.PARTS), oracle.KNOB_COUNT), np.int64)  # everything to the bottom
    before = runs.runs["positions"].sum()
    for _ in range(30):
        actions = oracle.towards(runs, plans)
        assert runs.masks[np.arange(8), actions].all()
        runs.step(actions)
    assert runs.runs["positions"].sum() < before
