"""What is asked of a run, and when: at once of one process, after the same step of all ranks of a launch.

Rank 0 alone reads what the daemon asks for. It announces that in ``ranks.page``, a knob page whose times are steps, and every
rank takes it over in its first report of a later step. A collective in each step makes sure that all ranks have read it by
then: nobody ends step n + 1 before rank 0 has begun it, and it announced before that.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from autotuner.errors import AutotunerError
from autotuner.hook.checkpoint import Desk
from autotuner.hook.files import LARGEST_NOTE_BYTES, read_text, replace_text, slug
from autotuner.hook.launch import Launch
from autotuner.hook.page import Heartbeat, PageReader, PageWriter, Revision, create_page
from autotuner.hook.process import process_start

PATIENCE_REPORTS = 10
"""So many reports a rank looks for the others: all that attach before they train are there at the first."""

_PAGE = "ranks.page"
_DAEMONS_PAGE = "knobs.page"
_JOINED = "rank-"

Merge = Callable[[Revision], tuple[int, ...]]


class Asks(Protocol):
    """Where a run learns what to do."""

    directory: Path | None
    agreed: bool
    """Whether several ranks take over a revision after the same step, so that its time is a step."""
    missing: bool
    """Whether the last news cannot be followed, because a rank would not."""

    def news(self, step: int, merge: Merge) -> Revision | None:
        """A revision that was not given before, to be answered now that ``step`` is done. ``merge`` keeps the script's own."""

    def heartbeat(self) -> Heartbeat | None:
        """The daemon's last sign of life."""


class Alone:
    """A training of one process follows the daemon's page."""

    agreed = missing = False

    def __init__(self, directory: Path, page: PageReader) -> None:
        self.directory: Path | None = directory
        self._page = page
        self._seen = 0
        self._words = b""
        self.desk: Desk | None = None
        """Who answers requests to save and to restore, once the script can."""

    def news(self, step: int, merge: Merge) -> Revision | None:
        """The newest revision on the page, when it is whole and was not given before."""
        words = self._page.words()
        if words == self._words:
            return None
        if self.desk is not None:
            self.desk.look()
        revision = self._page.revision()
        if revision is None:
            return None  # damaged or half-written: the next look sees more
        if words[:8] == revision.number.to_bytes(8, "little"):
            self._words = words
        if revision.number <= self._seen:
            return None
        self._seen = revision.number
        return revision

    def open_desk(self, step: Callable[[], int]) -> Desk:
        """Who answers requests to save and to restore; raises OSError when the page cannot be written."""
        if self.desk is None:
            assert self.directory is not None
            self.desk = Desk(self.directory / _DAEMONS_PAGE, self._page, step)
        return self.desk

    def heartbeat(self) -> Heartbeat | None:
        """As it stands on the page."""
        return self._page.heartbeat()


class Agreement:
    """``ranks.page`` as every rank reads it."""

    def __init__(self, directory: Path) -> None:
        self._page = PageReader(directory / _PAGE)
        self._taken = 0

    def due(self, step: int) -> Revision | None:
        """The newest revision that was announced at a step before this one and not given before."""
        if self._page.announced() == self._taken:
            return None
        due = [revision for revision in self._page.revisions() if revision.number > self._taken and revision.time < step]
        newest = max(due, key=lambda revision: revision.number, default=None)
        if newest is not None:
            self._taken = newest.number
        return newest


