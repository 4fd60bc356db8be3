"""Requests to save and to restore, of clients over the socket."""

import json
import os

import pytest

from autotuner.daemon.run_files import PAGE
from autotuner.daemon.socket_peer import Peer
from autotuner.daemon.socket_session import Session
from autotuner.hook.checkpoint import Answer, Request, ability_on, answer_on, ask, withdraw
from autotuner.hook.page import PageWriter
from autotuner.journal import Journal, RequestRecord
from tests.suites.hand_driven_daemon import UNIX, at, kill, start_daemon

ME = Peer(os.getpid(), os.getuid())
DECLARE = {"type": "declare", "name": "cats", "can_save": True}


class Client:
    """A session without a socket: ``say`` and ``look`` return what the daemon sends."""

    def __init__(self, state, declare=DECLARE):
        self.session = Session(state, ME, now=0.0)
        (self.declared,) = self.say(declare)
        self.page = PageWriter(state / "runs" / self.declared["run"] / PAGE)

    def say(self, message):
        self.session.take(json.dumps(message).encode() + b"\n", 1.0, unix=1000.0)
        return self._sent()

    def look(self):
        self.session.look(1.0)
        return self._sent()

    def _sent(self):
        lines = bytes(self.session.outgoing).splitlines()
        self.session.outgoing.clear()
        return [json.loads(line) for line in lines]


@pytest.fixture
def client(tmp_path):
    client = Client(tmp_path)
    yield client
    client.page.close()


def test_a_client_is_asked_once_and_its_answer_is_on_the_page(client):
    assert ability_on(client.page.read()) == ("save",)
    assert client.look() == []
    ask(client.page, Request(3, 1e9, "save"))
    assert client.look() == [{"type": "checkpoint", "request": 3, "kind": "save", "path": ""}]
    assert client.look() == []
    assert client.say({"type": "checkpoint", "request": 3, "step": 9, "path": "/out/a"}) == []
    assert answer_on(client.page.read()) == Answer(3, 1e9, 9, True, "/out/a")


def test_a_client_says_why_it_could_not(client):
    ask(client.page, Request(3, 1e9, "save"))
    client.look()
    client.say({"type": "checkpoint", "request": 3, "step": 9, "failed": "no room"})
    assert answer_on(client.page.read()) == Answer(3, 1e9, 9, False, "no room")


def test_a_withdrawn_request_is_not_sent_but_an_answer_to_it_is_taken(client):
    request = Request(3, 1e9, "save")
    ask(client.page, request)
    withdraw(client.page, request)
    assert client.look() == []
    assert client.say({"type": "checkpoint", "request": 3, "step": 9}) == []


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ({"request": 4, "step": 1}, "request"),
        ({"request": 0, "step": 1}, "request"),
        ({"request": True, "step": 1}, "request"),
        ({"request": 3}, "step"),
        ({"request": 3, "step": -1}, "step"),
        ({"request": 3, "step": 1, "path": "a" * 1025}, "path"),
        ({"request": 3, "step": 1, "path": ["/"]}, "path"),
        ({"request": 3, "step": 1, "why": "no"}, "why"),
    ],
)
def test_a_malformed_answer_is_refused_with_its_field(client, line, field):
    ask(client.page, Request(3, 1e9, "save"))
    client.look()
    (error,) = client.say({"type": "checkpoint", **line})
    assert (error["type"], error["field"]) == ("error", field)
    assert answer_on(client.page.read()) is None


def test_nothing_was_asked(client):
    (error,) = client.say({"type": "checkpoint", "request": 1, "step": 1})
    assert error["message"] == "request is 1; nothing was asked"


def test_after_resume_a_request_of_before_is_not_sent_again_and_can_be_answered(client, tmp_path):
    client.say({"type": "report", "step": 1})
    ask(client.page, Request(3, 1e9, "save"))
    client.look()
    again = Client(tmp_path, {"type": "resume", "run": client.declared["run"]})
    assert again.look() == []
    assert again.say({"type": "checkpoint", "request": 3, "step": 9, "path": "/out/a"}) == []
    assert answer_on(again.page.read()).done
    again.page.close()


def test_the_daemon_asks_such_a_run_like_any_other(client, tmp_path, monkeypatch):
    daemon = start_daemon(tmp_path, monkeypatch)
    try:
        daemon.tick(at(1.0))
        numbers = []
        for kind in ("restore", "save"):
            with Journal(daemon.journal.path) as outside:
                numbers.append(outside.ask(RequestRecord(kind, client.declared["run"], "", UNIX + 1.5)))
        daemon.tick(at(2.0))
        assert "cannot restore: it can only save" in daemon.journal.request(numbers[0]).answer
        (line,) = client.look()
        client.say({"type": "checkpoint", "request": line["request"], "step": 5, "path": "/out/a"})
        daemon.tick(at(3.0))
        assert daemon.journal.request(numbers[1]).answer.endswith("saved step 5 to /out/a")
    finally:
        kill(daemon)
