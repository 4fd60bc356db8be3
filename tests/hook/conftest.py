"""What the tests of the hook share: a state directory, and an environment without ranks."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import pytest

from autotuner.hook import Run, attach, knob
from autotuner.hook.launch import HOST_FILES, RANK_VARIABLES
from autotuner.hook.life import OPEN
from autotuner.hook.page import PageWriter
from autotuner.hook.ring import RingReader

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for variable in (*RANK_VARIABLES, *RANK_VARIABLES.values(), *HOST_FILES, "AUTOTUNER_RUN_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AUTOTUNER_STATE_DIR", str(tmp_path / "state"))
    yield
    for run in list(OPEN):
        run.close()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def start() -> Callable[..., Run]:
    """attach() with two ordinary knobs."""

    def make(name: str = "my-run", **settings: object) -> Run:
        knobs = {"micro_batch": knob(64, [8, 16, 32, 64]), "pace": knob(1.0, [0.5, 0.7, 0.85, 1.0])}
        return attach(name, **{"knobs": knobs, **settings})

    return make


@pytest.fixture
def python() -> Callable[..., subprocess.Popen]:
    """Start a Python process that sees the checkout and this test's state directory."""

    def run(code: str, *options: str, **popen: object) -> subprocess.Popen:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, *options, "-c", code]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, env=environment, text=True, **{**pipes, **popen})

    return run


class Daemon:
    """What a daemon does to one run."""

    def __init__(self, run):
        self.page = PageWriter(run.directory / "knobs.page")
        self.ring = RingReader(run.directory / "telemetry.ring")

    def ask(self, *positions):
        return self.page.write(positions, monotonic())

    def records(self, kind):
        return [record for record in self.ring.read() if isinstance(record, kind)]

    def close(self):
        self.page.close()
        self.ring.close()


@pytest.fixture
def run(start):
    return start()


@pytest.fixture
def manual(start):
    return start(auto=False)


@pytest.fixture
def attached():
    daemons = []

    def make(run):
        daemons.append(Daemon(run))
        return daemons[-1]

    yield make
    for daemon in daemons:
        daemon.close()
