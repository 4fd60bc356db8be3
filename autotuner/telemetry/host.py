"""The one door through which sensors touch the machine: files, commands, libraries, packages, each replaceable."""

from __future__ import annotations

import ctypes
import importlib
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autotuner.telemetry.sensor import Absent, Unavailable

COMMAND_TIMEOUT_SECONDS = 2.0
_ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}

Runner = Callable[[tuple[str, ...]], str]
"""Runs an absolute command and returns what it printed, or raises Unavailable."""
Loader = Callable[[str], Any]
"""Loads a system library by path, or raises OSError."""
Importer = Callable[[str], Any]
"""Imports a module by name, or raises ImportError."""


def run_command(argv: tuple[str, ...]) -> str:
    """Standard output of a command; raises Unavailable if it is absent, hangs, or fails with nothing printed."""
    try:
        done = subprocess.run(
            argv, capture_output=True, env=_ENVIRONMENT, timeout=COMMAND_TIMEOUT_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{argv[0]} did not answer within {COMMAND_TIMEOUT_SECONDS:g} s") from None
    except OSError as error:
        raise Unavailable(f"{argv[0]}: {error.strerror}") from None
    text = done.stdout.decode("utf-8", "replace")
    if done.returncode != 0 and not text.strip():  # sysctl prints what it knows and fails for the rest
        raise Unavailable(f"{argv[0]} failed with status {done.returncode}")
    return text


class Host:
    """Files below ``root``, commands, and libraries; with a ``journal``, everything that was read is kept in it raw."""

    def __init__(
        self,
        root: Path = Path("/"),
        run: Runner = run_command,
        load: Loader = ctypes.CDLL,
        load_module: Importer = importlib.import_module,
        journal: dict[str, str] | None = None,
    ) -> None:
        self.root = root
        self._run = run
        self._load = load
        self._load_module = load_module
        self._journal = journal

    def text(self, path: str) -> str:
        """Content of a file, ``path`` being relative to the root; raises Unavailable."""
        try:
            content = (self.root / path).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            self.note(f"/{path}", f"unreadable: {error.strerror}")
            raise Unavailable(f"/{path}: {error.strerror}") from None
        self.note(f"/{path}", content)
        return content

    def paths(self, pattern: str) -> list[str]:
        """Existing paths that match, relative to the root, in order."""
        return sorted(str(path.relative_to(self.root)) for path in self.root.glob(pattern))

    def output(self, *argv: str) -> str:
        """What a command prints; raises Unavailable."""
        try:
            printed = self._run(argv)
        except Unavailable as error:
            self.note(" ".join(argv), f"unavailable: {error}")
            raise
        self.note(" ".join(argv), printed)
        return printed

    def load_library(self, path: str) -> Any:
        """A system library; raises Unavailable where there is none."""
        try:
            return self._load(path)
        except OSError:
            self.note(path, "cannot be loaded")
            raise Unavailable(f"{path} cannot be loaded") from None

    def module(self, name: str, package: str) -> Any:
        """Module ``name`` of the optional ``package``; Absent without it, Unavailable when it cannot be imported."""
        try:
            return self._load_module(name)
        except ModuleNotFoundError:
            raise Absent(f"{package} is not installed") from None
        except Exception as error:  # native code for another system, or of another chip
            self.note(package, f"cannot be imported: {error}")
            raise Unavailable(f"{package} cannot be imported: {type(error).__name__}: {error}") from None

    def note(self, key: str, raw: str) -> None:
        """Keep what was read, if anybody wants it."""
        if self._journal is not None:
            self._journal[key] = raw

    def recording(self, journal: dict[str, str]) -> Host:
        """The same machine, keeping everything that is read in ``journal``."""
        return Host(self.root, self._run, self._load, self._load_module, journal)
