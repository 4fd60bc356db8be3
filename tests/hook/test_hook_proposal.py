"""An architecture proposal is taken only when the script can build it, and counted only when it was built."""

import json

import pytest

from autotuner.hook import AutotunerWarning
from autotuner.hook.proposal import parse_proposal, proposal_path
from autotuner.messages import Declaration

SPACE = {"width": [32, 64], "multipliers": [(1, 2), (1, 2, 2)], "attention": [True, False]}
PARAMETERS = {"width": 64, "multipliers": [1, 2, 2], "attention": False}


@pytest.fixture
def propose(state):
    def write(text=None, **changes):
        path = proposal_path(state, "My Run")
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {"version": 1, "study": "My Run", "trial": 7, "parameters": PARAMETERS, **changes}
        path.write_text(json.dumps(document) if text is None else text)
        return path

    return write


def model(run):
    return Declaration.from_json((run.directory / "run.json").read_text()).model


def test_a_proposal_lies_under_the_slug_of_its_run(state):
    assert proposal_path(state, "My Run") == state / "proposals" / "my-run.json"


def test_without_a_proposal_there_is_none(start):
    assert start("My Run", search_space=SPACE).proposal is None


def test_a_proposal_is_given_in_the_scripts_own_objects(start, propose):
    propose()
    assert start("My Run", search_space=SPACE).proposal == {"width": 64, "multipliers": (1, 2, 2), "attention": False}


def test_a_script_without_a_search_space_gets_no_proposal(start, propose):
    propose()
    assert start("My Run").proposal is None


def test_another_run_does_not_get_it(start, propose):
    propose()
    assert start("Your Run", search_space=SPACE).proposal is None


def test_a_model_built_as_proposed_counts_for_the_trial(start, propose):
    propose()
    run = start("My Run", search_space=SPACE)
    run.declare(model={**run.proposal, "parameters_count": 5})
    assert model(run) == {**PARAMETERS, "parameters_count": 5, "_trial": 7}


def test_a_model_built_differently_does_not_count_for_the_trial(start, propose):
    propose()
    run = start("My Run", search_space=SPACE)
    run.declare(model={"width": 32})
    assert model(run) == {"width": 32}


def test_a_model_can_be_declared_without_a_proposal(start):
    run = start()
    run.declare(model={"width": 16})
    assert model(run) == {"width": 16}


def test_a_model_that_json_cannot_hold_is_told_and_the_old_declaration_stays(start):
    run = start(model={"width": 16})
    with pytest.warns(AutotunerWarning, match="is not recorded"):
        run.declare(model={"width": object()})
    assert model(run) == {"width": 16}
    run.report(1, 0.5)
    assert run.directory is not None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parameters": {**PARAMETERS, "width": 128}}, r"width = 128; search_space allows \[32, 64\]"),
        ({"parameters": {**PARAMETERS, "width": 64.0}}, "width = 64.0"),
        ({"parameters": {**PARAMETERS, "attention": 0}}, "attention = 0"),
        ({"parameters": {"width": 64}}, r"it has parameters \['width'\]"),
        ({"parameters": {**PARAMETERS, "depth": 2}}, "search_space has"),
        ({"parameters": [1]}, "wrong type"),
        ({"trial": "7"}, "wrong type"),
        ({"version": 2}, "version 1"),
    ],
)
def test_a_proposal_that_the_script_cannot_build_is_told_and_left_out(start, propose, changes, words):
    path = propose(**changes)
    with pytest.warns(AutotunerWarning, match=words) as caught:
        run = start("My Run", search_space=SPACE)
    assert str(path) in str(caught[0].message)
    assert run.proposal is None
    assert run.directory is not None


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "null"])
def test_a_damaged_proposal_is_told_and_left_out(start, propose, text):
    propose(text)
    with pytest.warns(AutotunerWarning, match="left out"):
        run = start("My Run", search_space=SPACE)
    assert run.proposal is None
    assert run.directory is not None


def test_a_proposal_that_cannot_be_read_is_told_and_left_out(start, state):
    proposal_path(state, "My Run").mkdir(parents=True)
    with pytest.warns(AutotunerWarning, match="cannot be read"):
        run = start("My Run", search_space=SPACE)
    assert run.directory is not None


def test_parsing_is_apart_from_reading():
    text = json.dumps({"version": 1, "study": "x", "trial": 3, "parameters": {"width": 32}})
    assert parse_proposal(text, {"width": [32]}).trial == 3
