"""The daemon's smaller parts: lock, address, log, policies, jobs, discovery, clock."""

import json
import logging
import math
import os
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import structlog
from structlog.testing import capture_logs

from autotuner.config import Config
from autotuner.controller.actions import ACTION_NAMES
from autotuner.controller.observation import FEATURES, OBSERVATION_VERSION
from autotuner.daemon.address import Address, read_address, remove_address, write_address
from autotuner.daemon.jobs import Jobs, kept_from, propose_command, retain
from autotuner.daemon.lock import DaemonRunningError, InstanceLock
from autotuner.daemon.log import configure_log, get_log
from autotuner.daemon.moment import Moment
from autotuner.daemon.policies import resolve_policy, shipped_artefacts
from autotuner.daemon.process import StopFlag
from autotuner.errors import ConfigurationError
from autotuner.journal import Journal, MachineRecord, RunRecord, TelemetryRecord, journal_path

RUN = RunRecord("cats-1", "cats", "", "m", "{}", 1.0, 2.0)


def test_a_second_lock_names_the_owner_of_the_first(tmp_path):
    lock = InstanceLock(tmp_path)
    with pytest.raises(DaemonRunningError, match=f"pid {os.getpid()}.*{tmp_path}"):
        InstanceLock(tmp_path)
    lock.release()
    InstanceLock(tmp_path).release()


def test_a_lock_left_by_a_dead_daemon_does_not_block(tmp_path):
    code = "import sys, pathlib; from autotuner.daemon.lock import InstanceLock; InstanceLock(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    InstanceLock(tmp_path).release()


def test_an_address_is_read_back_while_its_process_lives(tmp_path):
    address = Address(os.getpid(), 4711, 1.5, "0.1.0")
    write_address(tmp_path, address)
    assert read_address(tmp_path) == address
    assert (tmp_path / "daemon.json").stat().st_mode & 0o077 == 0
    assert address.url == "http://127.0.0.1:4711"
    remove_address(tmp_path)
    assert read_address(tmp_path) is None


def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    return process.pid


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '"x"'])
def test_a_damaged_address_is_no_daemon(tmp_path, text):
    (tmp_path / "daemon.json").write_text(text)
    assert read_address(tmp_path) is None


def test_the_address_of_a_dead_daemon_is_no_daemon(tmp_path):
    write_address(tmp_path, Address(dead_pid(), 1, 1.0, "x"))
    assert read_address(tmp_path) is None


def test_a_moment_converts_between_both_clocks():
    moment = Moment(now=100.0, unix=5000.0)
    assert moment.unix_at(90.0) == 4990.0
    assert moment.monotonic_at(4990.0) == 90.0


@pytest.fixture
def restored_logging():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def test_events_are_one_line_with_fields_in_file_and_stderr(tmp_path, capsys, restored_logging):
    configure_log("info", tmp_path / "logs")
    get_log().bind(run="cats-1").info("delivered", knob="pace", what="pace 1 to 0.5", revision=3)
    get_log().debug("hidden")
    line = (tmp_path / "logs" / "daemon.log").read_text()
    assert 'level=info event=delivered run=cats-1 knob=pace what="pace 1 to 0.5" revision=3' in line
    assert "hidden" not in line
    assert line in capsys.readouterr().err


def test_an_unwritable_log_directory_costs_the_file_and_not_the_daemon(tmp_path, capsys, restored_logging):
    (tmp_path / "logs").write_text("a file")
    configure_log("info", tmp_path / "logs")
    assert "event=log_file_unavailable" in capsys.readouterr().err


def test_a_full_disk_costs_log_lines_and_not_the_daemon(tmp_path, capsys, restored_logging, monkeypatch):
    configure_log("info", tmp_path / "logs")

    def full(self, record):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("logging.handlers.RotatingFileHandler.shouldRollover", full)
    get_log().info("still_here")
    said = capsys.readouterr().err
    assert "event=still_here" in said
    assert "Traceback" not in said


