"""A command in a process of its own: its last words on stderr are kept while everything goes where it went before."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

STARTUP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "startup")
KEPT_BYTES = 65_536
LOOK_SECONDS = 0.2
_FORWARDED = (signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Ending:
    """``code`` as ``subprocess`` gives it, negative for a signal; ``said`` is the end of what stderr got."""

    code: int
    said: str


def startup_environment(environment: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """The environment in which any Python started below runs our ``sitecustomize`` first."""
    path = environment.get("PYTHONPATH", "")
    places = [STARTUP, *(place for place in path.split(os.pathsep) if place and place != STARTUP)]
    return {**environment, "PYTHONPATH": os.pathsep.join(places), **more}


def run_child(command: Sequence[str], environment: Mapping[str, str], stderr: int = 2) -> Ending:
    """Run to the end; raises OSError when there is no such command.

    Its stderr is a terminal when ours is, so that progress bars look as before. Ctrl-C reaches the child from the terminal
    itself; SIGTERM and SIGHUP are passed on.
    """
    reading, writing = pty.openpty() if os.isatty(stderr) else os.pipe()
    if os.isatty(stderr):
        with suppress(termios.error):
            termios.tcsetwinsize(writing, termios.tcgetwinsize(stderr))
    try:
        child = subprocess.Popen(command, env=dict(environment), stderr=writing)
    except BaseException:
        os.close(reading)
        os.close(writing)
        raise
    os.close(writing)
    with _Passed(child):
        said = _tee(child, reading, stderr)
        return Ending(child.wait(), said)


def _tee(child: subprocess.Popen[Any], reading: int, stderr: int) -> str:
    """Pass on what the child says until it has ended, even if a server that it started keeps its stderr open."""
    kept = b""
    os.set_blocking(reading, False)
    while True:
        ended = child.poll() is not None
        if not select.select([reading], [], [], 0.0 if ended else LOOK_SECONDS)[0] and not ended:
            continue
        try:
            data = os.read(reading, 65_536)
        except OSError:  # nothing more from an ended child, or a closed pseudo-terminal on Linux
            data = b""
        if not data:
            os.close(reading)
            return kept.decode("utf-8", "replace").replace("\r\n", "\n")
        kept = (kept + data)[-KEPT_BYTES:]
        with suppress(OSError):
            os.write(stderr, data)


class _Passed:
    """While it is open, signals meant for the command reach it, and Ctrl-C does not end us before it."""

    def __init__(self, child: subprocess.Popen[Any]) -> None:
        self._child = child
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        for number in _FORWARDED:
            self._before[number] = signal.signal(number, self._pass_on)
        self._before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: None)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._child.send_signal(number)


def program_of(command: Sequence[str]) -> list[str]:
    """A Python script given without an interpreter runs in ours."""
    return [sys.executable, *command] if command[0].endswith(".py") else list(command)
