"""A state directory whose journal is filled with runs that a test describes in a line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from autotuner.hook.files import slug
from autotuner.journal import Journal, MachineRecord, RunRecord, journal_path
from autotuner.messages import Declaration
from autotuner.search.study_file import STUDY_FILE, only_writer, open_storage

SPACE = {"width": [48, 64, 96], "depth": [2, 3, 4, 6], "mlp_ratio": [2, 3, 4]}
GIGABYTE = 10**9


class RunsInJournal:
    """Writes runs as the daemon would have."""

    def __init__(self, state: Path, empty_study_file: Path) -> None:
        self.state = state
        self.count = 0
        self._empty_study_file = empty_study_file

    def add(self, loss: float | None, outcome: str = "finished", name: str = "Fashion", **fields: Any) -> str:
        """One run; ``model``, ``space``, ``budget_seconds``, ``peak_bytes`` and ``room_bytes`` may be given."""
        self.count += 1
        if fields.get("space") != {} and not (self.state / STUDY_FILE).exists():
            shutil.copy(self._empty_study_file, self.state / STUDY_FILE)  # Optuna takes half a second to make one
        run_id = f"{slug(name)}-{self.count:03d}"
        created = 1e9 + 1000 * self.count
        declaration = Declaration(
            run_id,
            name,
            1,
            0.0,
            created,
            budget_seconds=fields.get("budget_seconds", 150.0),
            model=fields.get("model", {"width": 64, "depth": 3, "mlp_ratio": 2}),
            search_space=fields.get("space", SPACE),
        )
        record = RunRecord(
            run_id,
            name,
            "mlx",
            "key",
            declaration.to_json(),
            created,
            created,
            ended_unix=created + 150 if outcome else None,
            outcome=outcome,
            final_held_out_loss=loss,
            peak_bytes=fields.get("peak_bytes", GIGABYTE),
            memory_available_bytes=fields.get("room_bytes", 8 * GIGABYTE),
        )
        journal = Journal(journal_path(self.state))
        journal.write(record)
        journal.write(MachineRecord(created + 10, injected=fields.get("injected", 0)))
        journal.close()
        return run_id

    def proposal(self, project: str = "fashion") -> dict[str, Any] | None:
        """The proposal file as the hook would read it."""
        path = self.state / "proposals" / f"{project}.json"
        return json.loads(path.read_text()) if path.exists() else None


@pytest.fixture(scope="session")
def empty_study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study file as the search begins it."""
    directory = tmp_path_factory.mktemp("study")
    with only_writer(directory):
        storage, _ = open_storage(directory)
        storage.engine.dispose()
    return directory / STUDY_FILE


@pytest.fixture
def runs(tmp_path: Path, empty_study_file: Path) -> RunsInJournal:
    """An empty state directory."""
    return RunsInJournal(tmp_path, empty_study_file)
