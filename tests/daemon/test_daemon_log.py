"""The daemon's log on disk: it rotates, and under launchd it is the only one."""

import logging

import pytest
import structlog

from autotuner.daemon import log
from autotuner.daemon.log import configure_log, get_log, log_path


@pytest.fixture(autouse=True)
def restored_logging():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def test_the_log_rotates_and_keeps_the_newest_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "LOG_BYTES", 2000)
    configure_log("info", tmp_path / "logs", to_stderr=False)
    for number in range(500):
        get_log().info("event", number=number)
    files = sorted((tmp_path / "logs").iterdir())
    assert [file.name for file in files] == ["daemon.log", "daemon.log.1", "daemon.log.2", "daemon.log.3"]
    assert all(file.stat().st_size <= 2000 for file in files)
    assert "number=499" in log_path(tmp_path).read_text()


def test_without_stderr_the_file_has_it_alone(tmp_path, capsys):
    configure_log("info", tmp_path / "logs", to_stderr=False)
    get_log().info("event")
    assert capsys.readouterr().err == ""
    assert "event=event" in log_path(tmp_path).read_text()


def test_what_no_file_can_take_goes_to_stderr_all_the_same(tmp_path, capsys):
    (tmp_path / "logs").write_text("a file")
    configure_log("info", tmp_path / "logs", to_stderr=False)
    get_log().info("event")
    assert "event=event" in capsys.readouterr().err
