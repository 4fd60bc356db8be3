"""The files of one run as the daemon uses them: a fault of theirs is a fact to tell, never a crash."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autotuner.errors import AutotunerError
from autotuner.hook.files import declaration_at
from autotuner.hook.page import PageWriter, Revision
from autotuner.hook.ring import RingReader
from autotuner.messages import NAN, Declaration, Evaluation, Record, Sample

DECLARATION, RING, PAGE = "run.json", "telemetry.ring", "knobs.page"
SOCKET_MARK = "socket"
"""A file in the directory of a run that was declared over the socket, with its dwell steps: no other run may be resumed.

Its connection holds a shared lock on it.
"""
SMALLEST, LARGEST = 1e-30, 1e30
"""Losses, distances and durations beyond these say nothing but that something is broken."""
_MEASURED: dict[type, tuple[str, ...]] = {
    Sample: ("loss", "step_seconds"),
    Evaluation: ("held_out_loss", "quality", "seconds", "gap"),
}
LATEST_SECONDS = 1e10
"""No clock that counts from a boot says more; a record that does is damaged."""


def read_declaration(directory: Path) -> Declaration:
    """Read and check ``run.json``; raises OSError or AutotunerError."""
    return declaration_at(directory / DECLARATION)


def _plausible(record: Record) -> Record:
    """The record with every number unknown that no training measures: sums and ratios of the others cannot overflow."""
    if not isinstance(record, (Sample, Evaluation)):
        return record
    absurd: dict[str, Any] = {name: NAN for name in _MEASURED[type(record)] if _is_absurd(getattr(record, name))}
    return replace(record, **absurd) if absurd else record


def _is_absurd(value: float) -> bool:
    return value != 0.0 and value == value and not SMALLEST <= abs(value) <= LARGEST


class RunFiles:
    """Ring and page of one run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._ring_problem = self._page_problem = ""
        self.lost = 0
        self._sequence = 0
        self._ring: RingReader | None = None
        self._page: PageWriter | None = None
        self._declared_at = self._declaration_time()

    @property
    def problem(self) -> str:
        """The sentence for what cannot be used at the moment; empty when all can."""
        return self._ring_problem or self._page_problem

    @property
    def present(self) -> bool:
        """Whether the run's directory is still there."""
        return self.directory.is_dir()

    def unconnected(self, lose: bool = False) -> bool:
        """Whether the run is told over the socket and has no connection; with ``lose``, it will never have one again."""
        mark = self.directory / SOCKET_MARK
        try:
            descriptor = os.open(mark, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False  # it writes its files itself
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if lose:
                mark.unlink()
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True

    def read(self) -> list[Record]:
        """Records since the last call; none while the ring cannot be read."""
        try:
            if self._ring is None:
                self._ring = RingReader(self.directory / RING, from_sequence=self._sequence)
            lost_before = self._ring.lost
            records = self._ring.read()
            self._sequence = self._ring.sequence
            sound = [_plausible(record) for record in records if 0.0 <= record.time <= LATEST_SECONDS]
            self.lost += self._ring.lost - lost_before + len(records) - len(sound)
            self._ring_problem = ""
            return sound
        except (AutotunerError, OSError) as error:
            self._ring_problem = f"telemetry cannot be read: {error}"
            self._close_ring()
            return []

    @property
    def page(self) -> PageWriter:
        """The knob page. Raises OSError or AutotunerError."""
        return self._opened_page()

    @property
    def next_revision(self) -> int:
        """The revision that the next ``write`` will have. Raises OSError or AutotunerError."""
        return self._opened_page().next_revision

    @property
    def asked(self) -> Revision | None:
        """What the page asks for at the moment; None when it is damaged. Raises OSError or AutotunerError."""
        return self._opened_page().asked()

    def write(self, positions: Sequence[int], now: float) -> int:
        """Ask the run for these ladder positions; return the revision. Raises OSError or AutotunerError."""
        return self._opened_page().write(positions, now)

    def heartbeat(self, now: float, mode: str) -> None:
        """Tell the run that somebody guides it."""
        try:
            self._opened_page().heartbeat(now, mode)
            self._page_problem = ""
        except (AutotunerError, OSError) as error:
            self._page_problem = f"knobs cannot be delivered: {error}"

    def _opened_page(self) -> PageWriter:
        if self._page is None:
            self._page = PageWriter(self.directory / PAGE)
        return self._page

    def redeclared(self) -> Declaration | None:
        """The declaration, if the script rewrote it since it was last read and it is sound."""
        written = self._declaration_time()
        if written == self._declared_at:
            return None
        self._declared_at = written
        try:
            return read_declaration(self.directory)
        except (AutotunerError, OSError):
            return None

    def _declaration_time(self) -> int:
        try:
            return (self.directory / DECLARATION).stat().st_mtime_ns
        except OSError:
            return 0

    def close(self) -> None:
        """Release both files."""
        self._close_ring()
        if self._page is not None:
            self._page.close()
            self._page = None

    def _close_ring(self) -> None:
        if self._ring is not None:
            self._ring.close()
            self._ring = None
