"""Reads from the journal what the search needs to know of each run."""

from __future__ import annotations

from pathlib import Path

from autotuner.errors import AutotunerError
from autotuner.journal import Reader, RunRecord, journal_path
from autotuner.search.objective import StudiedRun


def read_runs(state_directory: Path) -> list[StudiedRun]:
    """Every run that declares a search space, oldest first; no journal yet means no runs."""
    path = journal_path(state_directory)
    if not path.exists():
        return []
    with Reader(path) as reader:
        runs = [_studied(record, reader) for record in reader.runs()]
    return [run for run in runs if run is not None]


def _studied(record: RunRecord, reader: Reader) -> StudiedRun | None:
    try:
        declaration = record.declaration
    except AutotunerError:  # written by another version: nothing to learn from it, and no reason to stop
        return None
    if not declaration.search_space:
        return None
    return StudiedRun(
        run_id=record.run_id,
        name=record.name,
        created_unix=record.created_unix,
        outcome=record.outcome,
        held_out_loss=record.final_held_out_loss,
        model=declaration.model,
        search_space=declaration.search_space,
        budget_seconds=declaration.budget_seconds,
        budget_steps=declaration.budget_steps,
        peak_bytes=record.peak_bytes,
        room_bytes=record.memory_available_bytes,
        injected=_injected(record, reader),
    )


def _injected(record: RunRecord, reader: Reader) -> bool:
    if record.ended_unix is None:
        return False
    return any(row.injected for row in reader.machine(record.created_unix, record.ended_unix))
