"""One turn of the search: tell what has ended, let lapse what nobody took, propose what comes next."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from autotuner.errors import AutotunerError
from autotuner.search import proposals
from autotuner.search.draw import draw
from autotuner.search.eligible import eligible
from autotuner.search.journal_runs import read_runs
from autotuner.search.objective import StudiedRun, StudyKey, key_of
from autotuner.search.proposals import Proposal
from autotuner.search.study import ProjectStudy
from autotuner.search.study_file import only_writer, open_storage

LEASE_SECONDS = 7 * 24 * 3600.0
"""How long a proposal waits to be taken."""


@dataclass(frozen=True)
class Turn:
    """What one turn did for one project."""

    project: str
    study: str
    told: int
    lapsed: int
    proposal: Proposal | None
    what: str


def propose(state_directory: Path, now_unix: float, project: str | None = None) -> tuple[list[Turn], str]:
    """Take a turn for every project in the journal (or for one), and what had to be done to open the study file."""
    by_project: dict[str, list[tuple[StudyKey, StudiedRun]]] = {}
    for run in read_runs(state_directory):
        try:
            key = key_of(run)
        except AutotunerError:  # it belongs to no study; ``unstudied`` says why
            continue
        by_project.setdefault(key.project, []).append((key, run))
    chosen = {name: runs for name, runs in by_project.items() if project in (None, name)}
    if not chosen:
        return [], ""
    with only_writer(state_directory):
        storage, note = open_storage(state_directory)
        try:
            return [_turn(state_directory, storage, runs, now_unix) for runs in chosen.values()], note
        finally:
            storage.engine.dispose()


def unstudied(state_directory: Path) -> list[str]:
    """One sentence for every run that offers a search space and yet belongs to no study."""
    sentences = []
    for run in read_runs(state_directory):
        try:
            key_of(run)
        except AutotunerError as error:
            sentences.append(str(error))
    return sentences


def _turn(state_directory: Path, storage: BaseStorage, runs: Sequence[tuple[StudyKey, StudiedRun]], now_unix: float) -> Turn:
    """A turn for one project. The newest run says which space and budget count; older runs are told where they fit."""
    key = max(runs, key=lambda pair: pair[1].created_unix)[0]
    comparable = [run for other, run in runs if other.budget == key.budget]
    live = [run for run in comparable if not run.outcome]
    study = ProjectStudy(storage, key)
    told = study.tell([run for run in comparable if run.outcome])
    waiting = proposals.read(state_directory, key.project)
    kept, lapsed = _settle(study, live, waiting, told, now_unix)
    if kept:
        return Turn(key.project, key.name, told, lapsed, waiting, f"trial {kept.number} still waits to be taken")
    proposal, what = _next(study, comparable, now_unix)
    if proposal is None:
        proposals.withdraw(state_directory, key.project)
    else:
        proposals.write(state_directory, proposal)
    return Turn(key.project, key.name, told, lapsed, proposal, what)


def _settle(
    study: ProjectStudy, live: Sequence[StudiedRun], waiting: Proposal | None, told: int, now_unix: float
) -> tuple[FrozenTrial | None, int]:
    """Let open trials lapse that no run will answer; the one that rightly waits, and how many lapsed."""
    kept, lapsed = None, 0
    taken = {run.trial for run in live}
    for trial in study.out():
        if trial.number in taken:
            continue
        reason = _lapse_reason(trial, waiting, told, now_unix)
        if reason:
            study.lapse(trial.number, reason)
            lapsed += 1
        else:
            kept = trial
    return kept, lapsed


def _lapse_reason(trial: FrozenTrial, waiting: Proposal | None, told: int, now_unix: float) -> str:
    if waiting is None or waiting.trial != trial.number or waiting.parameters != trial.params:
        return "its proposal was replaced"
    if told:
        return "newer results came in before a run took it"
    if now_unix - trial.user_attrs["proposed_unix"] > LEASE_SECONDS:
        return f"no run took it within {LEASE_SECONDS / 86400:.0f} days"
    return ""


def _next(study: ProjectStudy, runs: Sequence[StudiedRun], now_unix: float) -> tuple[Proposal | None, str]:
    """Draw an untried combination that fits into memory; the best one again when all were tried."""
    space, best = study.key.space, study.best()
    judge = eligible(space, study.trials, runs)
    drawn = draw(space, study.trials, judge, seed=zlib.crc32(f"{study.key.name}/{len(study.trials)}".encode()))
    if drawn is None and best is not None and judge.covers(space):
        drawn = dict(best.params), f"all {space.size} combinations were tried; this one was the best"
    if drawn is None:
        return None, "nothing proposed: no untried combination is expected to fit into this machine's memory"
    parameters, why = drawn
    expected = {"peak_bytes": judge.expected_bytes(parameters), "best_held_out_loss": best.value if best else None}
    number = study.propose(parameters, why, now_unix)
    return Proposal(study.key.project, number, parameters, expected, why, now_unix), f"trial {number} proposed: {why}"
