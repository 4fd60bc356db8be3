"""What a search space may say, and how it becomes distributions."""

from __future__ import annotations

import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution

from autotuner.errors import DeclarationError
from autotuner.search.space import MAX_CHOICES, check


@pytest.mark.parametrize(
    ("declared", "named"),
    [
        ({}, "empty"),
        ({"width": []}, "width"),
        ({"width": "64"}, "width"),
        ({"width": list(range(MAX_CHOICES + 1))}, str(MAX_CHOICES)),
        ({"width": [64, 64]}, "twice"),
        ({"width": [64, 64.0]}, "twice"),
        ({"width": [None]}, "None"),
        ({"width": [float("nan")]}, "nan"),
        ({"width": [[1]]}, "[1]"),
        ({"_trial": [1, 2]}, "_trial"),
        ({"two words": [1, 2]}, "two words"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_with_the_value_named(declared, named):
    with pytest.raises(DeclarationError, match="search space") as caught:
        check(declared)
    assert named in str(caught.value)


def test_evenly_spaced_whole_numbers_keep_their_order_and_others_are_choices():
    space = check({"depth": [6, 2, 4], "width": [48, 64, 96], "norm": ["rms", "layer"], "bias": [True, False], "two": [1, 2]})
    found = space.distributions
    assert found["depth"] == IntDistribution(2, 6, step=2)
    for name in ("width", "norm", "bias", "two"):
        assert isinstance(found[name], CategoricalDistribution), name


def test_a_model_fits_when_each_named_parameter_is_a_choice():
    space = check({"width": [48, 64], "bias": [True, False]})
    assert space.fit({"width": 64.0, "bias": True, "patch": 4, "_trial": 3}) == {"width": 64, "bias": True}
    assert space.fit({"width": 64}) is None
    assert space.fit({"width": 65, "bias": True}) is None
    assert space.fit({"width": 64, "bias": 1}) is None


def test_the_digest_ignores_order_and_notices_another_choice():
    digest = check({"a": [1, 2], "b": ["x"]}).digest
    assert check({"b": ["x"], "a": [2, 1]}).digest == digest
    assert check({"a": [1, 3], "b": ["x"]}).digest != digest


def test_all_combinations_are_listed_once():
    space = check({"a": [1, 2, 3], "b": ["x", "y"]})
    listed = list(space.combinations())
    assert len(listed) == space.size == 6
    assert len({tuple(combination.values()) for combination in listed}) == 6
