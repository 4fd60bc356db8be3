"""Settings that change while the daemon runs: SIGHUP, ``config reload``, and what a wrong file does."""

import os
import pty
import select
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from autotuner.cli import main
from autotuner.cli.status import ask
from autotuner.config import AFTER_RESTART, Config, differences
from autotuner.daemon.address import Address, read_address, write_address
from autotuner.daemon.process import StopFlag, reload
from autotuner.errors import ConfigurationError
from tests.suites.fake_run import FakeRun
from tests.suites.hand_driven_daemon import at, kill, start_daemon


@pytest.fixture
def daemon(tmp_path, monkeypatch):
    started = start_daemon(tmp_path, monkeypatch, mode="observe")
    yield started
    kill(started)


class NoJobs:
    def reconfigure(self, config):
        self.config = config


def test_settings_are_compared_by_name(tmp_path):
    before = Config(tmp_path)
    assert differences(before, replace(before, mode="observe", port=1)) == {
        "mode": "mode act to observe", "port": "port 9871 to 1"
    }  # fmt: skip
    assert differences(before, before) == {}


def test_a_changed_mode_holds_from_the_next_tick(tmp_path, daemon):
    cats = FakeRun(tmp_path)
    cats.train(0.0, 4.0)
    daemon.tick(at(4.0))
    assert cats.asked() is None
    jobs = NoJobs()
    with capture_logs() as logs:
        reload(daemon, jobs, lambda: replace(daemon.config, mode="act", changes_per_hour=7, retention_days=1.0))
    assert logs[0]["taken_over"] == "mode observe to act, changes_per_hour 240 to 7, retention_days 30.0 to 1.0"
    cats.train(4.5, 6.0)
    daemon.tick(at(6.0))
    assert cats.asked() is not None
    assert daemon.snapshot.mode == "act"
    assert daemon.live["cats-1"].loop.guard.limits.changes_per_hour == 7
    assert jobs.config.retention_days == 1.0


def test_what_needs_a_restart_is_said_and_not_taken_over(daemon):
    reload(daemon, NoJobs(), lambda: replace(daemon.config, port=1, policy="hold", mode="advise"))
    daemon.tick(at(1.0))
    assert (daemon.config.port, daemon.config.policy, daemon.config.mode) == (9871, "default", "advise")
    assert daemon.snapshot.problems == ("a restart is needed for: port 9871 to 1, policy default to hold",)
    reload(daemon, NoJobs(), lambda: daemon.config)
    daemon.tick(at(2.0))
    assert daemon.snapshot.problems == ()


def test_every_setting_that_waits_for_a_restart_exists(tmp_path):
    assert all(hasattr(Config(tmp_path), name) for name in AFTER_RESTART)


def test_a_wrong_setting_leaves_those_of_before_and_is_told(daemon):
    def wrong():
        raise ConfigurationError("/x/autotuner.toml: mode = 'fast'; allowed: observe, advise, act")

    before = daemon.config
    with capture_logs() as logs:
        reload(daemon, NoJobs(), wrong)
    daemon.tick(at(1.0))
    assert daemon.config == before
    assert [log["event"] for log in logs] == ["settings_refused"]
    assert "those of before hold: /x/autotuner.toml: mode = 'fast'; allowed" in daemon.snapshot.problems[0]


def test_waiting_ends_once_for_a_signal_that_reloads():
    flag = StopFlag()
    before = signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    try:
        flag.install()
        os.kill(os.getpid(), signal.SIGHUP)
        flag.wait(3600.0)
        assert (flag.hung_up, flag.set) == (True, False)
        flag.hung_up = False
        flag.wait(0.01)
        flag.wait(0.01)  # nothing is left that would end it at once for ever
        assert not select.select([flag._read], [], [], 0)[0]
        os.kill(os.getpid(), signal.SIGTERM)
        flag.wait(3600.0)
        assert flag.set
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in zip((signal.SIGHUP, signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)
        flag._read.close()
        flag._write.close()


@pytest.fixture
def process(tmp_path, monkeypatch):
    """A real daemon in a session of its own, so without a terminal; its log comes through the pipe."""
    monkeypatch.setenv("AUTOTUNER_STATE_DIR", str(tmp_path))
    words = [sys.executable, "-m", "autotuner", "daemon", "--port", "0", "--policy", "hold", "--tick-seconds", "0.05"]
    started = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    started.until = lambda words: next(line for line in started.stderr if words in line)
    started.until("event=started")
    yield started
    started.terminate()
    started.stderr.read()
    started.stderr.close()
    assert started.wait() == 0


def test_a_real_daemon_reads_its_file_again_and_survives_a_wrong_one(tmp_path, process, capsys):
    file = tmp_path / "autotuner.toml"
    file.write_text('mode = "advise"\n')
    assert main(["config", "reload"]) == 0
    assert 'taken_over="mode act to advise"' in process.until("event=settings")
    file.write_text('mode = "fast"\n')
    assert main(["config", "reload"]) == 2, "the command tells of the wrong file and leaves the daemon alone"
    assert "allowed: observe, advise, act" in capsys.readouterr().err
    os.kill(process.pid, signal.SIGHUP)
    process.until("event=settings_refused")
    file.write_text('mode = "observe"\n')
    os.kill(process.pid, signal.SIGHUP)
    process.until("event=settings ")
    address = read_address(tmp_path)
    while (document := ask(address))["mode"] != "observe":
        pass
    assert document["problems"] == []


def test_a_process_that_has_the_dead_daemons_number_gets_no_signal(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AUTOTUNER_STATE_DIR", str(tmp_path))
    write_address(tmp_path, Address(os.getpid(), 1, 0.0, "0"))  # nothing answers at port 1
    monkeypatch.setattr(os, "kill", lambda pid, number: pytest.fail("told a stranger") if number else None)
    assert main(["config", "reload"]) == 4
    assert "does not answer, so nobody was told" in capsys.readouterr().err


def test_without_a_daemon_there_is_nobody_to_read_settings_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AUTOTUNER_STATE_DIR", str(tmp_path))
    assert main(["config", "reload"]) == 4
    assert "no daemon is running" in capsys.readouterr().err


def test_a_daemon_whose_terminal_is_closed_stops(tmp_path):
    pid, terminal = pty.fork()
    if pid == 0:
        words = ["-m", "autotuner", "daemon", "--port", "0", "--policy", "hold", "--tick-seconds", "0.05"]
        os.execv(sys.executable, [sys.executable, *words, "--state-dir", str(tmp_path)])
    said = b""
    while b"event=started" not in said:
        said += os.read(terminal, 65536)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert "event=stopped" in (tmp_path / "logs" / "daemon.log").read_text()
