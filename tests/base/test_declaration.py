"""run.json: what goes in comes out, and damage is named."""

from __future__ import annotations

import json

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
