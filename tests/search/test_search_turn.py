"""A turn: what ended is told once, what nobody took lapses, what comes next fits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from optuna.trial import TrialState

from autotuner.errors import JournalError
from autotuner.search.show import read_tables, render
from autotuner.search.study_file import STUDY_FILE, only_writer, open_storage
from autotuner.search.turn import LEASE_SECONDS, propose, unstudied

NOW = 2e9
SMALL = {"width": [48, 64], "depth": [2, 3]}


def only(turns):
    (turn,) = turns[0]
    return turn


def rows(state: Path):
    (table,) = read_tables(state)
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def take(runs, loss, outcome="finished", **fields):
    """A run that takes the waiting proposal, as the hook notes it."""
    proposal = runs.proposal()
    return runs.add(loss, outcome, model={**proposal["parameters"], "_trial": proposal["trial"]}, **fields)


def test_no_journal_and_no_search_space_mean_nothing_to_do(runs):
    assert propose(runs.state, NOW) == ([], "")
    runs.add(0.2, space={})
    assert propose(runs.state, NOW) == ([], "")
    assert not (runs.state / STUDY_FILE).exists()


def test_the_first_finished_run_is_told_and_another_combination_is_proposed(runs):
    run_id = runs.add(0.2)
    turn = only(propose(runs.state, NOW))
    assert (turn.told, turn.project) == (1, "fashion")
    proposal = runs.proposal()
    assert proposal["version"] == 1
    assert proposal["study"] == "fashion"
    assert proposal["parameters"] != {"width": 64, "depth": 3, "mlp_ratio": 2}
    assert proposal["expected"]["best_held_out_loss"] == 0.2
    first, second = rows(runs.state)
    assert (first["run"], first["held-out loss"], first["state"], first["note"]) == (run_id, 0.2, "told", "best")
    assert (second["trial"], second["state"]) == (proposal["trial"], "out")


def test_a_turn_without_news_keeps_the_proposal_and_tells_nothing_twice(runs):
    runs.add(0.2)
    propose(runs.state, NOW)
    before = runs.proposal()
    turn = only(propose(runs.state, NOW + 60))
    assert (turn.told, turn.lapsed, runs.proposal()) == (0, 0, before)
    assert len(rows(runs.state)) == 2


def test_a_run_that_took_a_trial_is_told_into_that_trial(runs):
    runs.add(0.2)
    propose(runs.state, NOW)
    number = runs.proposal()["trial"]
    run_id = take(runs, 0.15)
    assert only(propose(runs.state, NOW + 60)).told == 1
    row = rows(runs.state)[number]
    assert (row["run"], row["state"], row["held-out loss"]) == (run_id, "told", 0.15)
    assert len(rows(runs.state)) == 3


def test_a_taken_trial_waits_while_its_run_lives_and_another_is_proposed(runs):
    runs.add(0.2)
    propose(runs.state, NOW)
    first = runs.proposal()
    take(runs, None, outcome="")
    turn = only(propose(runs.state, NOW + 2 * LEASE_SECONDS))
    assert turn.lapsed == 0
    assert runs.proposal()["trial"] != first["trial"]
    assert runs.proposal()["parameters"] != first["parameters"]


def test_a_wrong_trial_number_adds_a_trial_of_its_own(runs):
    runs.add(0.2)
    propose(runs.state, NOW)
    runs.add(0.3, model={"width": 96, "depth": 6, "mlp_ratio": 4, "_trial": 77})
    propose(runs.state, NOW + 60)
    assert [row["held-out loss"] for row in rows(runs.state) if row["state"] == "told"] == [0.2, 0.3]


def test_a_proposal_that_nobody_takes_lapses_with_its_lease(runs):
    runs.add(0.2)
    propose(runs.state, NOW)
    first = runs.proposal()
    turn = only(propose(runs.state, NOW + LEASE_SECONDS + 1))
    assert turn.lapsed == 1
    assert runs.proposal()["trial"] != first["trial"]
    assert "no run took it within 7 days" in rows(runs.state)[first["trial"]]["note"]


def test_newer_results_replace_a_proposal_that_waits(runs):
    runs.add(0.2)
    propose(runs.state, NOW)
    runs.add(0.3, model={"width": 96, "depth": 6, "mlp_ratio": 4})
    assert only(propose(runs.state, NOW + 60)).lapsed == 1
    assert "newer results" in rows(runs.state)[1]["note"]


@pytest.mark.parametrize(
    ("loss", "outcome", "named"),
    [
        (float("nan"), "finished", "nan"),
        (float("inf"), "finished", "inf"),
        (None, "finished", "no held-out loss"),
        (0.01, "killed", "killed"),
        (0.01, "interrupted", "interrupted"),
        (0.01, "failed", "the run failed"),
        (0.01, "vanished", "lost its files"),
    ],
)
def test_a_run_without_a_comparable_result_is_shown_but_never_the_best(runs, loss, outcome, named):
    runs.add(loss, outcome)
    turn = only(propose(runs.state, NOW))
    assert turn.told == 1
    row = rows(runs.state)[0]
    assert row["state"] == "no result"
    assert row["held-out loss"] is None
    assert (named if loss == loss or loss is None else "no held-out loss") in row["note"]
    assert runs.proposal()["expected"]["best_held_out_loss"] is None


def test_a_combination_that_died_is_not_proposed_again_but_an_interrupted_one_may_be(runs):
    for model in ({"width": 48, "depth": 2}, {"width": 48, "depth": 3}, {"width": 64, "depth": 2}):
        runs.add(None, "killed", space=SMALL, model=model)
    propose(runs.state, NOW)
    assert runs.proposal()["parameters"] == {"width": 64, "depth": 3}
    take(runs, None, "interrupted", space=SMALL)
    propose(runs.state, NOW + 60)
    assert runs.proposal()["parameters"] == {"width": 64, "depth": 3}


def test_a_run_that_went_over_the_machines_memory_is_not_the_best(runs):
    runs.add(0.1, peak_bytes=9 * 10**9, room_bytes=8 * 10**9)
    runs.add(0.2, model={"width": 48, "depth": 2, "mlp_ratio": 2})
    propose(runs.state, NOW)
    over, under = rows(runs.state)[:2]
    assert "12% above what the machine had" in over["note"]
    assert under["note"] == "best"
    assert runs.proposal()["expected"]["best_held_out_loss"] == 0.2


def test_a_proposal_is_expected_to_fit_into_memory(runs):
    space = {"width": [64, 256, 1024], "depth": [4, 8]}
    runs.add(0.2, space=space, model={"width": 64, "depth": 4}, peak_bytes=3 * 10**9, room_bytes=8 * 10**9)
    propose(runs.state, NOW)
    assert runs.proposal()["parameters"] == {"width": 64, "depth": 8}
    assert runs.proposal()["expected"]["peak_bytes"] <= 0.9 * 8e9
    take(runs, 0.1, space=space, peak_bytes=6 * 10**9)
    turn = only(propose(runs.state, NOW + 60))
    assert turn.proposal is None
    assert "memory" in turn.what
    assert runs.proposal() is None


def test_when_all_combinations_were_tried_the_best_is_proposed(runs):
    losses = {(48, 2): 0.4, (48, 3): 0.3, (64, 2): 0.1, (64, 3): 0.2}
    for (width, depth), loss in losses.items():
        runs.add(loss, space=SMALL, model={"width": width, "depth": depth})
    turn = only(propose(runs.state, NOW))
    assert "all 4 combinations" in turn.proposal.why
    assert runs.proposal()["parameters"] == {"width": 64, "depth": 2}


def test_runs_of_another_budget_are_never_compared(runs):
    runs.add(0.01, budget_seconds=3600.0)
    runs.add(0.2)
    turn = only(propose(runs.state, NOW))
    assert turn.study.startswith("fashion@150s-")
    assert [row["held-out loss"] for row in rows(runs.state) if row["state"] == "told"] == [0.2]


def test_results_are_carried_over_to_a_changed_space_where_they_fit(runs):
    runs.add(0.2, model={"width": 64, "depth": 3}, space=SMALL)
    runs.add(0.3, model={"width": 48, "depth": 2}, space=SMALL)
    propose(runs.state, NOW)
    runs.add(0.1, model={"width": 128, "depth": 3}, space={"width": [64, 128], "depth": [2, 3]})
    assert only(propose(runs.state, NOW + 60)).told == 2
    assert len(read_tables(runs.state, "fashion")) == 2


def test_projects_have_studies_of_their_own_and_one_can_be_chosen(runs):
    runs.add(0.2)
    runs.add(0.5, name="Other Project")
    assert [turn.project for turn in propose(runs.state, NOW, "other-project")[0]] == ["other-project"]
    assert runs.proposal() is None
    assert {turn.project for turn in propose(runs.state, NOW)[0]} == {"fashion", "other-project"}
    assert runs.proposal() is not None
    assert propose(runs.state, NOW, "unknown")[0] == []


def test_a_run_without_a_budget_or_with_a_bad_space_is_named(runs):
    runs.add(0.2, budget_seconds=None)
    runs.add(0.2, space={"width": []})
    assert propose(runs.state, NOW)[0] == []
    no_budget, bad_space = unstudied(runs.state)
    assert "no budget" in no_budget
    assert "width" in bad_space


def test_an_injected_run_is_marked(runs):
    runs.add(0.2, injected=1)
    propose(runs.state, NOW)
    assert "injected" in rows(runs.state)[0]["note"]


@pytest.mark.parametrize("damage", [b"this is no database, and has not been one for a long time" * 40, None])
def test_a_damaged_study_file_is_moved_aside_and_rebuilt_from_the_journal(runs, damage):
    runs.add(0.2)
    propose(runs.state, NOW)
    path = runs.state / STUDY_FILE
    content = path.read_bytes()
    broken = damage or content[:4096] + bytes(len(content) - 4096)
    path.write_bytes(broken)
    turns, note = propose(runs.state, NOW + 60)
    assert "damaged" in note
    assert turns[0].told == 1
    aside = runs.state / "study.corrupt-1.sqlite3"
    assert str(aside) in note
    assert aside.read_bytes() == broken
    assert rows(runs.state)[0]["held-out loss"] == 0.2


def test_a_locked_study_file_is_an_error_and_stays_where_it_is(runs, monkeypatch):
    import sqlite3

    monkeypatch.setattr("autotuner.search.study_file.BUSY_SECONDS", 0.01)
    runs.add(0.2)
    propose(runs.state, NOW)
    other = sqlite3.connect(runs.state / STUDY_FILE, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(JournalError, match="locked"):
        propose(runs.state, NOW)
    other.close()
    assert not list(runs.state.glob("study.corrupt*"))


def test_a_file_of_another_optuna_is_an_error_that_names_it(runs):
    import sqlite3
    from contextlib import closing

    runs.add(0.2)
    propose(runs.state, NOW)
    with closing(sqlite3.connect(runs.state / STUDY_FILE)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v99.0.0'")
    with pytest.raises(JournalError, match="study"):
        propose(runs.state, NOW)


def test_two_proposers_at_once_take_turns(runs):
    runs.add(0.2)
    (runs.state / STUDY_FILE).unlink()
    command = [sys.executable, "-m", "autotuner.search", "propose", "--state-dir", str(runs.state), "--json"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    turns = [json.loads(out)[0] for out, _ in outputs]
    assert sorted(turn["told"] for turn in turns) == [0, 1]
    assert turns[0]["proposal"] == turns[1]["proposal"]
    assert [row["state"] for row in rows(runs.state)] == ["told", "out"]


def test_a_damaged_proposal_file_is_replaced(runs):
    runs.add(0.2)
    propose(runs.state, NOW)
    (runs.state / "proposals" / "fashion.json").write_text("{")
    assert only(propose(runs.state, NOW + 60)).lapsed == 1
    assert runs.proposal()["trial"] == 2


def test_the_study_file_opens_in_optuna_as_any_other(runs):
    import optuna

    runs.add(0.2)
    study_name = only(propose(runs.state, NOW)).study
    with only_writer(runs.state):
        storage, _ = open_storage(runs.state)
    study = optuna.load_study(study_name=study_name, storage=storage)
    assert study.best_value == 0.2
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.RUNNING]
    storage.engine.dispose()


def test_the_table_is_aligned_and_marks_unknown_values(runs):
    runs.add(0.2)
    propose(runs.state, NOW)
    title, header, first, second = render(read_tables(runs.state)[0]).splitlines()
    assert title.startswith("fashion@150s-")
    assert header.index("held-out loss") == first.index("0.2")
    assert " - " in second
