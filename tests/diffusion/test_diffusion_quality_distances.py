from __future__ import annotations

import numpy as np
import pytest

from autotuner.diffusion.quality.frechet import frechet_distance
from autotuner.diffusion.quality.kernel import kernel_distance
from autotuner.diffusion.quality.neighbours import neighbourhood
from autotuner.diffusion.quality.sets import ComparisonError


def gaussian(count, dimensions=8, mean=0.0, deviation=1.0, seed=0):
    return mean + deviation * np.random.default_rng(seed).standard_normal((count, dimensions))


@pytest.mark.parametrize("measure", [frechet_distance, kernel_distance, neighbourhood])
def test_unequal_counts_are_refused_by_every_measure(measure):
    with pytest.raises(ComparisonError, match="60 generated and 50 real pictures; allowed are equal counts"):
        measure(gaussian(60), gaussian(50))


@pytest.mark.parametrize("measure", [frechet_distance, kernel_distance, neighbourhood])
def test_other_features_are_refused_by_every_measure(measure):
    with pytest.raises(ComparisonError, match=r"\(50, 8\) and \(50, 9\)"):
        measure(gaussian(50), gaussian(50, 9))


@pytest.mark.parametrize(("measure", "least"), [(frechet_distance, 2), (kernel_distance, 20), (neighbourhood, 6)])
def test_too_few_pictures_are_refused(measure, least):
    measure(gaussian(least), gaussian(least, seed=1))
    with pytest.raises(ComparisonError, match=f"at least {least}"):
        measure(gaussian(least - 1), gaussian(least - 1))


def test_the_frechet_distance_of_samples_nears_that_of_their_gaussians():
    found = frechet_distance(gaussian(20_000, 4, mean=1.0, deviation=3.0), gaussian(20_000, 4, deviation=2.0, seed=1))
    assert found == pytest.approx(4 * 1.0**2 + 4 * (3.0 - 2.0) ** 2, rel=0.05)


def test_the_frechet_distance_of_few_samples_is_biased_upwards_so_only_equal_counts_compare():
    few, many = (frechet_distance(gaussian(n, 32), gaussian(n, 32, seed=1)) for n in (50, 2000))
    assert few > 10 * many > 0


def test_the_kernel_distance_is_the_sum_that_its_definition_spells_out():
    a, b = gaussian(20, 3), gaussian(20, 3, mean=0.5, seed=1)

    def k(x, y):
        return (float(x @ y) / 3 + 1) ** 3

    within = [sum(k(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j) / (20 * 19) for s in (a, b)]
    between = sum(k(x, y) for x in a for y in b) / 20**2
    assert kernel_distance(a, b).value == pytest.approx(sum(within) - 2 * between)


def test_the_kernel_distance_of_equal_distributions_is_zero_within_its_error():
    found = [kernel_distance(gaussian(100, seed=2 * i), gaussian(100, seed=2 * i + 1)) for i in range(60)]
    values = np.array([one.value for one in found])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))
    assert np.mean([abs(one.value) < 2 * one.standard_error for one in found]) > 0.9


def test_the_kernel_distance_of_different_distributions_is_far_beyond_its_error():
    found = kernel_distance(gaussian(100, mean=0.5), gaussian(100, seed=1))
    assert found.value > 5 * found.standard_error > 0


def test_the_kernel_distance_of_shifted_constants_is_exact():
    found = kernel_distance(np.ones((40, 2)), np.zeros((40, 2)))
    assert (found.value, found.standard_error) == (pytest.approx(8 + 1 - 2), pytest.approx(0))  # (1+1)^3 + 1^3 - 2 * 1^3


def test_the_standard_error_is_about_the_spread_of_repeated_measurements():
    found = [kernel_distance(gaussian(80, mean=0.4, seed=2 * i), gaussian(80, seed=2 * i + 1)) for i in range(60)]
    spread, told = np.std([one.value for one in found]), np.mean([one.standard_error for one in found])
    assert 0.7 < told / spread < 1.6


def test_a_set_is_precise_and_complete_about_itself():
    points = gaussian(60)
    found = neighbourhood(points, points)
    assert (found.precision, found.recall, found.coverage) == (1.0, 1.0, 1.0)


def test_sets_far_apart_share_nothing():
    found = neighbourhood(gaussian(60), gaussian(60, mean=100.0, seed=1))
    assert (found.precision, found.recall, found.density, found.coverage) == (0.0, 0.0, 0.0, 0.0)


def test_one_of_two_modes_is_precise_but_not_complete():
    modes = np.concatenate([gaussian(100, 2, mean=-50.0), gaussian(100, 2, mean=50.0, seed=1)])
    found = neighbourhood(gaussian(200, 2, mean=-50.0, seed=2), modes)
    assert found.precision > 0.9
    assert 0.4 < found.recall <= 0.5
    assert 0.4 < found.coverage <= 0.5


def test_a_mode_too_many_is_complete_but_not_precise():
    modes = np.concatenate([gaussian(100, 2, mean=-50.0), gaussian(100, 2, mean=50.0, seed=1)])
    found = neighbourhood(modes, gaussian(200, 2, mean=-50.0, seed=2))
    assert 0.4 < found.precision <= 0.5
    assert found.recall > 0.9


def test_neighbourhoods_on_a_line_are_as_counted_by_hand():
    real = np.array([[0.0], [1.0], [2.0], [10.0]])  # reach of the nearest other: 1, 1, 1, 8
    generated = np.array([[0.5], [3.5], [9.0], [30.0]])  # reach of the nearest other: 3, 3, 5.5, 21
    found = neighbourhood(generated, real, k=1)
    assert found.precision == 3 / 4  # 0.5 is near 0 and 1; 3.5 and 9 are near 10; 30 is near none
    assert found.density == (2 + 1 + 1 + 0) / 4
    assert found.coverage == 3 / 4  # all but 2
    assert found.recall == 4 / 4


def test_an_outlier_widens_precision_but_hardly_density():
    outlier = np.concatenate([gaussian(99, 2), [[60.0, 0.0]]])
    astray = gaussian(100, 2, seed=1)
    astray[:, 0] += 30
    found = neighbourhood(astray, outlier)
    assert found.precision > 0.9
    assert found.density < 0.3
