"""The journal's reading side: typed rows for command line, status page, search and reports."""

from __future__ import annotations

import math
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from autotuner.errors import JournalError
from autotuner.journal.records import (
    AdviceRecord,
    ChangeRecord,
    ComparisonRecord,
    DecisionRecord,
    EvaluationRecord,
    MachineRecord,
    ModeRecord,
    PinRecord,
    QuarantineRecord,
    RequestRecord,
    RunRecord,
    TelemetryRecord,
)
from autotuner.journal.schema import SQLITE_ERRORS, TABLE_OF, connect_read_only

Record = TypeVar("Record")
DAY_SECONDS = 86_400.0


def journal_path(state_directory: Path) -> Path:
    """Where the journal of a state directory is."""
    return state_directory / "journal.sqlite3"


CANDIDATES = 8
"""Runs that are named where none, or more than one, was meant."""
_BY_CREATION = "created_unix, rowid"


class Reader:
    """Reads a journal, with or without a daemon writing it; every method returns the oldest row first.

    One reader belongs to the thread that opened it. Raises JournalError when the file is missing, locked or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = connect_read_only(path)

    def close(self) -> None:
        """Release the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def runs(self, live: bool | None = None, last: int | None = None) -> list[RunRecord]:
        """Runs by creation; ``live`` selects live or ended ones, ``last`` the newest."""
        condition = {None: "1", True: "ended_unix IS NULL", False: "ended_unix IS NOT NULL"}[live]
        return self._select(RunRecord, condition, (), _BY_CREATION, last)

    def ended_run_ids(self, before_unix: float = math.inf) -> list[str]:
        """Ids of the runs that ended before this time; of thousands, whole rows would cost the daemon tens of MB for ever."""
        try:
            ids = [found for (found,) in self._connection.execute(
                "SELECT run_id FROM runs WHERE ended_unix < ? ORDER BY created_unix, rowid", (before_unix,)
            )]  # fmt: skip
        except SQLITE_ERRORS as error:
            raise JournalError(f"journal {self.path}: {error}") from None
        if not all(isinstance(found, str) for found in ids):
            raise JournalError(f"journal {self.path}: table runs holds a row whose run_id is not a text")
        return ids

    def run(self, run_id: str) -> RunRecord | None:
        """The run with exactly this id."""
        return next(iter(self._select(RunRecord, "run_id = ?", (run_id,), "rowid")), None)

    def find_run(self, text: str) -> RunRecord:
        """The run meant by an id, a unique prefix of an id, or a name (its newest run); raises JournalError otherwise."""
        for condition in ("run_id = ?1", "name = ?1", "substr(run_id, 1, length(?1)) = ?1"):
            matching = self._select(RunRecord, condition, (text,), _BY_CREATION, None if "substr" in condition else 1)
            if len(matching) == 1:
                return matching[0]
        shown = ", ".join(run.run_id for run in (matching or self.runs(last=CANDIDATES))[-CANDIDATES:]) or "none"
        fact = f"{text!r} means {len(matching)} runs" if matching else f"no run is called {text!r}"
        raise JournalError(f"{fact}; {'candidates' if matching else 'known runs'}: {shown}")

    def changes(self, run_id: str, last: int | None = None) -> list[ChangeRecord]:
        """Changes of one run."""
        return self._select(ChangeRecord, "run_id = ?", (run_id,), "change_id", last)

    def open_changes(self, run_id: str) -> list[ChangeRecord]:
        """Changes whose fate is not settled: intended or delivered."""
        return self._select(ChangeRecord, "run_id = ? AND state IN ('intended', 'delivered')", (run_id,), "change_id")

    def decisions(self, run_id: str, last: int | None = None, changed_only: bool = False) -> list[DecisionRecord]:
        """Decisions of one run, hold included unless ``changed_only``."""
        condition = "run_id = ? AND (changed > 0 OR vetoed <> '')" if changed_only else "run_id = ?"
        return self._select(DecisionRecord, condition, (run_id,), "decision_id", last)

    def telemetry(
        self, run_id: str, since_unix: float = 0.0, last: int | None = None, before_step: float = math.inf
    ) -> list[TelemetryRecord]:
        """One row a tick that had a new sample."""
        condition = "run_id = ? AND time_unix >= ? AND step < ?"
        return self._select(TelemetryRecord, condition, (run_id, since_unix, before_step), "time_unix", last)

    def first_telemetry_unix(self, run_id: str) -> float | None:
        """When the oldest telemetry row of a run was written; None without any."""
        return self._time("SELECT min(time_unix) FROM telemetry WHERE run_id = ?", run_id)

    def recorded_day_unix(self, newest: int) -> float | None:
        """When the ``newest``-th newest of the days (UTC) began on which the machine was recorded; None without so many."""
        day = math.inf
        for _ in range(newest):
            latest = self._time("SELECT max(time_unix) FROM machine WHERE time_unix < ?", day)
            if latest is None:
                return None
            day = latest - latest % DAY_SECONDS
        return day

    def _time(self, statement: str, argument: object) -> float | None:
        try:
            (found,) = self._connection.execute(statement, (argument,)).fetchone()
        except SQLITE_ERRORS as error:
            raise JournalError(f"journal {self.path}: {error}") from None
        if not isinstance(found, (float, int, type(None))):
            raise JournalError(f"journal {self.path}: a row has time_unix {found!r:.80}; allowed is a number")
        return None if found is None else float(found)

    def evaluations(self, run_id: str) -> list[EvaluationRecord]:
        """Held-out measurements of one run."""
        return self._select(EvaluationRecord, "run_id = ?", (run_id,), "time_unix")

    def machine(self, since_unix: float = 0.0, until_unix: float = 1e18) -> list[MachineRecord]:
        """The machine's readings while any run was live."""
        return self._select(MachineRecord, "time_unix BETWEEN ? AND ?", (since_unix, until_unix), "time_unix")

    def pins(self, run_id: str | None = None) -> list[PinRecord]:
        """Pinned knobs of one run, or of all."""
        return self._select(PinRecord, "?1 IS NULL OR run_id = ?1", (run_id,), "time_unix")

    def quarantine(self, model: str | None = None) -> list[QuarantineRecord]:
        """Quarantined knob values of one model (see ``model_key``), or of all."""
        return self._select(QuarantineRecord, "?1 IS NULL OR model = ?1", (model,), "time_unix")

    def advice(self, run_id: str | None = None) -> list[AdviceRecord]:
        """Standing advice for one run, or for all."""
        return self._select(AdviceRecord, "?1 IS NULL OR run_id = ?1", (run_id,), "last_unix")

    def find_advice(self, advice_id: str) -> AdviceRecord | None:
        """The standing advice with this id."""
        return next(iter(self._select(AdviceRecord, "advice_id = ?", (advice_id,), "last_unix")), None)

    def open_requests(self) -> list[RequestRecord]:
        """What people have asked for and the daemon has not answered yet."""
        return self._select(RequestRecord, "answered_unix IS NULL", (), "request_id")

    def requests(self, run_id: str) -> list[RequestRecord]:
        """What people have asked for in one run, and the answers."""
        return self._select(RequestRecord, "run_id = ?", (run_id,), "request_id")

    def request(self, request_id: int) -> RequestRecord | None:
        """One request."""
        return next(iter(self._select(RequestRecord, "request_id = ?", (request_id,), "request_id")), None)

    def modes(self) -> list[ModeRecord]:
        """Modes that the daemon took by itself."""
        return self._select(ModeRecord, "1", (), "time_unix")

    def comparisons(self) -> list[ComparisonRecord]:
        """Blocks of held-out and treated runs that have been compared, of every policy."""
        return self._select(ComparisonRecord, "1", (), "comparison_id")

    def _select(
        self, record: type[Record], condition: str, arguments: tuple[Any, ...], order: str, last: int | None = None
    ) -> list[Record]:
        table = TABLE_OF[record]
        newest_first = ", ".join(f"{column} DESC" for column in order.split(", "))
        sql = f"SELECT {', '.join(table.columns)} FROM {table.name} WHERE {condition} ORDER BY {newest_first} LIMIT ?"
        bound = (*arguments, -1 if last is None else last)
        if "?1" in condition:
            sql = sql.removesuffix("?") + "?2"
        try:
            rows = self._connection.execute(sql, bound).fetchall()
        except (*SQLITE_ERRORS, OverflowError) as error:
            raise JournalError(f"journal {self.path}: {error}") from None
        if not all(map(table.holds, rows)):
            raise JournalError(
                f"journal {self.path}: table {table.name} holds a row whose values have other types than its columns"
            )
        return [record(*row) for row in reversed(rows)]
