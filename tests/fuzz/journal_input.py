"""Bytes and cells of a journal: torn pages, a damaged write-ahead log, and rows that no version of ours has written."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from hypothesis import strategies as st

from autotuner.errors import AutotunerError, JournalError
from autotuner.journal import (
    AdviceRecord,
    ChangeRecord,
    ComparisonRecord,
    DecisionRecord,
    EvaluationRecord,
    Journal,
    MachineRecord,
    ModeRecord,
    PinRecord,
    QuarantineRecord,
    Reader,
    RequestRecord,
    RunRecord,
    TelemetryRecord,
    model_key,
)
from autotuner.journal.schema import TABLES
from autotuner.knobs import declare
from autotuner.messages import Declaration
from tests.fuzz.damage import FLOATS, TEXTS, WHOLE, damaged, overwrite, readable

DECLARATION = Declaration("r-1", "r", 1, 0.0, 100.0, (declare("micro_batch", 32, [16, 32, 64]),), "mlx", model={"width": 64})
RECORDS = (
    RunRecord("r-1", "r", "mlx", model_key(DECLARATION), DECLARATION.to_json(), 100.0, 101.0, last_values_json="[32]"),
    ChangeRecord("r-1", 1, "micro_batch", 1, 0, 32.0, 16.0, "memory", "micro_batch 32 to 16", "low", "rules", 110.0),
    TelemetryRecord("r-1", 102.0, 5, 160, 0.5, 0.1, 320.0, 10, 20, 30, None, 0, 0, "[32]"),
    DecisionRecord("r-1", 103.0, "act", 0, "steady", "hold", "nothing to gain", "rules", mask="10", observation_json="[1.5]"),
    MachineRecord(104.0, celsius=61.5, injected=1),
    EvaluationRecord("r-1", 105.0, 6, 0.25, None, 0, 1.5, 0, 1.25),
    PinRecord("r-1", "micro_batch", 32.0, "you", 106.0),
    QuarantineRecord("m", '{"micro_batch": 64.0}', "r-1", "killed with memory at 95 %", 107.0),
    RequestRecord("accept", "r-1", "a", 110.0),
    AdviceRecord("a", "r-1", "micro_batch", "micro_batch 32 to 16", "low", 108.0, 109.0, 32.0, 16.0),
    ModeRecord(111.0, "observe", "rules", "lost"),
    ComparisonRecord(112.0, "rules", 1, 3, 3, 0.5, '["r-1"]'),
)
CELLS = (
    None, *(n for n in WHOLE if n < 2**63), -1, *FLOATS, *(t for t in TEXTS if "\ud800" not in t), b"\xff\xfe", b"",
    "[1, NaN]", "[[[]]]", "{}", '{"micro_batch": "x"}', "[" * 2000, '{"knobs": 3}', '{"knobs": [{}]}', "[1e999]", "null",
)  # fmt: skip
columns = st.sampled_from([(table.name, column) for table in TABLES for column in table.columns])
cells = st.lists(st.tuples(columns, st.sampled_from(CELLS)), min_size=1, max_size=4)
PROPERTIES = ("declaration", "trial", "last_values", "values", "run_ids")


def _whole_journal(directory: Path) -> bytes:
    path = directory / "whole.sqlite3"
    with contextlib.closing(Journal(path)) as journal:
        for record in RECORDS:
            journal.write(record)
        journal.commit()
        journal._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.read_bytes()


@st.composite
def journals(draw: st.DrawFn, whole: bytes):
    """The file, its write-ahead log (or None), and cells to be replaced in a file that is otherwise sound."""
    if draw(st.booleans()):
        return whole, None, draw(cells)
    log = draw(st.binary(max_size=80)) if draw(st.integers(0, 9)) == 0 else None
    return draw(damaged(whole)), log, []


class JournalInput:
    """The daemon opens any file (a damaged one moves aside), and reading meets rows of the declared types or a JournalError."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cases = journals(_whole_journal(directory))

    def check(self, case) -> None:
        data, log, replaced = case
        path = self.directory / "journal.sqlite3"
        try:
            overwrite(path, data)
            if log is not None:
                path.with_name(path.name + "-wal").write_bytes(log)
            if replaced:
                self._replace(path, replaced)
            with contextlib.suppress(JournalError), Reader(path) as reader:
                self._read_all(reader)
            self._write(path)
        finally:
            for left in self.directory.glob("journal.*"):
                left.unlink()

    def close(self) -> None:
        pass

    def _replace(self, path: Path, replaced) -> None:
        connection = sqlite3.connect(path, isolation_level=None)
        for (table, column), value in replaced:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("PRAGMA ignore_check_constraints = ON")
                connection.execute(f"UPDATE OR IGNORE {table} SET {column} = ?", (value,))
        connection.close()

    def _read_all(self, reader: Reader) -> None:
        for name, arguments in (
            ("runs", ()), ("runs", (True,)), ("run", ("r-1",)), ("find_run", ("r",)), ("changes", ("r-1",)),
            ("open_changes", ("r-1",)), ("decisions", ("r-1",)), ("telemetry", ("r-1",)), ("evaluations", ("r-1",)),
            ("first_telemetry_unix", ("r-1",)), ("machine", ()), ("pins", ()), ("quarantine", ()), ("advice", ()),
            ("find_advice", ("a",)), ("open_requests", ()), ("requests", ("r-1",)), ("request", (1,)),
            ("modes", ()), ("comparisons", ()),
        ):  # fmt: skip
            try:
                found = getattr(reader, name)(*arguments)
            except JournalError as error:
                readable(error)
                continue
            for row in found if isinstance(found, list) else [found]:
                for attribute in PROPERTIES:
                    with contextlib.suppress(AutotunerError):
                        getattr(row, attribute, None)

    def _write(self, path: Path) -> None:
        aside: list[Path] = []
        journal = Journal(path, lambda target, why: aside.append(target))
        try:
            with contextlib.suppress(JournalError):
                self._read_all(journal)
                for record in RECORDS:
                    journal.write(record)
                journal.commit()
                journal.data_version()
                journal.delete_before(200.0)
        finally:
            with contextlib.suppress(JournalError):
                journal.close()
        assert all(target.exists() for target in aside)
