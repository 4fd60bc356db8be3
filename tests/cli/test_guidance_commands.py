"""``mode``, ``accept``, ``undo``, ``off`` and ``on``: what a person says, and what is answered."""

import json
import os
import threading
from dataclasses import replace

import pytest

from autotuner.cli import main
from autotuner.cli.request import ask_daemon
from autotuner.daemon.address import Address, write_address
from autotuner.daemon.modes import off_notice
from autotuner.journal import AdviceRecord, Journal, RequestRecord, RunRecord, journal_path, model_key
from autotuner.knobs import declare
from autotuner.messages import Declaration

DECLARATION = Declaration("cats-1", "cats", 1, 0.0, 1000.0, knobs=(declare("pace", 1.0, [0.5, 1.0]),))
RUN = RunRecord("cats-1", "cats", "", model_key(DECLARATION), DECLARATION.to_json(), 1000.0, 1000.0, "rules", "act")
ADVICE = AdviceRecord("abc123", "cats-1", "pace", "pace 1 to 0.5", "hot", 1.0, 2.0, 1.0, 0.5)


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOTUNER_STATE_DIR", str(tmp_path))
    with Journal(journal_path(tmp_path)) as journal:
        journal.write(RUN)
        journal.write(ADVICE)
    return tmp_path


@pytest.fixture
def daemon(state):
    """A daemon that answers every request as ``daemon.answer`` says."""
    write_address(state, Address(os.getpid(), 1, 0.0, "0"))

    class Answering:
        done, said, heard = 1, "asked cats-1 for pace 1 to 0.5", []
        stopped = threading.Event()

        def serve(self):
            with Journal(journal_path(state)) as journal:
                while not self.stopped.wait(0.01):
                    for request in journal.open_requests():
                        self.heard.append(request)
                        journal.write(replace(request, answered_unix=1.0, done=self.done, answer=self.said))
                        journal.commit()

    answering = Answering()
    thread = threading.Thread(target=answering.serve)
    thread.start()
    yield answering
    answering.stopped.set()
    thread.join()
    answering.stopped.clear()
    answering.heard.clear()


def run(capsys, *words):
    code = main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_accepting_asks_the_daemon_for_exactly_this_advice(capsys, daemon):
    assert run(capsys, "accept", "abc")[:2] == (0, "asked cats-1 for pace 1 to 0.5\n")
    assert [(request.kind, request.subject, request.run_id) for request in daemon.heard] == [("accept", "abc123", "cats-1")]


def test_a_refusal_is_told_and_is_exit_code_one(capsys, daemon):
    daemon.done, daemon.said = 0, "refused: the machine is hot"
    assert run(capsys, "undo", "cats")[:2] == (1, "refused: the machine is hot\n")
    code, out, _ = run(capsys, "undo", "cats", "--json")
    assert code == 1
    assert json.loads(out) == {"done": False, "answer": "refused: the machine is hot", "run_id": "cats-1", "kind": "undo"}


@pytest.mark.parametrize("words", [("accept", "abc"), ("undo", "cats")])
def test_without_a_daemon_nothing_is_left_for_later(capsys, state, words):
    code, _, err = run(capsys, *words)
    assert code == 4
    assert "no daemon is running" in err
    with Journal(journal_path(state)) as journal:
        assert journal.open_requests() == []


def test_unknown_advice_is_told_with_what_stands(capsys, daemon):
    code, _, err = run(capsys, "accept", "zzz")
    assert code == 1
    assert "no advice 'zzz' stands" in err
    assert "abc123 (cats-1: pace 1 to 0.5)" in err


def test_a_request_that_nobody_answers_is_withdrawn(state):
    write_address(state, Address(os.getpid(), 1, 0.0, "0"))
    ticks = iter((0.0, 1.0, 100.0))
    answered = ask_daemon(state, RequestRecord("undo", "cats-1", "", 5.0), monotonic=lambda: next(ticks))
    assert not answered.done
    assert "withdrawn, and nothing was changed" in answered.answer
    with Journal(journal_path(state)) as journal:
        assert journal.open_requests() == []


def test_off_and_on_need_no_daemon_and_no_journal(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOTUNER_STATE_DIR", str(tmp_path / "new"))
    code, out, _ = run(capsys, "off")
    assert code == 0
    assert out.startswith("switched off: every run goes back to its script's own values")
    assert "no daemon is running" in out
    assert off_notice(tmp_path / "new")
    assert "switched off before" in run(capsys, "off")[1]
    assert json.loads(run(capsys, "on", "--json")[1]) == {"off": False, "changed": True, "daemon_running": False}
    assert not off_notice(tmp_path / "new")
    assert run(capsys, "on")[1].startswith("it was not switched off")


def test_the_mode_of_a_run_is_left_in_the_journal(capsys, state):
    code, out, _ = run(capsys, "mode", "cats", "observe")
    assert code == 0
    assert "cats-1 is in mode observe from now on" in out
    assert "takes effect when one starts" in out
    with Journal(journal_path(state)) as journal:
        assert journal.run("cats-1").own_mode == "observe"
    assert "follows the machine's mode again" in run(capsys, "mode", "cats", "machine")[1]
    with Journal(journal_path(state)) as journal:
        assert journal.run("cats-1").own_mode == ""


def test_modes_are_shown_for_machine_and_runs(capsys, state):
    with Journal(journal_path(state)) as journal:
        journal.update_run("cats-1", mode="observe", mode_why="the first run on this machine")
    out = run(capsys, "mode")[1]
    assert out.startswith("this machine: act (setting mode")
    assert [line.split(maxsplit=2) for line in out.splitlines()][2] == ["cats-1", "observe", "the first run on this machine"]
    assert run(capsys, "mode", "cats")[1] == "cats-1: observe (the first run on this machine)\n"
    run(capsys, "off")
    assert run(capsys, "mode")[1].startswith("switched off by you at")
    assert json.loads(run(capsys, "mode", "--json")[1])["off"] is True


def test_a_mode_that_does_not_exist_is_told_with_those_that_do(capsys, state):
    with pytest.raises(SystemExit) as ended:
        main(["mode", "cats", "fast"])
    assert ended.value.code == 2
    assert "'observe', 'advise', 'act', 'machine'" in capsys.readouterr().err


def test_an_ended_run_takes_no_mode(capsys, state):
    with Journal(journal_path(state)) as journal:
        journal.update_run("cats-1", ended_unix=2000.0, outcome="finished")
    code, _, err = run(capsys, "mode", "cats", "act")
    assert code == 1
    assert "has ended (finished)" in err
