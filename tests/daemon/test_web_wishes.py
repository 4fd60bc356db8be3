"""What may be changed over HTTP: nothing without a token, and with it what the command line may."""

import http.client
import json
import os
import threading
from contextlib import closing

import pytest

from autotuner.cli import main
from autotuner.config import Config
from autotuner.daemon import web
from autotuner.daemon.modes import off_notice
from autotuner.daemon.process import web_wishes
from autotuner.daemon.web_wishes import LONGEST_BODY_BYTES, WISHES, WebWishes, read_token
from autotuner.errors import ConfigurationError
from autotuner.journal import Reader
from tests.daemon.sample_snapshot import SNAPSHOT
from tests.suites.fake_run import FakeRun
from tests.suites.hand_driven_daemon import at, kill, start_daemon

TOKEN = "correct-horse-battery-staple"
ALLOWED = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}


@pytest.fixture
def daemon(tmp_path, monkeypatch):
    started = start_daemon(tmp_path, monkeypatch)
    cats = FakeRun(tmp_path)
    cats.train(0.0, 1.0)
    started.tick(at(1.0))
    yield started
    kill(started)


@pytest.fixture
def server(daemon, tmp_path):
    wishes = WebWishes(tmp_path, TOKEN, wait_seconds=0.0)
    with closing(web.serve(lambda: SNAPSHOT, 0, daemon.journal.path, wishes)) as running:
        yield running


def post(server, path, body=None, headers=ALLOWED, raw=None):
    data = raw if raw is not None else json.dumps(body or {}).encode()
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as connection:
        connection.request("POST", path, data, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read()), dict(answer.getheaders())


def test_without_a_token_nothing_can_be_changed(tmp_path):
    assert web_wishes(Config(tmp_path)) is None
    with closing(web.serve(lambda: SNAPSHOT, 0, tmp_path / "none")) as running:
        for name in WISHES:
            with closing(http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)) as connection:
                connection.request("POST", f"/api/{name}", b"{}", ALLOWED)
                assert connection.getresponse().status == 501
    assert off_notice(tmp_path) == ""


def test_a_pin_and_its_release_reach_the_run_like_those_of_the_command_line(server, daemon, tmp_path):
    status, answer, _ = post(server, "/api/pin", {"run": "cats", "knob": "micro_batch", "value": 16})
    assert (status, answer) == (200, {"done": True, "answer": "pinned micro_batch of cats-1 at 16"})
    daemon.tick(at(2.0))
    assert set(daemon.live["cats-1"].loop.pinned) == {"micro_batch"}
    assert post(server, "/api/release", {"run": "cats-1", "knob": "micro_batch"})[0] == 200
    daemon.tick(at(3.0))
    assert not daemon.live["cats-1"].loop.pinned


def test_a_mode_and_the_switch(server, daemon, tmp_path):
    assert post(server, "/api/mode", {"run": "cats", "mode": "observe"})[0] == 200
    daemon.tick(at(2.0))
    assert daemon.live["cats-1"].mode == "observe"
    assert post(server, "/api/off")[0] == 200
    assert off_notice(tmp_path)
    assert post(server, "/api/on")[0] == 200
    assert off_notice(tmp_path) == ""


