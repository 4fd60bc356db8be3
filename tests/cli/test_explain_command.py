"""``autotuner explain`` over a journal made by hand."""

import json
from dataclasses import replace

import pytest

from autotuner.journal import DecisionRecord, RequestRecord
from tests.cli.one_run import CHANGE, run


def test_explain_tells_what_why_by_whom_and_what_it_did(capsys, journal):
    journal.intend([CHANGE])
    code, out, _ = run(capsys, "explain", "cats")
    assert code == 0
    assert "micro_batch 32 to 16  [observed]" in out
    assert "why: memory is nearly full (rules: memory_high)" in out
    assert "predicted memory: 2.5 GiB" in out
    assert "applied before step 57, 1.5 s after it was asked for" in out
    assert "observed: 812 to 640 images/s, memory 3 GiB to 2 GiB" in out
    assert "in force at step 400: micro_batch 16, pace 1" in out


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"state": "refused", "refusal": "shape budget spent"},
            "refused by the script's own bounds before step 57: shape budget",
        ),
        ({"state": "lost"}, "never reached the script"),
        ({"state": "delivered", "acknowledged_unix": None, "observed_unix": None}, "the script has not answered yet"),
    ],
)
def test_explain_tells_each_fate(capsys, journal, fields, sentence):
    journal.intend([replace(CHANGE, **fields)])
    assert sentence in run(capsys, "explain", "cats-1")[1]


def test_explain_shows_refused_wishes_and_changes_that_the_mode_did_not_make(capsys, journal):
    journal.write(DecisionRecord("cats-1", 1005.0, "act", 4, "hold", "hold", "refused: too soon", "rules", vetoed="dwell"))
    shadow = DecisionRecord("cats-1", 1006.0, "observe", 3, "heat", "pace 1 to 0.5", "hot", "rules", changed=1)
    journal.write(shadow)
    journal.write(replace(shadow, time_unix=1007.0, changed=0, what="hold", why="all is well"))
    journal.commit()
    out = run(capsys, "explain", "cats")[1]
    assert "hold; rules wished micro_batch up" in out
    assert "pace 1 to 0.5  [not made: mode observe]" in out
    assert "all is well" not in out
    assert "all is well" in run(capsys, "explain", "cats", "--all")[1]
    assert "too soon" not in run(capsys, "explain", "cats", "--last", "1")[1]


def test_explain_tells_what_was_asked_for_and_refused(capsys, journal):
    asked = RequestRecord("accept", "cats-1", "abc", 1005.0, 1006.0, 0, "advice abc is stale")
    journal.write(asked)
    journal.write(replace(asked, kind="undo", subject="", done=1, answer="asked cats-1 for pace 1"))
    journal.commit()
    out = run(capsys, "explain", "cats")[1]
    assert "you asked to accept abc  [refused]\n          why: advice abc is stale" in out
    assert "you asked to undo" not in out
    assert [request["done"] for request in json.loads(run(capsys, "explain", "cats", "--json")[1])["requests"]] == [0, 1]


def test_explain_as_json_holds_the_rows(capsys, journal):
    journal.intend([CHANGE])
    document = json.loads(run(capsys, "explain", "cats", "--json")[1])
    assert document["changes"][0]["what"] == "micro_batch 32 to 16"


def test_an_unknown_run_is_told_with_the_known_ones(capsys, journal):
    code, _, err = run(capsys, "explain", "dogs")
    assert code == 1
    assert "known runs: cats-1" in err
