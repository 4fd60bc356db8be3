"""Finds run directories: complete ones once, damaged ones once, half-made ones again at the next tick."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from autotuner.daemon.run_files import DECLARATION, read_declaration
from autotuner.errors import AutotunerError
from autotuner.messages import Declaration

FILE_CLOCK_SECONDS = 2.0
"""The coarsest clock of a file system that we may meet."""


@dataclass(frozen=True)
class Found:
    """A run directory seen for the first time; either its declaration or what is wrong with it."""

    directory: Path
    declaration: Declaration | None = None
    problem: str = ""


class Discovery:
    """Looks into ``<state>/runs``; what was reported once is not reported again."""

    def __init__(self, runs_directory: Path, known: set[str]) -> None:
        """``known`` are names of directories that need no second look: runs that the journal says have ended."""
        self.runs_directory = runs_directory
        self._settled = known
        self._seen_at = -1
        self._half_made: set[str] = set()

    def scan(self, unix: float) -> Iterator[Found]:
        """New run directories. Cheap when nothing was added: one ``stat``, and one look at each that is half made."""
        try:
            changed_at = os.stat(self.runs_directory).st_mtime_ns
            if changed_at == self._seen_at:
                for name in sorted(self._half_made):
                    yield from self._look(self.runs_directory / name)
                return
            with os.scandir(self.runs_directory) as entries:
                names = sorted(entry.name for entry in entries if entry.name not in self._settled and entry.is_dir())
        except OSError:
            return  # no run has been made yet
        # A directory made in the same tick of the file system's clock would not show in the time of change.
        settled = abs(unix - changed_at * 1e-9) > FILE_CLOCK_SECONDS
        self._seen_at = changed_at if settled else -1
        self._half_made.clear()
        for name in names:
            yield from self._look(self.runs_directory / name)

    def forget(self, name: str) -> None:
        """Look at this directory again at the next scan."""
        self._settled.discard(name)
        self._seen_at = -1

    def _look(self, directory: Path) -> Iterator[Found]:
        self._half_made.discard(directory.name)
        try:
            declaration = read_declaration(directory)
        except FileNotFoundError:
            if directory.exists():  # run.json is written last
                self._half_made.add(directory.name)
            return
        except (AutotunerError, OSError) as error:
            self._settled.add(directory.name)
            yield Found(directory, problem=f"{directory.name}/{DECLARATION}: {error}")
            return
        self._settled.add(directory.name)
        if declaration.run_id != directory.name:
            yield Found(directory, problem=f"{directory.name}/{DECLARATION} belongs to run {declaration.run_id!r}")
        else:
            yield Found(directory, declaration)
