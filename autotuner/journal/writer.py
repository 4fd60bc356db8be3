"""The journal's writing side, used by the daemon (and by commands such as ``autotuner pin`` for one row).

Durability: rows wait in memory until ``commit``, once a tick; such a commit survives the daemon's death (SQLite
``synchronous=NORMAL``) but the last ones may be lost with the power. ``intend`` is a commit of its own with
``synchronous=FULL``: when it returns, the intent is on the disk, and only then may the change be delivered.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from autotuner.errors import JournalError
from autotuner.journal.reader import Reader
from autotuner.journal.records import ChangeRecord, PinRecord, RequestRecord
from autotuner.journal.schema import SQLITE_ERRORS, TABLE_OF, TABLES, DamagedJournalError, connect, move_aside

MAX_WAITING_ROWS = 20_000
"""Rows kept in memory while the disk is full; beyond it the oldest telemetry goes first, then the oldest rows."""

_DELETED_AT_ONCE = 2_000
_FROM_STATES = {
    "delivered": ("intended",),
    "acknowledged": ("intended", "delivered"),
    "refused": ("intended", "delivered"),
    "observed": ("acknowledged",),
    "lost": ("intended", "delivered"),
}
_TIME_COLUMN = {"delivered": "delivered_unix", "acknowledged": "acknowledged_unix", "observed": "observed_unix"}
_RETAINED_BY = {"telemetry": "time_unix", "decisions": "time_unix", "machine": "time_unix"}

Statement = tuple[str, tuple[Any, ...]]


class Journal(Reader):
    """A journal open for writing. Rows are queued, and written by ``commit``; a failed commit keeps them for the next."""

    def __init__(self, path: Path, moved_aside: Callable[[Path, str], None] | None = None) -> None:
        """Open or create. With ``moved_aside`` (the daemon) a damaged file is renamed and told; without, it is an error."""
        self.path = path
        self._moved_aside = moved_aside
        self._waiting: list[Statement] = []
        self._connection = self._open()

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        for last_attempt in (False, True):
            try:
                return connect(self.path)
            except DamagedJournalError as error:
                if last_attempt or self._moved_aside is None:
                    raise
                self._moved_aside(move_aside(self.path), str(error))
            except (*SQLITE_ERRORS, OSError) as error:
                raise JournalError(f"journal {self.path}: {error}") from None
        raise AssertionError("unreachable")

    def reopen(self) -> None:
        """Close and open again, moving a damaged file aside; waiting rows are kept."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
        self._connection = self._open()

    def close(self) -> None:
        """Write what waits and release the file; raises JournalError when that fails (the file is released anyway)."""
        try:
            self.commit()
        finally:
            self._connection.close()

    def write(self, record: object) -> None:
        """Queue one row; a row with the same key is replaced."""
        table = TABLE_OF[type(record)]
        marks = ", ".join("?" * len(table.columns))
        self._queue(f"INSERT OR REPLACE INTO {table.name} ({', '.join(table.columns)}) VALUES ({marks})", table.row(record))

    def update_run(self, run_id: str, **columns: Any) -> None:
        """Queue new values of some of a run's columns."""
        assignments = ", ".join(f"{column} = ?" for column in columns)
        self._queue(f"UPDATE runs SET {assignments} WHERE run_id = ?", (*columns.values(), run_id))

    def intend(self, changes: Sequence[ChangeRecord]) -> None:
        """Write intents durably, with all that waits; raises JournalError, and then nothing may be delivered."""
        before = len(self._waiting)
        for change in changes:
            self.write(change)
        try:
            self._execute("PRAGMA synchronous = FULL")
            self.commit()
        except JournalError:
            del self._waiting[before:]
            raise
        finally:
            with contextlib.suppress(JournalError):
                self._execute("PRAGMA synchronous = NORMAL")

    def advance(self, run_id: str, revision: int, state: str, time_unix: float, **columns: Any) -> None:
        """Queue the next state of a revision's changes, with ``step`` or ``refusal``; a state never goes back."""
        values: dict[str, Any] = {"state": state, **columns}
        if state in _TIME_COLUMN:
            values[_TIME_COLUMN[state]] = time_unix
        assignments = ", ".join(f"{column} = ?" for column in values)
        marks = ", ".join("?" * len(_FROM_STATES[state]))
        self._queue(
            f"UPDATE changes SET {assignments} WHERE run_id = ? AND revision = ? AND state IN ({marks})",
            (*values.values(), run_id, revision, *_FROM_STATES[state]),
        )

    def supersede(self, run_id: str, revision: int) -> None:
        """Queue that changes older than an answered revision are lost: the page holds only the newest ask."""
        self._queue(
            "UPDATE changes SET state = 'lost' WHERE run_id = ? AND revision < ? AND state IN ('intended', 'delivered')",
            (run_id, revision),
        )

    def pin(self, pin: PinRecord) -> None:
        """Queue a pin."""
        self.write(pin)

    def release(self, run_id: str, knob: str) -> None:
        """Queue the end of a pin."""
        self._queue("DELETE FROM pins WHERE run_id = ? AND knob = ?", (run_id, knob))

    def ask(self, request: RequestRecord) -> int:
        """Write a person's request at once; return its number, under which the answer will stand. Raises JournalError."""
        self.commit()
        table = TABLE_OF[RequestRecord]
        marks = ", ".join("?" * len(table.columns))
        sql = f"INSERT INTO {table.name} ({', '.join(table.columns)}) VALUES ({marks})"
        return int(self._execute(sql, table.row(request)).lastrowid or 0)

    def withdraw_advice(self, run_id: str, keep: Iterable[str] = ()) -> None:
        """Queue the end of a run's advice, except the ids in ``keep``."""
        kept = tuple(keep)
        marks = ", ".join("?" * len(kept))
        self._queue(f"DELETE FROM advice WHERE run_id = ? AND advice_id NOT IN ({marks})", (run_id, *kept))

    def commit(self) -> None:
        """Write everything queued in one transaction; raises JournalError and keeps the rows when that fails."""
        if not self._waiting:
            return
        self._execute("BEGIN IMMEDIATE")
        try:
            for statement, arguments in self._waiting:
                self._execute(statement, arguments)
            self._execute("COMMIT")
        except JournalError:
            with contextlib.suppress(sqlite3.Error):
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            raise
        self._waiting.clear()

    def data_version(self) -> int:
        """A number that changes when another process has written (a pin, a release)."""
        return int(self._execute("PRAGMA data_version").fetchone()[0])

    def size_bytes(self) -> int:
        """Size of the file and its write-ahead log."""
        files = (self.path, self.path.with_name(self.path.name + "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def delete_before(self, time_unix: float) -> int:
        """Delete older telemetry, decisions and machine rows, a few at a time so that no tick waits; return how many."""
        deleted = sum(sum(self._delete(table, column, time_unix)) for table, column in _RETAINED_BY.items())
        while self._execute("PRAGMA freelist_count").fetchone()[0]:
            self._execute(f"PRAGMA incremental_vacuum({_DELETED_AT_ONCE})").fetchall()
        self._execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return deleted

    def _delete(self, table: str, column: str, time_unix: float) -> Iterator[int]:
        chunk = f"SELECT rowid FROM {table} WHERE {column} < ? LIMIT {_DELETED_AT_ONCE}"
        while count := self._execute(f"DELETE FROM {table} WHERE rowid IN ({chunk})", (time_unix,)).rowcount:
            yield count

    def _queue(self, statement: str, arguments: tuple[Any, ...]) -> None:
        self._waiting.append((statement, tuple(map(_storable, arguments))))
        if len(self._waiting) > MAX_WAITING_ROWS:
            disposable = (i for i, (sql, _) in enumerate(self._waiting) if sql.startswith(_DISPOSABLE))
            del self._waiting[next(disposable, 0)]

    def _execute(self, statement: str, arguments: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        try:
            return self._connection.execute(statement, arguments)
        except SQLITE_ERRORS as error:
            raise JournalError(f"journal {self.path}: {error}") from None


def _storable(value: Any) -> Any:
    """``value`` as SQLite can hold it: a row that it refuses would be refused at every commit, with all others."""
    if isinstance(value, int):
        return min(max(value, -(2**63)), 2**63 - 1)
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


_DISPOSABLE = tuple(f"INSERT OR REPLACE INTO {table.name} " for table in TABLES if table.name in _RETAINED_BY)
