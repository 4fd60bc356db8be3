"""The knob table at the door: every wrong ladder is answered with the value and what is allowed."""

from __future__ import annotations

import math

import pytest

from autotuner.errors import DeclarationError
from autotuner.knobs import KNOB_NAMES, KNOBS, MAX_LADDER, declare, find


def test_a_ladder_is_sorted_and_keeps_where_the_script_starts():
    knob = declare("micro_batch", 64, [64, 8, 16, 8])
    assert (knob.values, knob.start, knob.tunable) == ((8, 16, 64), 2, True)


@pytest.mark.parametrize(
    ("name", "start", "values", "effect", "message"),
    [
        ("resolutoin", 28, [28], "live", "unknown knob 'resolutoin'; known knobs: resolution, micro_batch"),
        ("resolution", 28, [], "live", "the ladder is empty"),
        ("resolution", 28, [16, 32], "live", "starts at 28, which is not on its ladder"),
        ("resolution", 28, [28, 28.5], "live", "a whole number from 4 to 4096 pixels"),
        ("pace", 1.0, [0.1, 1.0], "live", "value 0.1; allowed is a number from 0.5 to 1.0 ratio"),
        ("pace", 1.0, [math.nan, 1.0], "live", "nan"),
        ("micro_batch", 1, [True, 1], "live", "micro_batch"),
        ("micro_batch", 1, list(range(1, MAX_LADDER + 2)), "live", "at most 16"),
        ("pace", 1.0, [0.5, 1.0], "sometimes", "allowed: live, boundary, epoch, restart, none"),
    ],
)
def test_a_wrong_knob_is_answered_with_value_and_allowed(name, start, values, effect, message):
    with pytest.raises(DeclarationError) as error:
        declare(name, start, values, effect)
    assert message in str(error.value)


def test_a_knob_with_one_value_or_without_effect_is_not_tunable():
    assert not declare("resolution", 28, [28]).tunable
    assert not declare("resolution", 28, [16, 28], effect="none").tunable


def test_the_order_of_the_table_is_what_trained_policies_rely_on():
    assert KNOB_NAMES == (
        "resolution",
        "micro_batch",
        "sampling_steps",
        "distill",
        "pace",
        "cache_limit",
        "lr_scale",
        "timestep_density",
    )
    assert all(knob.lower < knob.upper and knob.sentence for knob in KNOBS)


def test_values_are_shown_as_people_read_them():
    assert find("cache_limit").shown(2**26) == "64 MiB"
    assert find("pace").shown(0.85) == "0.85"
    assert find("resolution").shown(28) == "28"