class Leader:
    """Rank 0: hands on what the daemon asks for, once every other rank has joined."""

    agreed = True

    def __init__(self, directory: Path, page: PageReader, positions: tuple[int, ...], size: int) -> None:
        create_page(directory / _PAGE, positions, 0.0)
        self.directory: Path | None = directory
        self.missing = False
        self._asked = Alone(directory, page)
        self._size = size
        self._agreement = Agreement(directory)
        self._waiting: Revision | None = None
        self._announced = 0
        self._looks = 0

    def news(self, step: int, merge: Merge) -> Revision | None:
        """What was announced at an earlier step; else announce what is asked, for the next one."""
        due = self._agreement.due(step)
        if due is not None:
            return replace(due, number=self._announced)  # the daemon's own number, for the answer
        self._waiting = self._asked.news(step, merge) or self._waiting
        return self._announce(self._waiting, step, merge) if self._waiting is not None else None

    def _announce(self, revision: Revision, step: int, merge: Merge) -> Revision | None:
        self._looks += 1
        self.missing = self._joined() < self._size - 1
        if self.missing:
            if self._looks < PATIENCE_REPORTS:
                return None
            self._waiting = None
            return revision  # to be refused
        assert self.directory is not None
        writer = PageWriter(self.directory / _PAGE)
        try:
            writer.write(merge(revision), float(step))
        finally:
            writer.close()
        self._waiting, self._announced = None, revision.number
        return None

    def open_desk(self, step: Callable[[], int]) -> Desk:
        """Who answers what rank 0 can do without the others; raises OSError when the page cannot be written."""
        return self._asked.open_desk(step)

    def _joined(self) -> int:
        assert self.directory is not None
        return sum(name.startswith(_JOINED) for name in os.listdir(self.directory))

    def heartbeat(self) -> Heartbeat | None:
        """As it stands on the page."""
        return self._asked.heartbeat()


class Follower:
    """Another rank: joins the run of rank 0 as soon as there is one, and follows what it announces."""

    agreed = True
    missing = False

    def __init__(self, rank: int, find: Callable[[], Path | None]) -> None:
        """``find`` gives the directory of rank 0's run, None while there is none; it raises when the run cannot be followed."""
        self.directory: Path | None = None
        self._rank = rank
        self._find: Callable[[], Path | None] | None = find
        self._looks = 0
        self._page: PageReader | None = None
        self._agreement: Agreement | None = None

    def news(self, step: int, merge: Merge) -> Revision | None:
        """What rank 0 announced at an earlier step."""
        if self._agreement is None and self._find is not None:
            self.join()
        return self._agreement.due(step) if self._agreement is not None else None

    def join(self) -> None:
        """Look for rank 0, and tell it that this rank follows; raises OSError or AutotunerError when it cannot."""
        self._looks += 1
        find = self._find
        directory = find() if find is not None else None
        if directory is None:
            if self._looks >= PATIENCE_REPORTS:
                self._find = None
                raise AutotunerError(f"rank {self._rank} found no run of rank 0; its knobs stay, and so do those of all ranks")
            return
        self._find = None
        self._page = PageReader(directory / _DAEMONS_PAGE)
        self._agreement = Agreement(directory)
        os.close(os.open(directory / f"{_JOINED}{self._rank}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self.directory = directory

    def heartbeat(self) -> Heartbeat | None:
        """As it stands on the page of rank 0's run."""
        return self._page.heartbeat() if self._page is not None else None


def tell_launch(state: Path, name: str, launch: Launch, directory: Path) -> None:
    """Say where the other ranks of this launch find the run of rank 0; raises OSError."""
    if not launch.key:
        return
    path = _launch_path(state, name)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    said = {"key": launch.key, "directory": str(directory), "pid": os.getpid(), "pid_start": process_start(os.getpid())}
    replace_text(path, json.dumps(said))


def find_launch(state: Path, name: str, launch: Launch) -> Path | None:
    """The directory of rank 0's run, or None while it is not there; one of an earlier launch with the same key has ended."""
    try:
        said = json.loads(read_text(_launch_path(state, name), LARGEST_NOTE_BYTES))
        alive = process_start(said["pid"]) == said["pid_start"]
        return Path(said["directory"]) if launch.key and said["key"] == launch.key and alive else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _launch_path(state: Path, name: str) -> Path:
    return state / "launches" / f"{slug(name)}.json"