@pytest.mark.parametrize(
    ("wish", "words"),
    [("undo", "has not answered micro_batch 32 to 16 yet"), ("checkpoint", "cannot save")],
)
def test_what_only_the_daemon_can_do_is_answered_by_it(daemon, tmp_path, wish, words):
    wishes = WebWishes(tmp_path, TOKEN)
    answers = []
    with closing(web.serve(lambda: SNAPSHOT, 0, daemon.journal.path, wishes)) as running:
        asking = threading.Thread(target=lambda: answers.append(post(running, f"/api/{wish}", {"run": "cats"})))
        asking.start()
        moment = 2.0
        while asking.is_alive():
            moment += 0.01
            daemon.tick(at(moment))
    status, answer, _ = answers[0]
    assert (status, answer["done"]) == (409, False)
    assert words in answer["answer"]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/api/pin", {"run": "cats", "knob": "micro_batch", "value": 17}, 409, "not on the run's ladder"),
        ("/api/pin", {"run": "cats", "knob": "colour"}, 409, "offers no knob 'colour'"),
        ("/api/pin", {"run": "dogs", "knob": "pace"}, 409, "no run is called 'dogs'"),
        ("/api/pin", {"run": "cats"}, 400, "pin needs knob"),
        ("/api/pin", {"run": "cats", "knob": "pace", "value": "1"}, 400, "allowed is a number"),
        ("/api/pin", {"run": "cats", "knob": "pace", "colour": 1}, 400, "no field 'colour'"),
        ("/api/mode", {"run": "cats", "mode": "wild"}, 409, "allowed: observe, advise, act, machine"),
        ("/api/accept", {"id": "x"}, 409, "no advice 'x' stands"),
        ("/api/undo", {"run": "cats"}, 409, "did not answer"),
        ("/api/checkpoint", {"run": "cats", "kind": "burn"}, 400, "one of save, restore"),
        ("/api/checkpoint", {"run": "cats", "path": "/etc"}, 400, "no field 'path'"),
        ("/api/checkpoint", {"run": "cats"}, 409, "did not answer"),
        ("/api/other", {}, 404, "/api/pin"),
        ("/", {}, 404, "no such wish"),
    ],
)
def test_a_wish_that_cannot_be_granted_says_why(server, path, body, status, words):
    found, answer, _ = post(server, path, body)
    assert (found, answer["done"]) == (status, False)
    assert words in answer["answer"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": TOKEN}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"Authorization": f"Bearer {TOKEN[:-1]}"}, 401),
        ({"Authorization": f"Basic {TOKEN}"}, 401),
        ({"Authorization": "Bearer \u00ff"}, 401),
        ({**ALLOWED, "Content-Type": "text/plain"}, 415),
        ({**ALLOWED, "Origin": "http://127.0.0.1:9871"}, 403),
        ({**ALLOWED, "Origin": "null"}, 403),
        ({**ALLOWED, "Host": "evil.example"}, 421),
        ({**ALLOWED, "Content-Length": "-1"}, 411),
        ({**ALLOWED, "Content-Length": "1e3"}, 411),
        ({**ALLOWED, "Content-Length": "9" * 400}, 413),
        ({**ALLOWED, "Content-Length": str(LONGEST_BODY_BYTES + 1)}, 413),
    ],
)
def test_who_has_no_token_or_comes_from_a_web_page_changes_nothing(server, tmp_path, headers, status):
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as connection:
        connection.putrequest("POST", "/api/off", skip_host="Host" in headers)
        for name, value in {"Content-Length": "2", "Content-Type": "application/json", **headers}.items():
            connection.putheader(name, value)
        connection.endheaders(b"{}")
        answer = connection.getresponse()
        answer.read()
    assert answer.status == status
    assert (answer.getheader("WWW-Authenticate") == "Bearer") is (status == 401)
    assert answer.getheader("Connection") == "close"
    assert off_notice(tmp_path) == ""


@pytest.mark.parametrize("raw", [b"[]", b"{", b"\xff", b'{"run": NaN}', b'{"run": "a", "run": "b"}', b"[" * 4000])
def test_a_body_that_is_no_object_is_refused(server, raw):
    assert post(server, "/api/undo", raw=raw)[0] == 400


def test_a_browser_that_asks_whether_it_may_is_told_no(server):
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as connection:
        connection.request("OPTIONS", "/api/off", headers={"Origin": "http://evil.example"})
        answer = connection.getresponse()
        assert answer.status == 501
        assert not any(name.lower().startswith("access-control") for name, _ in answer.getheaders())


def write(path, text, mode=0o600):
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_token_is_read_from_a_file_of_its_owner_alone(tmp_path):
    path = tmp_path / "token"
    assert read_token(write(path, f"{TOKEN}\n")) == TOKEN
    for mode in (0o640, 0o604, 0o660):
        with pytest.raises(ConfigurationError, match=f"has mode {mode:04o}"):
            read_token(write(path, TOKEN, mode))
    for text in ("", "short", "two words of a long token", "\x00" * 20, "ä" * 20, "x" * 2000):
        with pytest.raises(ConfigurationError, match="holds no token"):
            read_token(write(path, text))
    path.unlink()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_token(path)
    os.mkfifo(path, 0o600)
    with pytest.raises(ConfigurationError, match="holds no token"):
        read_token(path)


def test_a_daemon_with_a_token_file_that_others_may_read_does_not_start(tmp_path, capsys):
    path = write(tmp_path / "token", TOKEN, 0o644)
    arguments = ["daemon", "--state-dir", str(tmp_path / "state"), "--http-token-file", str(path), "--port", "0"]
    assert main(arguments) != 0
    assert "allowed is 0600" in capsys.readouterr().err


def test_a_wish_says_what_the_command_line_says(server, tmp_path, capsys):
    assert main(["pin", "cats", "pace", "--state-dir", str(tmp_path)]) == 0
    said = capsys.readouterr().out.strip()
    assert post(server, "/api/pin", {"run": "cats", "knob": "pace"})[1]["answer"] == said
    with Reader(tmp_path / "journal.sqlite3") as reader:
        assert [pin.knob for pin in reader.pins()] == ["pace"]
