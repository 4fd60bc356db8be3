"""The demo as a process: interrupted in the middle of a training, it leaves nothing running."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest


def processes_that_name(text):
    """Pids of processes whose command line holds ``text``."""
    found = psutil.process_iter(["pid", "cmdline"])
    return [process.pid for process in found if text in " ".join(process.info["cmdline"] or ())]


def until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_stops_everything_that_it_started(tmp_path, number):
    state = tmp_path / "state"
    command = [
        sys.executable,
        "-m",
        "autotuner",
        "demo",
        "--seconds",
        "60",
        "--state",
        str(state),
        "--out",
        str(tmp_path / "out"),
    ]
    with (tmp_path / "log").open("wb") as log:
        demo = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=Path(__file__).parents[2])
    try:
        until(lambda: any(state.glob("runs/*/run.json")), 60, f"no training began: {(tmp_path / 'log').read_text()}")
        assert len(processes_that_name(str(state))) >= 3  # the demo, its daemon, its training
        demo.send_signal(number)
        assert demo.wait(timeout=60) == 130
    finally:
        demo.terminate()  # not kill: what it started must end with it, also when an assertion failed
        demo.wait(timeout=60)
    assert "everything that the demo started has been stopped" in (tmp_path / "log").read_text()
    until(lambda: not processes_that_name(str(state)), 10, "something still runs")
