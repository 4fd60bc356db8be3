"""Checkpoints that people ask a run for: asked once, waited for, reported when nobody answers, never forced."""

import json
import os

import pytest

from autotuner.cli import main
from autotuner.daemon.checkpoints import told
from autotuner.daemon.exporter import Tick, render
from autotuner.daemon.modes import switch_off
from autotuner.daemon.status_page import status_page
from autotuner.hook.checkpoint import Answer, answer_on, declare_ability, request_on, write_answer
from autotuner.hook.held import HeldFile
from autotuner.journal import Journal, RequestRecord
from tests.suites.fake_run import FakeRun
from tests.suites.hand_driven_daemon import UNIX, Killed, at, kill, start_daemon


class Cats(FakeRun):
    """A run whose script can do what the test says, and answers when told to."""

    def __init__(self, state, *can):
        super().__init__(state)
        self.file = HeldFile(self.directory / "knobs.page", os.O_RDWR)
        if can:
            declare_ability(self.file, can)

    @property
    def request(self):
        return request_on(self.page.read())

    def answer(self, done=True, text="/out/a", step=7, **other):
        asked = self.request
        fields = {"number": asked.number, "asked_unix": asked.asked_unix, **other}
        write_answer(self.file, Answer(step=step, done=done, text=text, **fields))


@pytest.fixture
def started(tmp_path, monkeypatch):
    daemons = []

    def start(now=0.0, forgets=False, **settings):
        """A daemon in place of the one before, which is killed, and may have lost its journal."""
        while daemons:
            kill(daemons.pop())
        for file in tmp_path.glob("journal.sqlite3*") if forgets else ():
            file.unlink()
        daemons.append(start_daemon(tmp_path, monkeypatch, now, mode="observe", **settings))
        return daemons[0]

    yield start
    for daemon in daemons:
        kill(daemon)


@pytest.fixture
def cats(tmp_path):
    return Cats(tmp_path, "save", "restore")


def ask(daemon, now, kind="save", path=""):
    """What the command line does; the request's number."""
    with Journal(daemon.journal.path) as outside:
        return outside.ask(RequestRecord(kind, "cats-1", path, UNIX + now))


def seen(daemon, number):
    """Whether it was done (None while it is open), and the answer."""
    found = daemon.journal.request(number)
    return (None, "") if found.answered_unix is None else (bool(found.done), found.answer)


def shown(daemon):
    return daemon.snapshot.runs[0].checkpoint


def test_a_checkpoint_is_asked_for_answered_and_written_down(started, cats):
    daemon = started()
    cats.train(0.0, 4.0)
    daemon.tick(at(4.0))
    number = ask(daemon, 4.5)
    daemon.tick(at(5.0))
    assert (cats.request.number, cats.request.kind) == (number, "save")
    assert seen(daemon, number) == (None, "")
    daemon.tick(at(9.0))
    assert shown(daemon) == "asked to save 4 s ago"
    cats.answer()
    daemon.tick(at(10.0))
    assert seen(daemon, number) == (True, "cats-1 saved step 7 to /out/a")
    assert daemon.journal.request(number).subject == "/out/a"
    assert shown(daemon) == "cats-1 saved step 7 to /out/a"
    assert "Checkpoint: cats-1 saved step 7 to /out/a" in str(status_page(Tick(daemon.snapshot, 10.0), late=False))


def test_restore_carries_the_path_and_a_failure_its_reason(started, cats):
    daemon = started()
    daemon.tick(at(1.0))
    number = ask(daemon, 1.5, "restore", "/out/b")
    daemon.tick(at(2.0))
    assert (cats.request.kind, cats.request.path) == ("restore", "/out/b")
    cats.answer(False, "/out/b is not a checkpoint")
    daemon.tick(at(3.0))
    assert seen(daemon, number) == (False, "cats-1 could not restore at step 7: /out/b is not a checkpoint")


@pytest.mark.parametrize(
    ("can", "kind", "words"),
    [
        ((), "save", "cats-1 cannot save: its script has declared neither (run.on_save, run.on_restore)"),
        (("save",), "restore", "cats-1 cannot restore: it can only save"),
    ],
)
def test_a_run_that_cannot_is_not_asked(started, tmp_path, can, kind, words):
    run, daemon = Cats(tmp_path, *can), started()
    daemon.tick(at(1.0))
    number = ask(daemon, 1.5, kind)
    daemon.tick(at(2.0))
    assert seen(daemon, number) == (False, words)
    assert run.request is None


