"""Real processes: a daemon, and a training script with the real hook; waiting is polling with a bound."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from autotuner.journal import Reader, journal_path

PATIENCE_SECONDS = 30.0
TRAINING = """
import sys, time
from autotuner.hook import attach, knob

name, limit = sys.argv[1], float(sys.argv[2])
run = attach(name, framework="fake", budget_seconds=600, knobs={
    "micro_batch": knob(32, [4, 8, 16, 32, 64, 128]), "pace": knob(1.0, [0.5, 0.75, 1.0])})
print(run.directory.name, flush=True)
step = images = 0
began = time.monotonic()
while time.monotonic() - began < limit:
    batch = run.knobs.micro_batch
    time.sleep(0.01)
    step, images = step + 1, images + batch
    run.report(step, 1.0 / (1 + step), images=images, step_seconds=0.01,
               active_bytes=batch * 2**20, cache_bytes=2**20, peak_bytes=batch * 2**20)
run.close()
"""


def wait_for(condition, what: str, seconds: float = PATIENCE_SECONDS):
    """The first true value of ``condition``; fails with ``what`` when it does not come."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds:.0f} s in vain for {what}")


class Stage:
    """One state directory and the processes around it; all of them end with the test."""

    def __init__(self, directory: Path) -> None:
        self.state = directory / "state"
        self.log = directory / "daemon.out"
        self.processes: list[subprocess.Popen] = []

    def start(self, *words: str, output=None) -> subprocess.Popen:
        environment = {**os.environ, "AUTOTUNER_STATE_DIR": str(self.state), "OPENBLAS_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, *words], env=environment, stdout=output, stderr=subprocess.STDOUT, text=True
        )
        self.processes.append(process)
        return process

    def daemon(self, *flags: str, policy: str = "rules", program: tuple[str, ...] = ("-m", "autotuner")) -> subprocess.Popen:
        """A daemon that looks every 50 ms and has shown its first snapshot."""
        (self.state / "daemon.json").unlink(missing_ok=True)
        settings = ["--port", "0", "--policy", policy, "--tick-seconds", "0.05", "--decision-seconds", "0.2"]
        settings += ["--observe-first", "0"]
        with self.log.open("a") as log:
            process = self.start(*program, "daemon", *settings, *flags, output=log)
        wait_for(lambda: self.address() or process.poll() is not None, "the daemon's address")
        assert process.poll() is None, self.log.read_text()
        return process

    def train(self, name: str = "cats", seconds: float = 60.0) -> subprocess.Popen:
        """A training script that has attached; its ``run_id`` is set."""
        process = self.start("-c", TRAINING, name, str(seconds), output=subprocess.PIPE)
        process.run_id = process.stdout.readline().strip()
        assert process.run_id
        return process

    def cli(self, *words: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "AUTOTUNER_STATE_DIR": str(self.state)}
        command = [sys.executable, "-m", "autotuner", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)

    def address(self):
        try:
            return json.loads((self.state / "daemon.json").read_text())
        except (OSError, ValueError):
            return None

    def get(self, path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.address()['port']}{path}", timeout=10) as answer:
                return answer.read().decode()
        except urllib.error.URLError as error:
            return f"unreachable: {error}"

    def journal(self) -> Reader:
        return Reader(journal_path(self.state))

    def changes(self, run_id: str):
        if not journal_path(self.state).exists():
            return []
        with self.journal() as journal:
            return journal.changes(run_id)

    def run(self, run_id: str):
        with self.journal() as journal:
            return journal.run(run_id)

    def close(self) -> None:
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


@pytest.fixture
def stage(tmp_path):
    opened = Stage(tmp_path)
    yield opened
    opened.close()
