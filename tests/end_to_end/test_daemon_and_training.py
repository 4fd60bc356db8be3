"""A real daemon beside real training processes."""

import json
import random
import signal
import sqlite3
import time
from dataclasses import replace

import pytest

from autotuner.hook.page import PageReader
from autotuner.journal import journal_path
from autotuner.telemetry.scripted import InjectedState
from tests.end_to_end.conftest import wait_for

HEAVY = ("torch", "mlx", "optuna", "mlflow", "gymnasium", "stable_baselines3", "matplotlib", "rich")


def test_a_run_is_tuned_shown_and_written_down(stage):
    daemon = stage.daemon()
    training = stage.train("cats")

    def answered():
        return [change for change in stage.changes(training.run_id) if change.state in ("acknowledged", "observed")]

    first = wait_for(answered, "an acknowledged change")[0]
    assert first.knob == "micro_batch"
    assert first.step > 0
    wait_for(lambda: training.run_id in stage.get("/metrics"), "the run on /metrics")
    assert json.loads(stage.get("/healthz"))["status"] == "ok"
    status = json.loads(stage.cli("status", "--json").stdout)
    assert [run["run_id"] for run in status["runs"]] == [training.run_id]
    explained = stage.cli("explain", "cats").stdout
    assert first.what in explained
    assert first.why in explained
    training.terminate()
    training.wait()
    wait_for(lambda: not stage.run(training.run_id).live, "the end of the run")
    daemon.terminate()
    assert daemon.wait(20) == 0
    assert stage.address() is None
    assert training.run_id in stage.cli("status").stdout
    assert "event=started" in (stage.state / "logs" / "daemon.log").read_text()


def test_a_pin_on_the_command_line_reaches_the_script(stage):
    stage.daemon(policy="hold")
    training = stage.train("cats")
    wait_for(lambda: stage.cli("pin", "cats", "micro_batch", "--value", "8").returncode == 0, "the run in the journal")
    page = PageReader(stage.state / "runs" / training.run_id / "knobs.page")
    wait_for(lambda: page.revision().number == 1, "the pinned value on the page")
    assert page.revision().positions == (1, 2)
    wait_for(lambda: stage.changes(training.run_id)[0].state != "delivered", "the acknowledgement")
    assert stage.changes(training.run_id)[0].reason == "pinned"
    said = stage.cli("release", "cats", "micro_batch")
    assert said.stdout == f"released micro_batch of {training.run_id}\n"


def test_a_training_killed_at_once_is_told_and_explained_by_the_journal(stage):
    stage.daemon(policy="hold")
    training = stage.train("cats")
    wait_for(lambda: f'"run_id": "{training.run_id}"' in stage.get("/api/status"), "the run on the status page")
    training.kill()
    training.wait()
    wait_for(lambda: stage.run(training.run_id).outcome, "the end of the run")
    run = stage.run(training.run_id)
    assert run.outcome == "killed"
    assert run.step > 0
    assert run.last_values == {"micro_batch": 32.0, "pace": 1.0}


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_a_daemon_killed_at_random_moments_tears_nothing_and_delivers_nothing_late(stage, tmp_path, kills):
    training = stage.train("cats", 120.0)
    page = PageReader(stage.state / "runs" / training.run_id / "knobs.page")
    injected, moments = tmp_path / "injected.json", random.Random(7)
    for number in range(kills):
        critical = InjectedState(time.monotonic(), memory_pressure=2)  # the guard must act; without, the rules go back up
        (critical if number % 2 == 0 else replace(critical, memory_pressure=0)).write(injected)
        before = page.revision().number
        daemon = stage.daemon("--injected-readings", str(injected), policy="rules")
        beats = moments.randint(1, 8)
        seen = set()
        wait_for(
            lambda seen=seen, beats=beats, before=before: (
                seen.add(page.heartbeat()) or len(seen) > beats or page.revision().number > before
            ),
            "the daemon at work",
        )
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
        frozen = page.revision()
        assert integrity(stage) == "ok"
        assert page.revision() == frozen, "a dead daemon wrote"
        assert training.poll() is None, "the training was disturbed"
    assert page.revision().number > 0, "nothing was ever changed, so nothing was tested"
    last = stage.daemon(policy="hold")
    settled = {"acknowledged", "observed", "lost", "refused"}
    wait_for(lambda: {change.state for change in stage.changes(training.run_id)} <= settled, "the fate of every change")
    revisions = [(change.revision, change.knob) for change in stage.changes(training.run_id)]
    assert len(revisions) == len(set(revisions)), "a revision number was used twice"
    assert page.revision().number <= max(revision for revision, _ in revisions), "a change was delivered without an intent"
    assert list(stage.state.glob("*corrupt*")) == []
    last.terminate()
    assert last.wait(20) == 0


def integrity(stage) -> str:
    connection = sqlite3.connect(journal_path(stage.state))
    try:
        return connection.execute("PRAGMA integrity_check").fetchone()[0]
    finally:
        connection.close()


def test_a_second_daemon_names_the_first_and_leaves(stage):
    first = stage.daemon()
    second = stage.cli("daemon", "--port", "0")
    assert second.returncode == 3
    assert f"pid {first.pid}" in second.stderr
    assert first.poll() is None


def test_the_daemon_stops_in_order_at_each_of_its_signals(stage):
    for number in (signal.SIGINT, signal.SIGTERM):
        daemon = stage.daemon()
        daemon.send_signal(number)
        assert daemon.wait(20) == 0, stage.log.read_text()
    assert stage.log.read_text().count("event=stopped") == 2


def test_a_taken_port_is_told_with_what_to_do(stage):
    stage.daemon()
    other = stage.state.with_name("other")
    said = stage.cli("daemon", "--port", str(stage.address()["port"]), "--state-dir", str(other))
    assert said.returncode == 2
    assert "choose another with --port" in said.stderr


def test_the_daemon_process_holds_no_heavy_library(stage):
    code = (
        "import sys, threading, os, signal, time, pathlib\n"
        "from autotuner.__main__ import main\n"
        "def stop_when_it_runs():\n"
        "    while not pathlib.Path(os.environ['AUTOTUNER_STATE_DIR'], 'daemon.json').exists(): time.sleep(0.02)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "threading.Thread(target=stop_when_it_runs, daemon=True).start()\n"
        "code = main(['daemon', '--port', '0', '--policy', 'rules'])\n"
        f"print(code, [name for name in {HEAVY} if name in sys.modules])\n"
    )
    process = stage.start("-c", code, output=-1)
    output, _ = process.communicate(timeout=30)
    assert output.splitlines()[-1] == "0 []"


def test_the_daemon_keeps_its_files_to_its_owner(stage):
    stage.daemon()
    assert stage.state.stat().st_mode & 0o077 == 0
    for name in ("daemon.json", "daemon.lock", "journal.sqlite3"):
        assert (stage.state / name).stat().st_mode & 0o077 == 0, name
