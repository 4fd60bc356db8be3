"""The numbers under the table."""

import numpy as np
import pytest
from autotuner_envs.schedules import Outcome
from autotuner_policies.evaluate import advantage, keys, report, summary
from autotuner_policies.statistics import estimate, interquartile_mean


def outcome(reward, seconds, killed=False):
    return Outcome(reward, seconds, 100.0, seconds < 100.0, 0.2, 50.0, 0.0, 0.0, 0, killed, 1, {})


def test_the_interquartile_mean_ignores_both_outer_quarters():
    assert interquartile_mean(np.array([-1e9, 1.0, 3.0, 1e9])) == pytest.approx(2.0)


def test_the_interquartile_mean_weights_its_edges():
    assert interquartile_mean(np.array([0.0, 1.0, 2.0, 3.0, 10.0])) == pytest.approx((0.75 * 1 + 2 + 0.75 * 3) / 2.5)


def test_no_interval_is_told_below_ten_pairs():
    assert estimate([1.0] * 9, ["a"] * 9).low is None
    assert estimate(list(range(10)), ["a"] * 10).low is not None


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = 0
    for seed in range(100):
        found = estimate(random.normal(0.0, 1.0, 40).tolist(), ["a"] * 20 + ["b"] * 20, seed)
        covered += found.low <= 0.0 <= found.high
    assert covered >= 85


def test_less_time_to_the_target_is_an_advantage():
    assert advantage(outcome(1.0, 50.0), outcome(1.0, 100.0)) == pytest.approx(np.log(2.0))
    assert advantage(outcome(1.0, 100.0), outcome(1.0, 100.0)) == 0.0


def test_every_arm_is_in_the_report_and_deaths_are_counted():
    where = keys("test", 1)
    arms = {"hold": 1.0, "rules": 2.0, "learned": 1.5}
    results = {name: {key: outcome(reward, 80.0, killed=name == "rules") for key in where} for name, reward in arms.items()}
    text = report(results, "test", {}, "command")
    lines = [line.split()[0] for line in text.splitlines() if line.split()[0] in arms]
    assert lines == ["rules", "learned", "hold", "learned", "learned"]
    assert summary(results)["rules"]["killed"] == len(where)
