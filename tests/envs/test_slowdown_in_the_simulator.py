"""The run's own view of throttling, over simulated machines: seen where the plant throttles, and nowhere for noise alone."""

from __future__ import annotations

import pytest
from autotuner_envs.training_run import TrainingRun

HOLD = 0


def slow_intervals(family: str, seed: int) -> int:
    """At how many decisions of an episode without any change the run counted as slow."""
    run, over, count = TrainingRun(), False, 0
    run.reset(seed=seed, options={"family": family, "seed": seed})
    while not over:
        _, _, over, _, _ = run.step(HOLD)
        count += run.loop.window.slowdown.slow
    return count


def test_a_fanless_machine_is_seen_to_throttle() -> None:
    assert max(slow_intervals("fanless", seed) for seed in (1, 2, 3)) > 10


@pytest.mark.parametrize("family", ["stationary", "noisy", "memory_taken", "gaps"])
def test_a_machine_that_stays_cool_is_never_slow(family: str) -> None:
    assert [slow_intervals(family, seed) for seed in (1, 2, 3)] == [0, 0, 0]
