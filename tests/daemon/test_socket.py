"""Runs that are told over the Unix socket: their lines and their files."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from autotuner.daemon import socket_run
from autotuner.daemon.ending import LOST_SECONDS
from autotuner.daemon.run_files import PAGE, RING, RunFiles, read_declaration
from autotuner.daemon.socket_lines import LONGEST_LINE_BYTES, MESSAGES, LineError, parse
from autotuner.daemon.socket_peer import Peer
from autotuner.daemon.socket_session import BURST_LINES, LINES_A_SECOND, MOST_UNREAD_BYTES, Session
from autotuner.messages import Acknowledgement, Evaluation, Goodbye, Sample
from tests.suites.fake_run import FakeRun
from tests.suites.hand_driven_daemon import at, kill, start_daemon
from tests.suites.socket_messages import DECLARE, ME


class Client:
    """A session without a socket: ``say`` returns the answers."""

    def __init__(self, state, peer=ME):
        self.state = state
        self.session = Session(state, peer, now=0.0)

    def say(self, message, now=1.0):
        line = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.session.take(line + b"\n", now, unix=1000.0)
        return self.answers()

    def answers(self):
        lines = bytes(self.session.outgoing).splitlines()
        self.session.outgoing.clear()
        return [json.loads(line) for line in lines]

    def look(self, now=1.0):
        self.session.look(now)
        return self.answers()

    @property
    def directory(self):
        return self.state / "runs" / self.session.run.run_id


@pytest.fixture
def client(tmp_path):
    client = Client(tmp_path)
    (answer,) = client.say(DECLARE)
    assert (answer["type"], answer["values"]) == ("declared", {"micro_batch": 8, "pace": 1.0})
    return client


def test_a_declared_run_has_the_files_of_any_other(client):
    declaration = read_declaration(client.directory)
    assert (declaration.name, declaration.pid, declaration.run_id) == ("cats", ME.pid, client.directory.name)
    assert (client.directory / RING).stat().st_mode & 0o077 == 0
    assert (client.directory / PAGE).stat().st_mode & 0o077 == 0
    assert client.directory.stat().st_mode & 0o077 == 0


def test_who_does_not_read_is_told_no_more_until_it_does_and_then_the_newest(client):
    files = RunFiles(client.directory)
    client.session.outgoing += b"x" * MOST_UNREAD_BYTES
    for position in (0, 1):
        files.page.write((position, 1), 0.5)
        client.session.look(1.0)
    assert len(client.session.outgoing) == MOST_UNREAD_BYTES
    client.session.outgoing.clear()
    (told,) = client.look(2.0)
    assert told["values"] == {"micro_batch": 4, "pace": 1.0}
    files.close()


def test_reports_evaluations_and_the_end_arrive_in_the_ring(client):
    files = RunFiles(client.directory)
    assert client.say({"type": "report", "step": 3, "loss": 0.5, "images": 24, "peak_bytes": 7}, now=2.0) == []
    assert client.say({"type": "report", "step": 4, "loss": None, "not_finite": True}) == []
    assert client.say({"type": "evaluation", "step": 4, "held_out_loss": 0.25}) == []
    assert client.say({"type": "end", "outcome": "failed"})[0]["type"] == "ended"
    first, second, evaluation, goodbye = files.read()
    assert isinstance(first, Sample)
    assert (first.step, first.loss, first.images, first.peak_bytes, first.time) == (3, 0.5, 24, 7, 2.0)
    assert second.loss != second.loss
    assert second.flags == 1
    assert isinstance(evaluation, Evaluation)
    assert evaluation.held_out_loss == 0.25
    assert isinstance(goodbye, Goodbye)
    assert goodbye.outcome == 2


def test_a_change_is_told_once_and_in_force_when_it_is_acknowledged(client):
    files = RunFiles(client.directory)
    assert client.look() == []
    files.write((1, 1), 1.0)
    assert client.look() == [{"type": "knobs", "revision": 1, "values": {"micro_batch": 4, "pace": 1.0}}]
    assert client.look() == []
    client.say({"type": "report", "step": 5, "loss": 1})
    assert client.say({"type": "acknowledge", "revision": 1, "step": 6}) == []
    client.say({"type": "report", "step": 6, "loss": 1})
    before, answer, after = files.read()
    assert (before.revision, after.revision) == (0, 1)
    assert answer == Acknowledgement(1, 6, 1.0, positions=(1, 1))


def test_a_client_may_refuse_and_keeps_its_values(client):
    files = RunFiles(client.directory)
    files.write((0, 1), 1.0)
    client.look()
    client.say({"type": "acknowledge", "revision": 1, "step": 6, "refused": True})
    (answer,) = files.read()
    assert answer.refused
    assert answer.positions == (2, 1)
    assert client.session.run.values["micro_batch"] == 8


def test_what_is_not_on_a_ladder_is_refused_without_asking_the_client(client):
    files = RunFiles(client.directory)
    files.write((9, 1), 1.0)
    assert client.look() == []
    (answer,) = files.read()
    assert (answer.refused, answer.detail) == (True, 1)


def test_an_answer_to_nothing_is_an_error_that_names_the_revision(client):
    (answer,) = client.say({"type": "acknowledge", "revision": 4, "step": 1})
    assert (answer["type"], answer["field"]) == ("error", "revision")


def test_a_knob_that_the_client_sets_is_told_like_any_script_change(client):
    files = RunFiles(client.directory)
    assert client.say({"type": "set", "step": 9, "values": {"micro_batch": 2}}) == []
    assert files.read() == [Acknowledgement(0, 9, 1.0, positions=(0, 1))]
    (answer,) = client.say({"type": "set", "step": 9, "values": {"micro_batch": 3}})
    assert "[2, 4, 8]" in answer["message"]


def test_a_run_goes_on_over_a_new_connection_of_its_process(client):
    files = RunFiles(client.directory)
    files.write((1, 1), 1.0)
    client.look()
    client.say({"type": "acknowledge", "revision": 1, "step": 6})
    again = Client(client.state)
    (answer,) = again.say({"type": "resume", "run": client.directory.name})
    assert (answer["type"], answer["values"]["micro_batch"]) == ("resumed", 4)
    again.say({"type": "report", "step": 7, "loss": 1})
    *_, last = files.read()
    assert (last.step, last.revision, files.lost) == (7, 1, 0)


@pytest.mark.parametrize("run", ["../runs", "..", "/etc", "cats", "", "\x00"])
def test_a_run_is_never_found_by_a_path(client, run):
    (answer,) = Client(client.state).say({"type": "resume", "run": run})
    assert (answer["type"], answer["field"]) == ("error", "run")


def test_another_process_cannot_take_a_run_over(client):
    (answer,) = Client(client.state, Peer(1, ME.uid)).say({"type": "resume", "run": client.directory.name})
    assert "declared by process" in answer["message"]


@pytest.mark.parametrize("name", ["../../etc/passwd", "/tmp/x", "..", "a\x00b", "ä" * 200])
def test_a_name_never_becomes_a_path(tmp_path, name):
    client = Client(tmp_path)
    assert client.say({**DECLARE, "name": name})[0]["type"] == "declared"
    assert client.directory.resolve().parent == (tmp_path / "runs").resolve()
    assert {entry.name for entry in tmp_path.iterdir()} == {"runs"}


BAD = [
    (b"", None),
    (b"{", ""),
    (b"[]", ""),
    (b"\xff\xfe", ""),
    (b"[" * 60_000, ""),
    (b'{"type": "report", "step": 1, "step": 2}', ""),
    (b'{"type": "report", "step": 1, "loss": NaN}', ""),
    (b'{"type": "report", "step": 1, "loss": 1e999}', "loss"),
    (b'{"type": "report", "step": 1, "loss": "1"}', "loss"),
    (b'{"type": "report", "step": -1}', "step"),
    (b'{"type": "report", "step": true}', "step"),
    (b'{"type": "report", "step": 1.5}', "step"),
    (b'{"type": "report", "step": 1e30}', "step"),
    (b'{"type": "report", "loss": 1}', "step"),
    (b'{"type": "report", "step": 1, "los": 1}', "los"),
    (b'{"type": "nothing"}', "type"),
    (b'{"type": ["report"]}', "type"),
    (b'{"type": "declare", "name": "two"}', "type"),
    (b'{"type": "end", "outcome": []}', "outcome"),
    (b'{"type": "set", "step": 1, "values": {"pace": {}}}', "values"),
    (b'{"type": "set", "step": 1, "values": {"other": 1}}', "values"),
]


@pytest.mark.parametrize(("line", "field"), BAD)
def test_a_bad_line_is_answered_with_its_field_and_the_connection_stays(client, line, field):
    answers = client.say(line)
    assert [answer["field"] for answer in answers] == ([] if field is None else [field])
    assert client.say({"type": "report", "step": 1, "loss": 1.0}) == []
    assert len(RunFiles(client.directory).read()) == 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"knobs": {"micro_batch": {"start": 3, "values": [2]}}}, "knobs.micro_batch"),
        ({"knobs": {"micro_batch": {"start": 2, "values": ["2", 2]}}}, "knobs.micro_batch"),
        ({"knobs": {"micro_batch": {"start": 2, "values": [[], 2]}}}, "knobs.micro_batch"),
        ({"knobs": {"colour": {"start": 3, "values": [3]}}}, "knobs.colour"),
        ({"knobs": {"pace": {"start": 1}}}, "values"),
        ({"knobs": []}, "knobs"),
        ({"name": " "}, "name"),
        ({"max_shapes": 0}, "max_shapes"),
        ({"budget_seconds": -1}, "budget_seconds"),
        ({"search_space": {"width": []}}, "search_space"),
        ({"model": {"width": 10**400}}, "model"),
    ],
)
def test_a_bad_declaration_leaves_nothing_behind(tmp_path, change, field):
    (answer,) = Client(tmp_path).say({**DECLARE, **change})
    assert (answer["type"], answer["field"]) == ("error", field)
    assert not list(tmp_path.glob("runs/*"))


def test_a_line_that_is_too_long_is_refused_once_and_the_next_one_is_read(client):
    client.session.take(b"x" * (LONGEST_LINE_BYTES + 1), 1.0, 1.0)
    client.session.take(b"y" * LONGEST_LINE_BYTES + b"\n", 1.0, 1.0)
    (answer,) = client.answers()
    assert str(LONGEST_LINE_BYTES) in answer["message"]
    assert client.say({"type": "report", "step": 1}) == []
    assert len(RunFiles(client.directory).read()) == 1


def test_a_client_over_its_rate_is_read_later(client):
    session = client.session
    assert session.may_read(1.0)
    session.take(b"\n" * int(BURST_LINES), 1.0, 1.0)
    assert not session.may_read(1.0)
    assert session.may_read(1.0 + 2 / LINES_A_SECOND)


def test_a_client_that_does_not_listen_is_not_read(client):
    client.session.outgoing += b"x" * MOST_UNREAD_BYTES
    assert not client.session.may_read(1.0)


def test_a_run_whose_directory_is_deleted_disturbs_nobody(client):
    for file in client.directory.iterdir():
        file.unlink()
    client.directory.rmdir()
    assert client.say({"type": "report", "step": 1}) == []  # into a file without a name
    assert client.say({"type": "end"})[0]["type"] == "ended"
    assert client.say(DECLARE)[0]["type"] == "declared"


def test_every_message_and_field_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
    section = text[text.index("## The socket") :]
    names = {*MESSAGES, *(name for fields in MESSAGES.values() for name in fields)}
    assert {name for name in names if f"`{name}`" not in section} == set()


def test_parsing_fills_in_defaults():
    assert parse(b'{"type": "end"}') == ("end", {"outcome": "finished"})
    with pytest.raises(LineError, match="allowed are declare"):
        parse(b"{}")


# What becomes of a run whose client has gone.


def follow(tmp_path, monkeypatch, moments):
    daemon = start_daemon(tmp_path, monkeypatch, now=moments[0])
    try:
        for moment in moments:
            daemon.tick(at(moment))
        return {run.run_id: (run.state, daemon.journal.run(run.run_id).outcome) for run in daemon.snapshot.runs}
    finally:
        kill(daemon)


def test_a_run_that_nobody_resumes_is_lost_after_ten_minutes_though_its_process_lives(client, tmp_path, monkeypatch):
    run, client.session = client.directory.name, None  # the daemon that had the connection was killed
    assert follow(tmp_path, monkeypatch, (1000.0, 1000.0 + LOST_SECONDS)) == {run: ("live", "")}
    assert follow(tmp_path, monkeypatch, (5000.0, 5001.0 + LOST_SECONDS)) == {run: ("ended", "lost")}
    (answer,) = Client(tmp_path).say({"type": "resume", "run": run})
    assert (answer["type"], answer["field"]) == ("error", "run")
    assert "is lost" in answer["message"]


def test_a_run_with_a_connection_is_never_lost_and_a_resumed_one_begins_again(client, tmp_path, monkeypatch):
    run = client.directory.name
    assert follow(tmp_path, monkeypatch, (1000.0, 1001.0 + LOST_SECONDS)) == {run: ("live", "")}
    client.session = None
    again = Client(tmp_path)
    again.say({"type": "resume", "run": run})
    assert follow(tmp_path, monkeypatch, (2000.0, 2001.0 + LOST_SECONDS)) == {run: ("live", "")}


def test_a_run_that_is_resumed_while_it_is_given_up_is_not_taken(client, monkeypatch):
    run, client.session, state = client.directory.name, None, client.state
    lock = socket_run.fcntl.flock

    def flock(number, operation):
        assert RunFiles(state / "runs" / run).unconnected(lose=True)
        lock(number, operation)

    monkeypatch.setattr(socket_run, "fcntl", SimpleNamespace(flock=flock, LOCK_SH=socket_run.fcntl.LOCK_SH))
    (answer,) = Client(state).say({"type": "resume", "run": run})
    assert (answer["type"], answer["field"]) == ("error", "run")


def test_a_run_of_the_hook_is_never_lost(tmp_path, monkeypatch):
    cats = FakeRun(tmp_path)
    cats.train(0.0, 1.0)
    assert follow(tmp_path, monkeypatch, (2.0, 3.0 + LOST_SECONDS)) == {"cats-1": ("stalled", "")}
