"""The studies as tables: every trial, also those that failed or lapsed, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from autotuner.search.study import feasible
from autotuner.search.study_file import STUDY_FILE, only_writer, open_storage

STATES = {TrialState.COMPLETE: "told", TrialState.RUNNING: "out", TrialState.FAIL: "no result"}
MEBIBYTE = 2**20


@dataclass(frozen=True)
class StudyTable:
    """One study: its name and one row of values a trial."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def read_tables(state_directory: Path, project: str | None = None) -> list[StudyTable]:
    """All studies of the study file, or those of one project; none when there is no file yet."""
    if not (state_directory / STUDY_FILE).exists():
        return []
    with only_writer(state_directory):
        storage, _ = open_storage(state_directory)
        try:
            names = [name for name in optuna.get_all_study_names(storage) if project in (None, name.rpartition("@")[0])]
            return [_table(name, optuna.load_study(study_name=name, storage=storage).get_trials()) for name in names]
        finally:
            storage.engine.dispose()


def _table(name: str, trials: Sequence[FrozenTrial]) -> StudyTable:
    parameters = tuple(dict.fromkeys(parameter for trial in trials for parameter in trial.params))
    best = min((trial for trial in trials if feasible(trial)), key=lambda trial: trial.value, default=None)
    rows = tuple(_row(trial, parameters, trial is best) for trial in trials)
    return StudyTable(name, ("trial", "state", *parameters, "held-out loss", "peak MiB", "run", "note"), rows)


def _row(trial: FrozenTrial, parameters: Sequence[str], best: bool) -> tuple[Any, ...]:
    attributes = trial.user_attrs
    peak = attributes.get("peak_bytes")
    return (
        trial.number,
        STATES.get(trial.state, trial.state.name.lower()),
        *(trial.params.get(parameter) for parameter in parameters),
        None if trial.value is None else round(trial.value, 6),
        round(peak / MEBIBYTE) if peak else None,
        attributes.get("run_id"),
        "; ".join(_notes(trial, best)),
    )


def _notes(trial: FrozenTrial, best: bool) -> list[str]:
    notes = ["best"] if best else []
    if trial.constraints.get("memory", 0.0) > 0:
        notes.append(f"peak {trial.constraints['memory']:.0%} above what the machine had: not counted")
    notes += [trial.user_attrs["reason"]] if trial.user_attrs.get("reason") else []
    notes += ["heat or memory were injected"] if trial.user_attrs.get("injected") else []
    return notes


def render(table: StudyTable) -> str:
    """The table as aligned text; an unknown value is a dash."""
    cells = [table.columns, *(tuple("-" if cell is None else str(cell) for cell in row) for row in table.rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(table.columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join([table.name, *(f"  {line}" for line in lines)])
