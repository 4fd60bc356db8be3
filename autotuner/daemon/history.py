"""The past of runs as the pages show it, read from the journal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autotuner.journal import ChangeRecord, EvaluationRecord, Reader, RunRecord, TelemetryRecord

CHANGES_SHOWN = 100
TELEMETRY_SHOWN = 2000
"""Rows of a run's course: a row a tick, so about the last half hour."""
EARLIER_SHOWN = 12


@dataclass(frozen=True)
class RunHistory:
    """One run's past, oldest first."""

    run: RunRecord
    changes: tuple[ChangeRecord, ...] = ()
    telemetry: tuple[TelemetryRecord, ...] = ()
    evaluations: tuple[EvaluationRecord, ...] = ()


class History:
    """Opens the journal read-only for each question, so that any thread may ask; raises JournalError."""

    def __init__(self, journal_path: Path) -> None:
        self._path = journal_path

    def run(self, run_id: str) -> RunHistory | None:
        """The run with exactly this id, or None when the journal does not know it."""
        with Reader(self._path) as reader:
            run = reader.run(run_id)
            if run is None:
                return None
            return RunHistory(
                run,
                tuple(reader.changes(run_id, CHANGES_SHOWN)),
                tuple(reader.telemetry(run_id, last=TELEMETRY_SHOWN)),
                tuple(reader.evaluations(run_id)),
            )

    def earlier(self) -> list[RunRecord]:
        """The last runs that have ended, newest first."""
        with Reader(self._path) as reader:
            return reader.runs(live=False, last=EARLIER_SHOWN)[::-1]
