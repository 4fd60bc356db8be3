"""A daemon whose clock is the test's, with a policy that does what the test says."""

from __future__ import annotations

from pathlib import Path

from autotuner.config import Config
from autotuner.controller.actions import action_index
from autotuner.controller.policy import Choice
from autotuner.daemon.moment import Moment
from autotuner.daemon.policies import ResolvedPolicy
from autotuner.daemon.server import Daemon
from tests.suites.fake_run import FakeMachine

UNIX = 1_700_000_000.0
"""Unix time of monotonic time 0."""


def at(now: float) -> Moment:
    return Moment(now, UNIX + now)


class Wishes:
    """Wishes one thing for ever, while it is allowed."""

    name = "wishes"

    def __init__(self, knob: str = "micro_batch", step: int = -1) -> None:
        self.action = action_index(knob, step)

    def choose(self, observation, mask, window) -> Choice:
        return Choice(self.action, "policy", "the test wants it") if mask[self.action] else Choice(0, "hold")


def start_daemon(state: Path, monkeypatch, now: float = 0.0, policy=None, machine=None, **settings) -> Daemon:
    """A started daemon that decides every 2 seconds."""
    resolved = ResolvedPolicy(policy or Wishes())
    monkeypatch.setattr("autotuner.daemon.server.resolve_policy", lambda name, artefacts: resolved)
    config = Config(state, **{"decision_seconds": 2.0, "observe_first": 0, **settings})
    daemon = Daemon(config, machine or FakeMachine())
    daemon.start(at(now))
    return daemon


class Killed(BaseException):
    """The daemon's sudden death, raised at a point that the test chose."""


def kill(daemon: Daemon) -> None:
    """What the kernel does to a dead process: files are closed, nothing is written."""
    for run in daemon.live.values():
        run.files.close()
    daemon.journal._connection.close()
    daemon._lock.release()
