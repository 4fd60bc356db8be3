"""The numbers under the table."""

import numpy as np
import pytest
from autotuner_policies.statistics import estimate, interquartile_mean


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