def artefact(directory, **changes):
    directory.mkdir(parents=True, exist_ok=True)
    card = {"name": "x", "observation_version": OBSERVATION_VERSION, "features": FEATURES, "actions": ACTION_NAMES, **changes}
    (directory / "card.json").write_text(json.dumps(card))
    (directory / "policy.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    return directory


@pytest.mark.parametrize("name", ["hold", "rules", "forecast"])
def test_a_built_in_policy_needs_no_artefact(name):
    resolved = resolve_policy(name, None)
    assert (resolved.policy.name, resolved.problem) == (name, "")


@pytest.mark.parametrize("name", ["default", "learned"])
def test_without_artefacts_the_rules_decide_and_say_why(tmp_path, name):
    for artefacts in (None, tmp_path):
        resolved = resolve_policy(name, artefacts)
        assert resolved.policy.name == "rules"
        assert name in resolved.problem
        assert "the rules decide" in resolved.problem


def test_an_artefact_of_another_observation_version_is_refused_by_name_and_version(tmp_path):
    directory = artefact(tmp_path / "default", observation_version=OBSERVATION_VERSION + 1)
    for name in ("default", "learned", str(directory)):
        resolved = resolve_policy(name, tmp_path)
        assert resolved.policy.name == "rules"
        assert f"observation version {OBSERVATION_VERSION + 1}" in resolved.problem
        assert str(directory) in resolved.problem


def test_an_unknown_policy_is_told_with_the_known_ones(tmp_path):
    with pytest.raises(ConfigurationError, match=r"'nonsense'.*default, forecast, hold, learned, rules"):
        resolve_policy("nonsense", tmp_path)


def test_the_default_is_who_won_when_the_artefact_was_judged(tmp_path, monkeypatch):
    class Loaded:
        name = "trained"

    monkeypatch.setattr("autotuner.controller.learned.Learned.load", lambda directory: Loaded())
    card = tmp_path / "default" / "card.json"
    card.parent.mkdir()
    card.write_text('{"default": "forecast"}')
    assert resolve_policy("default", tmp_path).policy.name == "forecast"
    assert resolve_policy("learned", tmp_path).policy.name == "trained"
    for other in ('{"default": "learned"}', "{}", "[]", "no card", '"forecast"'):
        card.write_text(other)
        assert resolve_policy("default", tmp_path).policy.name == "trained"


def test_no_numpy_is_loaded_where_the_learned_policy_decides():
    code = (
        "import sys; from autotuner.daemon.policies import resolve_policy, shipped_artefacts; "
        "print(resolve_policy('learned', shipped_artefacts()).policy.name, 'numpy' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert told == ["learned", "False"]


def test_shipped_artefacts_are_found_without_importing_the_recipes():
    code = (
        "import sys; from autotuner.daemon.policies import shipped_artefacts; print(shipped_artefacts()); "
        "print([n for n in sys.modules if n.startswith(('autotuner_policies.', 'torch', 'numpy'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(shipped_artefacts()), "[]"]


@pytest.fixture
def jobs(tmp_path):
    made = Jobs(Config(tmp_path), lambda: 0)
    yield made
    made.stop()


def python(code):
    return lambda state: [sys.executable, "-c", code]


def test_the_proposing_child_is_the_search_of_this_state_directory(tmp_path):
    assert propose_command(tmp_path)[1:] == ["-m", "autotuner.search", "propose", "--state-dir", str(tmp_path)]


def test_a_childs_output_and_code_are_logged(tmp_path, jobs):
    jobs._command = python("import os; print('told 1 run', os.nice(0) >= 10)")
    with capture_logs() as logs:
        jobs.propose()
        jobs._command = python("import sys; sys.exit('no study')")
        jobs.propose()
    assert [(log["log_level"], log["code"]) for log in logs] == [("info", 0), ("warning", 1)]
    assert logs[0]["output"].startswith("told 1 run")
    assert logs[1]["output"] == "no study"


def test_a_child_works_with_low_priority(tmp_path, jobs, monkeypatch):
    lowered = []
    monkeypatch.setattr(os, "setpriority", lambda *arguments: lowered.append(arguments[2]))
    jobs._command = python("pass")
    jobs.propose()
    assert lowered == [10]


def test_a_child_that_hangs_is_ended(tmp_path, jobs, monkeypatch):
    monkeypatch.setattr("autotuner.daemon.jobs.PROPOSE_TIMEOUT_SECONDS", 0.2)
    jobs._command = python("import threading; threading.Event().wait()")
    with capture_logs() as logs:
        jobs.propose()
    assert "took longer than 0.2 s" in logs[0]["why"]
    assert logs[1]["code"] < 0


def test_nothing_is_proposed_under_critical_pressure(tmp_path):
    jobs = Jobs(Config(tmp_path), lambda: 2, python("print('never')"))
    with capture_logs() as logs:
        jobs.propose()
    assert [log["event"] for log in logs] == ["proposal_postponed"]


def test_only_one_child_runs_at_a_time_and_a_wish_meanwhile_is_heard(tmp_path, jobs):
    running = []

    def command(state):
        running.append(jobs._one_child.locked())
        if len(running) == 1:
            jobs.propose()  # a run ends while the child works
        return [sys.executable, "-c", "pass"]

    jobs._command = command
    jobs.propose()
    assert running == [True, True]


def test_stopping_ends_the_child(tmp_path, jobs):
    jobs._command = python("import threading; print('up', flush=True); threading.Event().wait()")
    worker = threading.Thread(target=jobs.propose)
    worker.start()
    while jobs._child is None:
        worker.join(0.01)
    child = jobs._child
    jobs.stop()
    worker.join(10)
    assert child.poll() is not None
    assert not worker.is_alive()


def test_a_child_that_starts_while_the_daemon_stops_is_ended_at_once(tmp_path):
    jobs = Jobs(Config(tmp_path), lambda: 0)

    def command(state):
        jobs.stop()
        return [sys.executable, "-c", "import threading; threading.Event().wait()"]

    jobs._command = command
    with capture_logs() as logs:
        jobs.propose()
    assert logs == []
    assert not jobs._one_child.locked()


def test_an_ended_run_brings_the_next_proposal_forward(tmp_path):
    proposed = threading.Event()
    jobs = Jobs(Config(tmp_path), lambda: 0, python("pass"))
    jobs.propose = proposed.set
    jobs.start()
    jobs.propose_soon()
    assert proposed.wait(10)
    jobs.stop()
    jobs.propose_soon()  # a run that ends while the daemon stops


def test_retention_removes_old_rows_and_directories_of_runs_that_ended_long_ago(tmp_path):
    with Journal(journal_path(tmp_path)) as journal:
        for name, ended in (("old", 100.0), ("new", 300.0), ("live", None)):
            journal.write(replace(RUN, run_id=name, ended_unix=ended))
            (tmp_path / "runs" / name).mkdir(parents=True)
            for time in (100.0, 300.0):
                journal.write(TelemetryRecord(name, time, 1, 1, None, None, None, 0, 0, 0, None, 0, 0))
    assert retain(tmp_path, before_unix=200.0) == (3, 1)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["live", "new"]
    with Journal(journal_path(tmp_path)) as journal:
        assert len(journal.runs()) == 3
        assert [row.time_unix for row in journal.telemetry("old")] == [300.0]


def recorded(state, days):
    with Journal(journal_path(state)) as journal:
        for day in days:
            journal.write(MachineRecord(86_400.0 * day + 3600.0))


def test_old_is_what_neither_the_clock_nor_the_last_recorded_days_reach(tmp_path):
    recorded(tmp_path, range(1, 41))
    assert kept_from(tmp_path, 30.0, 86_400.0 * 40.5) == 86_400.0 * 10.5  # 30 days before now, as every day was recorded
    assert kept_from(tmp_path, 0.0, 86_400.0 * 40.5) == 86_400.0 * 40.5


@pytest.mark.parametrize("now_day", [40.5, 41.5, 4000.5, 39.5], ids=["usual", "a day off", "jumped ahead", "jumped back"])
def test_a_clock_that_jumps_costs_at_most_a_day_of_the_journal(tmp_path, now_day):
    recorded(tmp_path, [*range(1, 41), *([int(now_day)] if now_day > 41 else [])])  # the jumped clock is recorded, too
    assert 86_400.0 * 9.5 <= kept_from(tmp_path, 30.0, 86_400.0 * now_day) <= 86_400.0 * 12


def test_a_journal_of_fewer_days_is_kept_whole(tmp_path):
    recorded(tmp_path, [1, 3, 5])
    assert kept_from(tmp_path, 30.0, 86_400.0 * 4000) == -math.inf
    assert retain(tmp_path, -math.inf) == (0, 0)


def test_retention_leaves_a_damaged_journal_to_the_daemon(tmp_path, jobs):
    journal_path(tmp_path).write_bytes(b"rubbish" * 1000)
    with capture_logs() as logs:
        jobs.retain()
    assert [log["event"] for log in logs] == ["retention_failed"]
    assert list(tmp_path.iterdir()) == [journal_path(tmp_path)]


def test_waiting_ends_at_once_when_the_flag_is_set():
    flag = StopFlag()
    flag._handle(15, None)
    flag.wait(3600.0)
    assert flag.set
    flag._read.close()
    flag._write.close()