def test_an_unanswered_request_is_reported_withdrawn_and_never_repeated(started, cats):
    daemon = started(checkpoint_seconds=30.0)
    daemon.tick(at(1.0))
    number = ask(daemon, 1.5)
    daemon.tick(at(2.0))
    daemon.tick(at(31.0))
    assert seen(daemon, number) == (None, "")
    daemon.tick(at(33.0))
    said = "cats-1 did not answer within 30 s; the request is withdrawn, and nothing is forced"
    assert seen(daemon, number) == (False, said)
    assert cats.request.kind == ""
    assert shown(daemon) == said
    assert "autotuner_run_checkpoints_unanswered_total" in render(lambda: daemon.snapshot, lambda: 33.0).decode()
    for now in (40.0, 400.0):
        daemon.tick(at(now))
    assert daemon.snapshot.runs[0].checkpoints_unanswered == 1
    assert cats.request.kind == ""


def test_an_answer_that_comes_late_is_written_down_all_the_same(started, cats):
    daemon = started(checkpoint_seconds=30.0)
    daemon.tick(at(1.0))
    number = ask(daemon, 1.5)
    for now in (2.0, 40.0):
        daemon.tick(at(now))
    cats.answer()
    daemon.tick(at(41.0))
    assert seen(daemon, number) == (True, "cats-1 saved step 7 to /out/a, after the request was withdrawn")


def test_one_request_at_a_time_but_another_after_a_withdrawn_one(started, cats):
    daemon = started(checkpoint_seconds=30.0)
    daemon.tick(at(1.0))
    ask(daemon, 1.5)
    daemon.tick(at(2.0))
    second = ask(daemon, 2.5)
    daemon.tick(at(5.0))
    assert seen(daemon, second) == (False, "cats-1 has not answered the request to save of 3 s ago yet")
    daemon.tick(at(40.0))
    third = ask(daemon, 40.5)
    daemon.tick(at(41.0))
    assert (cats.request.number, cats.request.kind) == (third, "save")


def test_a_run_that_ends_first_has_not_answered(started, cats):
    daemon = started()
    daemon.tick(at(1.0))
    number = ask(daemon, 1.5)
    daemon.tick(at(2.0))
    cats.goodbye(2.5, 2)
    daemon.tick(at(3.0))
    assert seen(daemon, number) == (False, "cats-1 ended (failed) before it answered")


def test_a_run_that_saves_and_ends_at_once_has_answered(started, cats):
    daemon = started()
    daemon.tick(at(1.0))
    number = ask(daemon, 1.5)
    daemon.tick(at(2.0))
    cats.answer()
    cats.goodbye(2.5)
    daemon.tick(at(3.0))
    assert seen(daemon, number) == (True, "cats-1 saved step 7 to /out/a")


@pytest.mark.parametrize("answers_meanwhile", [False, True])
def test_a_restarted_daemon_waits_on_and_does_not_ask_again(started, cats, answers_meanwhile):
    daemon = started()
    daemon.tick(at(1.0))
    number = ask(daemon, 1.5)
    daemon.tick(at(2.0))
    first = cats.page.read()[16:32], cats.page.read()[256:1304]
    if answers_meanwhile:
        cats.answer()
    daemon = started(100.0)
    daemon.tick(at(101.0))
    with Journal(daemon.journal.path) as outside:
        outside.update_run("cats-1", own_mode="observe")  # a person's word: all open requests are read again
        outside.commit()
    daemon.tick(at(102.0))
    assert (cats.page.read()[16:32], cats.page.read()[256:1304]) == first
    if not answers_meanwhile:
        assert seen(daemon, number) == (None, "")
        cats.answer()
        daemon.tick(at(103.0))
    assert seen(daemon, number) == (True, "cats-1 saved step 7 to /out/a")


def test_a_daemon_that_was_killed_before_it_asked_has_asked_for_nothing(started, cats, monkeypatch):
    daemon = started()
    daemon.tick(at(1.0))
    number = ask(daemon, 1.5)

    def dies(*_):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("autotuner.daemon.checkpoints.ask", dies)
        with pytest.raises(Killed):
            daemon.tick(at(2.0))
    assert cats.request is None
    daemon = started(100.0)
    daemon.tick(at(101.0))
    with Journal(daemon.journal.path) as outside:
        outside.update_run("cats-1", own_mode="observe")
        outside.commit()
    daemon.tick(at(102.0))
    assert seen(daemon, number) == (False, "no daemon heard it in time; ask again")
    assert cats.request is None


def test_an_overdue_request_stays_overdue_after_a_restart(started, cats):
    daemon = started(checkpoint_seconds=30.0)
    daemon.tick(at(1.0))
    number = ask(daemon, 1.5)
    for now in (2.0, 40.0):
        daemon.tick(at(now))
    daemon = started(100.0, checkpoint_seconds=30.0)
    for now in (101.0, 200.0):
        daemon.tick(at(now))
    assert daemon.snapshot.runs[0].checkpoints_unanswered == 0
    assert told(daemon.live["cats-1"], 200.0) == ""
    cats.answer()
    daemon.tick(at(201.0))
    assert seen(daemon, number)[0]


