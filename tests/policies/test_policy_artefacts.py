"""What is shipped: it loads, it says what it is, and its numbers are those of the committed reports."""

import json
import shutil
from pathlib import Path

import pytest
from autotuner_policies.catalog import ARTEFACTS, load, shipped
from autotuner_policies.evidence import default_of, document_of
from autotuner_policies.export import KNOBS, read_card, write_card

from autotuner.controller.learned import Learned
from autotuner.errors import ArtefactError

RESULTS = Path(__file__).parents[2] / "policies" / "results"
REAL = Path(__file__).parents[2] / "benchmarks" / "results" / "closed_loop_to_the_end.txt"


def test_every_shipped_artefact_loads():
    assert ARTEFACTS / "default" in shipped()
    for directory in shipped():
        learned = Learned.load(directory)
        assert learned.name == "learned"  # what people see in status, journal and metrics
        assert set(learned.card["knobs"]) == set(KNOBS)


@pytest.mark.parametrize("change", [{"observation_version": 0}, {"features": ["other"]}, {"actions": []}, {"sha256": "0" * 64}])
def test_an_artefact_of_another_build_is_refused(tmp_path, change):
    directory = tmp_path / "default"
    shutil.copytree(ARTEFACTS / "default", directory)
    write_card(directory, {**read_card(directory), **change})
    with pytest.raises(ArtefactError):
        Learned.load(directory)


def test_an_absent_artefact_is_named(tmp_path):
    with pytest.raises(ArtefactError, match="nowhere"):
        load("nowhere", tmp_path)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_card_repeats_the_committed_report(split):
    document = document_of(RESULTS / f"evidence_{split}.txt")
    told = read_card(ARTEFACTS / "default")["results"][split]
    assert document["split"] == split
    assert {key: document[key] for key in told} == told


def test_the_card_says_against_whom_it_loses_and_who_decides_by_default():
    card = read_card(ARTEFACTS / "default")
    arms = card["results"]["validation"]["arms"]
    own = arms["learned"]["mean_score"]
    assert all(own > arms[name]["mean_score"] for name in card["beats"])
    assert all(own <= arms[name]["mean_score"] for name in card["loses_to"])
    assert set(card["beats"]) | set(card["loses_to"]) == set(arms) - {"learned", "oracle", "hindsight static"}
    assert card["default"] == default_of(document_of(RESULTS / "evidence_validation.txt"), card["real"], card["veto"])
    real = document_of(REAL)
    assert {key: real[key] for key in card["real"]} == card["real"]


def test_the_card_is_plain_json_without_a_path_of_a_machine():
    text = (ARTEFACTS / "default" / "card.json").read_text()
    assert json.loads(text)["recipe"] == "train_rollouts"
    assert str(Path(__file__).parents[2]) not in text
