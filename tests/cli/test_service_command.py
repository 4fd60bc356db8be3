"""``autotuner service``: what the login service is told, and the daemon's log."""

import json

import pytest

from autotuner.cli import main
from autotuner.cli.service import follow
from autotuner.daemon.service import Status


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOTUNER_STATE_DIR", str(tmp_path))
    return tmp_path


def run(capsys, *words):
    code = main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


class Service:
    path = "/the/file"

    def __getattr__(self, name):
        return lambda: Status("it runs", True) if name == "status" else f"{name} done\n"


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("install", "install done"), ("uninstall", "uninstall done"), ("remove", "uninstall done"), ("status", "it runs"),
        ("restart", "restart done"), ("print", "print done"),
    ],
)  # fmt: skip
def test_the_service_is_told_what_to_do_for_this_state_directory(capsys, state, monkeypatch, action, said):
    asked = []
    monkeypatch.setattr("autotuner.cli.service.platform_service", lambda directory: asked.append(directory) or Service())
    assert run(capsys, "service", action)[:2] == (0, f"{said}\n")
    assert asked == [state]
    assert json.loads(run(capsys, "service", action, "--json")[1])["said"] == said


def test_the_status_of_a_service_that_does_not_run_is_one(capsys, state, monkeypatch):
    monkeypatch.setattr("autotuner.cli.service.platform_service", lambda directory: Service())
    monkeypatch.setattr(Service, "status", lambda self: Status("not installed", False), raising=False)
    assert run(capsys, "service", "status")[:2] == (1, "not installed\n")


def test_the_log_is_shown_across_its_rotation(capsys, state):
    code, _, err = run(capsys, "service", "logs")
    assert code == 1
    assert "no daemon has run with this state directory yet" in err
    (state / "logs").mkdir()
    (state / "logs" / "daemon.log.1").write_text("one\ntwo\n")
    (state / "logs" / "daemon.log").write_text("three\n")
    assert run(capsys, "service", "logs", "--lines", "2")[:2] == (0, "two\nthree\n")
    assert json.loads(run(capsys, "service", "logs", "--json")[1])["lines"] == ["one", "two", "three"]


def test_new_lines_are_followed_through_a_rotation(tmp_path):
    log = tmp_path / "daemon.log"
    log.write_text("old\n")

    def happens(seconds):
        writing = next(acts, None)
        assert writing is not None, "nothing more will come"
        writing()

    def append(words):
        with log.open("a") as file:
            file.write(words)

    acts = iter((
        lambda: append("new, hal"),
        lambda: append("f\n"),
        lambda: log.rename(tmp_path / "daemon.log.1"),
        lambda: log.write_text("after\n"),
    ))  # fmt: skip
    lines = follow(log, wait=happens)
    assert [next(lines), next(lines)] == ["new, half", "after"]
    lines.close()
