"""run.json: what goes in comes out, and damage is named."""

from __future__ import annotations

import contextlib
import json
import math

import pytest

from autotuner.errors import AutotunerError, DeclarationError, ProtocolError
from autotuner.knobs import declare
from autotuner.messages import PROTOCOL_VERSION, Declaration

DECLARATION = Declaration(
    "run-1",
    "run",
    42,
    17.5,
    1.0,
    (declare("pace", 1.0, [0.5, 1.0]),),
    budget_seconds=60.0,
    model={"width": 64},
    search_space={"width": [48, 64]},
)


def test_a_declaration_survives_its_file():
    assert Declaration.from_json(DECLARATION.to_json()) == DECLARATION


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"version": PROTOCOL_VERSION + 1}, ProtocolError, "version"),
        ({"surprise": 1}, ProtocolError, "unknown fields ['surprise']"),
        ({"run_id": "../../etc"}, DeclarationError, "run id"),
        ({"run_id": ""}, DeclarationError, "run id"),
        ({"budget_seconds": -1.0}, DeclarationError, "budget_seconds -1.0"),
        ({"max_shapes": 1000}, DeclarationError, "max_shapes 1000; allowed is 1 to 64"),
        ({"knobs": [{"name": "pace"}]}, ProtocolError, "incomplete"),
        ({"knobs": [{"name": "pace", "start": 1.0, "values": [9.0], "effect": "live"}]}, DeclarationError, "9.0"),
    ],
)
def test_a_wrong_declaration_is_named(change, error, message):
    document = {**json.loads(DECLARATION.to_json()), **change}
    with pytest.raises(error) as caught:
        Declaration.from_json(json.dumps(document))
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '{"version": 1}', '{"version": 1, "knobs": 3}'])
def test_a_damaged_declaration_raises_only_our_errors(text):
    with pytest.raises(AutotunerError):
        Declaration.from_json(text)


FIELDS = sorted(set(json.loads(DECLARATION.to_json())) - {"knobs"})


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", ["x", [], [1], {"a": 1}, True, 10**400, math.nan, -math.inf, 1.5])
def test_a_field_of_a_wrong_type_raises_only_our_errors(name, value):
    document = {**json.loads(DECLARATION.to_json()), name: value}
    with contextlib.suppress(ProtocolError, DeclarationError):
        Declaration.from_json(json.dumps(document)).check()


@pytest.mark.parametrize("name", ["name", "budget_seconds", "max_shapes", "budget_steps", "created_unix", "model"])
def test_a_field_of_a_wrong_type_is_named(name):
    document = {**json.loads(DECLARATION.to_json()), name: [1]}
    with pytest.raises(DeclarationError, match=rf"{name} \[1\]; allowed is "):
        Declaration.from_json(json.dumps(document))


def test_nesting_without_end_is_named():
    with pytest.raises(ProtocolError, match="not JSON"):
        Declaration.from_json("[" * 500_000)


def test_a_ladder_value_beyond_any_float_is_named():
    with pytest.raises(DeclarationError, match="pace"):
        declare("pace", 1.0, [0.5, 1.0, 10**400])