@pytest.mark.parametrize("other", [{"number": 99}, {"asked_unix": 1.0}])
def test_an_answer_to_another_request_is_none(started, cats, other):
    daemon = started()
    daemon.tick(at(1.0))
    number = ask(daemon, 1.5)
    daemon.tick(at(2.0))
    cats.answer(**other)
    daemon.tick(at(3.0))
    assert seen(daemon, number) == (None, "")


def test_a_journal_that_is_lost_numbers_anew_and_no_old_request_is_taken_for_a_new_one(started, cats):
    daemon = started()
    daemon.tick(at(1.0))
    ask(daemon, 1.5)
    daemon.tick(at(2.0))
    cats.answer()
    daemon.tick(at(3.0))
    daemon = started(100.0, forgets=True)
    daemon.tick(at(101.0))
    number = ask(daemon, 101.5)
    daemon.tick(at(102.0))
    assert seen(daemon, number) == (False, "its number was used before; ask again")
    again = ask(daemon, 102.5)
    daemon.tick(at(103.0))
    assert cats.request.number == again


def test_switched_off_nothing_is_asked(started, cats, tmp_path):
    daemon = started()
    daemon.tick(at(1.0))
    switch_off(tmp_path)
    daemon.tick(at(2.0))
    number = ask(daemon, 2.5)
    daemon.tick(at(3.0))
    assert not seen(daemon, number)[0]
    assert cats.request is None


def test_a_failure_that_was_written_down_is_not_told_again_after_a_restart(started, cats):
    daemon = started()
    daemon.tick(at(1.0))
    number = ask(daemon, 1.5)
    daemon.tick(at(2.0))
    cats.answer(False, "no room")
    daemon.tick(at(3.0))
    daemon = started(100.0)
    daemon.tick(at(101.0))
    assert seen(daemon, number) == (False, "cats-1 could not save at step 7: no room")
    assert daemon.live["cats-1"].checkpoint is None


def test_the_command_waits_for_the_run_and_explain_tells_it(started, cats, tmp_path, monkeypatch, capsys):
    """Ask, answer, and read: words, the document, and exit codes."""
    daemon = started()
    daemon.tick(at(1.0))
    monkeypatch.setattr("autotuner.cli.checkpoint.running", lambda state: None)
    monkeypatch.setattr("autotuner.cli.request.running", lambda state: None)
    monkeypatch.setattr("autotuner.cli.checkpoint.time.time", lambda: UNIX + 1.5)
    outcomes = iter((True, False))

    def look(seconds):
        """The daemon's tick and the script's answer while the command waits."""
        daemon.tick(at(2.0))
        if cats.request is not None and answer_on(cats.page.read()) is None:
            cats.answer(next(outcomes), "/out/a")

    monkeypatch.setattr("autotuner.daemon.wishes.time.sleep", look)
    assert main(["checkpoint", "cats", "--state-dir", str(tmp_path), "--json"]) == 0
    out = capsys.readouterr().out
    said = json.loads(out[out.index('{\n "done"') :])  # behind the daemon's log
    assert (said["done"], said["path"], said["answer"]) == (True, "/out/a", "cats-1 saved step 7 to /out/a")
    assert main(["explain", "cats", "--state-dir", str(tmp_path), "--short"]) == 0
    assert "you asked to save /out/a  [done]" in capsys.readouterr().out


def test_the_command_tells_a_refusal_by_its_exit_code(started, tmp_path, monkeypatch, capsys):
    Cats(tmp_path)
    daemon = started()
    daemon.tick(at(1.0))
    monkeypatch.setattr("autotuner.cli.checkpoint.running", lambda state: None)
    monkeypatch.setattr("autotuner.cli.request.running", lambda state: None)
    monkeypatch.setattr("autotuner.cli.checkpoint.time.time", lambda: UNIX + 1.5)
    monkeypatch.setattr("autotuner.daemon.wishes.time.sleep", lambda seconds: daemon.tick(at(2.0)))
    assert main(["checkpoint", "cats", "--restore", "--state-dir", str(tmp_path)]) == 1
    assert "its script has declared neither" in capsys.readouterr().out


def test_without_a_daemon_nothing_is_asked(started, cats, tmp_path, capsys):
    started().tick(at(1.0))
    assert main(["checkpoint", "cats", "--state-dir", str(tmp_path)]) == 4
    assert "no daemon is running" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["a" * 2000, "a\nb"])
def test_a_path_that_fits_no_page_is_refused(tmp_path, path, capsys):
    assert main(["checkpoint", "cats", "--state-dir", str(tmp_path), "--restore", path]) == 1
    assert "allowed are 1024" in capsys.readouterr().err
