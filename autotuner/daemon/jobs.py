"""Work beside the ticks: retention, and proposals of the next architecture in a child process (APScheduler)."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from apscheduler.schedulers.background import BackgroundScheduler

from autotuner.config import Config
from autotuner.daemon.log import get_log
from autotuner.errors import JournalError
from autotuner.journal import Journal, Reader, journal_path
from autotuner.journal.reader import DAY_SECONDS

PROPOSE_TIMEOUT_SECONDS = 300.0
RETENTION_SECONDS = 86_400.0
FIRST_RETENTION_SECONDS = 60.0
STOP_SECONDS = 3.0
NICE = 10
CRITICAL_PRESSURE = 2
_LOGGED_CHARACTERS = 2000


def propose_command(state_directory: Path) -> list[str]:
    """The child that tells finished runs to the study and writes the next proposal."""
    return [sys.executable, "-m", "autotuner.search", "propose", "--state-dir", str(state_directory)]


class Jobs:
    """Runs them in one background thread; heavy work in one niced child at a time, which dies with the daemon."""

    def __init__(
        self,
        config: Config,
        pressure: Callable[[], int | None],
        command: Callable[[Path], list[str]] = propose_command,
    ) -> None:
        """``pressure`` tells the machine's memory pressure of the moment."""
        self._config = config
        self._pressure = pressure
        self._command = command
        self._log = get_log()
        self._one_child = threading.Lock()
        self._wanted = threading.Event()
        self._child: subprocess.Popen[str] | None = None
        self._stopping = False
        defaults = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}  # None: run late rather than never
        self._scheduler = BackgroundScheduler(timezone=UTC, job_defaults=defaults)

    def start(self) -> None:
        """Begin; the first retention is soon, the first proposal after an interval or the first ended run."""
        first = datetime.now(UTC) + timedelta(seconds=FIRST_RETENTION_SECONDS)
        self._scheduler.add_job(self.retain, "interval", seconds=RETENTION_SECONDS, next_run_time=first, id="retention")
        if importlib.util.find_spec("optuna") is None:
            self._log.info("proposals_off", why="the search extra is not installed")
        else:
            # Two instances: the second only tells the first to go round again.
            seconds = self._config.propose_seconds
            self._scheduler.add_job(self.propose, "interval", seconds=seconds, id="propose", max_instances=2)
        self._scheduler.start()

    def reconfigure(self, config: Config) -> None:
        """Take over changed settings."""
        if config.propose_seconds != self._config.propose_seconds and self._scheduler.get_job("propose") is not None:
            self._scheduler.reschedule_job("propose", trigger="interval", seconds=config.propose_seconds)
        self._config = config

    def propose_soon(self) -> None:
        """Propose now, without waiting (a run has ended)."""
        # Not a job of its own: APScheduler's thread fails when it removes a finished job while it is shut down.
        if not self._stopping and (job := self._scheduler.get_job("propose")) is not None:
            job.modify(next_run_time=datetime.now(UTC))

    def retain(self) -> None:
        """Delete what is older than the configured number of days: rows, and directories of ended runs."""
        try:
            before = kept_from(self._config.state_directory, self._config.retention_days, time.time())
            deleted, directories = retain(self._config.state_directory, before)
        except JournalError as error:
            self._log.warning("retention_failed", why=str(error))
            return
        if deleted or directories:
            self._log.info("retention", deleted_rows=deleted, deleted_directories=directories)

    def propose(self) -> None:
        """Run the proposing child to its end, unless memory is critical; one that runs already is followed by another."""
        if self._pressure() == CRITICAL_PRESSURE:
            self._log.info("proposal_postponed", why="memory pressure is critical")
            return
        self._wanted.set()
        while self._wanted.is_set() and not self._stopping and self._one_child.acquire(blocking=False):
            try:
                self._wanted.clear()
                self._run_child(self._command(self._config.state_directory))
            finally:
                self._one_child.release()

    def _run_child(self, command: list[str]) -> None:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        try:
            child = subprocess.Popen(command, text=True, errors="replace", start_new_session=True, **pipes)  # type: ignore[call-overload]
        except OSError as error:
            self._log.warning("proposal_failed", why=str(error))
            return
        self._child = child
        if self._stopping:  # stop() looked for a child just before there was one
            _kill_group(child)
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, child.pid, NICE)
        try:
            output, _ = child.communicate(timeout=PROPOSE_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            _kill_group(child)
            output, _ = child.communicate()
            self._log.warning("proposal_failed", why=f"took longer than {PROPOSE_TIMEOUT_SECONDS:g} s")
        self._child = None
        if not self._stopping:
            event = self._log.info if child.returncode == 0 else self._log.warning
            event("proposal", code=child.returncode, output=output.strip()[-_LOGGED_CHARACTERS:])

    def stop(self) -> None:
        """End the child and the thread."""
        self._stopping = True
        child = self._child
        if child is not None and child.poll() is None:
            child.terminate()
            try:
                child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                _kill_group(child)
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)


def _kill_group(child: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def kept_from(state_directory: Path, days: float, now_unix: float) -> float:
    """The time from which everything is kept. Raises JournalError.

    Days count on which runs were recorded: a clock that jumps ahead by a year makes one such day, and deletes no more
    than one. Where there are fewer of them than ``days``, everything is kept.
    """
    with Reader(journal_path(state_directory)) as journal:
        oldest = journal.recorded_day_unix(math.ceil(days))
    return -math.inf if oldest is None else min(now_unix - days * DAY_SECONDS, oldest)


def retain(state_directory: Path, before_unix: float) -> tuple[int, int]:
    """Delete older rows, and directories of runs that ended before; return how many of each. Raises JournalError."""
    directories = 0
    with Journal(journal_path(state_directory)) as journal:
        for run_id in journal.ended_run_ids(before_unix):
            directory = state_directory / "runs" / run_id
            if directory.is_dir():
                shutil.rmtree(directory, ignore_errors=True)
                directories += 1
        return journal.delete_before(before_unix), directories
