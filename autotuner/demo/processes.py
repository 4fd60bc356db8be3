"""Starts the demo's children and makes sure that every one of them ends, whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from autotuner.errors import AutotunerError

GRACE_SECONDS = 8.0


class DemoError(AutotunerError):
    """A part of the demo did not start or did not end well; the message quotes its last lines."""


class Children:
    """A context that stops, then kills, what was started in it."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Children:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in reversed(self._running):
            stop(process)

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start ``python -m ARGUMENTS`` with its output in ``<logs>/<name>.log``."""
        with self.log(name).open("ab") as log:
            # A session of its own: Ctrl-C reaches this process alone, which then stops the children in order.
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments], stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._running.append(process)
        return process

    def run(self, name: str, *arguments: str, seconds: float) -> str:
        """Run ``python -m ARGUMENTS`` to its end and return its output; raises DemoError when it fails."""
        process = self.start(name, *arguments)
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise DemoError(f"{name} did not end within {seconds:.0f} s: {self.tail(name)}") from None
        if code != 0:
            raise DemoError(f"{name} ended with exit code {code}: {self.tail(name)}")
        return self.log(name).read_text(errors="replace")

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """End one child now."""
        stop(process)

    def log(self, name: str) -> Path:
        """The file with a child's output."""
        return self._logs / f"{name}.log"

    def tail(self, name: str, lines: int = 12) -> str:
        """The last lines of a child's output."""
        text = self.log(name).read_text(errors="replace").strip()
        return "\n  " + "\n  ".join(text.splitlines()[-lines:])


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a child to end, with its own children; kill what does not."""
    if process.poll() is not None:
        return
    for sign, patience in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, GRACE_SECONDS)):
        try:
            os.killpg(process.pid, sign)
            process.wait(timeout=patience)
            return
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return


def wait_for(
    condition: Callable[[], bool], seconds: float, what: str, alive: Callable[[], bool] = lambda: True, every: float = 0.1
) -> None:
    """Poll until ``condition``; raises DemoError when ``seconds`` pass or ``alive`` ends first."""
    deadline = time.monotonic() + seconds
    while not condition():
        if not alive() or time.monotonic() > deadline:
            raise DemoError(f"waited for {what} in vain")
        time.sleep(every)


def daemon_port(state: Path) -> int | None:
    """The port that the daemon of ``state`` wrote down; None while it has not."""
    try:
        return int(json.loads((state / "daemon.json").read_text())["port"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
