"""Grids by dynamic programming, on denoisers whose paths are known exactly."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest

from autotuner.diffusion.blas import mx
from autotuner.diffusion.schedules import SCHEDULES
from autotuner.diffusion.schedules.dp import cheapest, jump_costs, refine, survey
from autotuner.diffusion.solvers import SOLVERS
from autotuner.errors import ConfigurationError

LOW, HIGH = 0.02, 40.0
DEVIATIONS = np.geomspace(0.02, 1.0, 12).reshape(1, 3, 4, 1).astype(np.float32)
NOISE = np.random.default_rng(3).standard_normal((16, 3, 4, 1)).astype(np.float32)
LABELS = np.zeros(16, np.int32)


def gaussian(x, sigma, label):
    """Pixels of different deviations, as the principal components of pictures have."""
    variance, level = mx.array(DEVIATIONS**2), sigma.reshape(-1, 1, 1, 1)
    return variance / (variance + mx.square(level)) * x


def error(solver, sigmas):
    exact = NOISE * HIGH * DEVIATIONS / np.hypot(DEVIATIONS, HIGH)
    start = mx.array(NOISE * np.float32(HIGH))
    found = SOLVERS[solver](lambda x, sigma: gaussian(x, sigma, None), start, [float(s) for s in sigmas])
    return float(np.sqrt(np.mean(np.square(np.array(found) - exact))))


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_the_cheapest_way_is_that_of_trying_all(steps):
    costs = np.random.default_rng(steps).uniform(0, 1, (9, 9))
    costs[np.tril_indices(9)] = np.inf

    def total(way):
        return sum(costs[a, b] for a, b in pairwise(way))

    ways = [(0, *inner, 8) for inner in combinations(range(1, 8), steps - 1)]
    found = cheapest(costs, steps)
    assert total(found) == pytest.approx(min(map(total, ways)))
    assert len(found) == steps + 1


@pytest.mark.parametrize("steps", [3, 4, 6, 8])
def test_euler_on_the_grid_found_is_no_worse_than_on_any_hand_made_one(steps):
    found = refine(gaussian, LABELS, NOISE, steps, LOW, HIGH, order=1)
    best = min(error("euler", schedule(steps, LOW, HIGH)) for schedule in SCHEDULES.values())
    assert error("euler", found) <= 1.02 * best


def test_a_grid_falls_from_most_noise_to_none_and_is_the_same_again():
    first, again = (refine(gaussian, LABELS, NOISE, 5, LOW, HIGH) for _ in range(2))
    assert np.array_equal(first, again)
    assert first.shape == (6,)
    assert (first[0], first[-1]) == (pytest.approx(HIGH), 0)
    assert (np.diff(first) < 0).all()


def test_a_survey_costs_its_points_and_serves_every_number_of_steps():
    calls = []

    def counted(x, sigma, label):
        calls.append(len(x))
        return gaussian(x, sigma, label)

    seen = survey(counted, LABELS, NOISE, LOW, HIGH, points=20)
    assert calls == [16] * 20
    assert [len(seen.grid(steps)) for steps in (1, 4, 20)] == [2, 5, 21]
    assert len(calls) == 20


def test_one_jump_costs_what_it_misses():
    """From 2 to 1 on a path along which D is constant nothing is missed; to 0 it is the distance from the path's end."""
    sigmas = np.array([2.0, 1.0, 0.0])
    paths, outputs = np.array([[2.0], [1.0], [0.5]]), np.array([[0.0], [0.0]])
    costs = jump_costs(sigmas, paths, outputs)
    assert costs[0, 1] == 0
    assert costs[0, 2] == pytest.approx(0.5)
    assert np.isinf(costs[1, 0])


@pytest.mark.parametrize(("steps", "order"), [(0, 1), (11, 1), (4, 3)])
def test_what_a_survey_cannot_answer_is_refused(steps, order):
    with pytest.raises(ConfigurationError, match=f"{steps} steps of order {order}; this survey allows 1 to 10"):
        refine(gaussian, LABELS, NOISE, steps, LOW, HIGH, points=10, order=order)
