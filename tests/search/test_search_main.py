"""The command line of the search."""

from __future__ import annotations

import json

import pytest

from autotuner.search.__main__ import main


def test_propose_says_in_one_line_what_it_did(runs, capsys):
    runs.add(0.2)
    assert main(["propose", "--state-dir", str(runs.state)]) == 0
    line = capsys.readouterr().out.strip()
    assert line.startswith("fashion: 1 new results told; trial 1 proposed: drawn at random (1 results so far): depth=")
    assert main(["propose", "--state-dir", str(runs.state), "--study", "Fashion"]) == 0
    assert "no new result; trial 1 still waits to be taken" in capsys.readouterr().out


def test_nothing_to_propose_is_not_an_error(runs, capsys):
    assert main(["propose", "--state-dir", str(runs.state)]) == 0
    assert "no run in the journal declares a search space" in capsys.readouterr().out
    runs.add(0.2, budget_seconds=None)
    assert main(["propose", "--state-dir", str(runs.state)]) == 0
    assert "declares no budget" in capsys.readouterr().out


def test_show_prints_every_trial_as_text_and_as_json(runs, capsys):
    assert main(["show", "--state-dir", str(runs.state)]) == 0
    assert capsys.readouterr().out == "no study yet\n"
    runs.add(0.2)
    runs.add(None, "killed", model={"width": 96, "depth": 6, "mlp_ratio": 4})
    main(["propose", "--state-dir", str(runs.state)])
    capsys.readouterr()
    assert main(["show", "--state-dir", str(runs.state)]) == 0
    text = capsys.readouterr().out
    assert "best" in text
    assert "the run was killed" in text
    assert main(["show", "--state-dir", str(runs.state), "--json"]) == 0
    (table,) = json.loads(capsys.readouterr().out)
    assert len(table["rows"]) == 3


def test_a_journal_that_cannot_be_read_is_one_line_and_exit_code_1(runs, capsys):
    (runs.state / "journal.sqlite3").write_bytes(b"no journal" * 500)
    assert main(["propose", "--state-dir", str(runs.state)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("autotuner.search: journal")
    assert len(error.splitlines()) == 1


def test_an_unknown_command_is_exit_code_2(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["guess"])
    assert caught.value.code == 2
    assert "propose" in capsys.readouterr().err
