"""The journal's tables, generated from the records, and how a file is opened, checked and moved aside."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import MISSING, Field, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

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

SCHEMA_VERSION = 5
"""Grows when a table or a column is added; nothing is renamed or removed, so that ``upgrade`` only has to add."""
BUSY_MILLISECONDS = 2000
LARGEST_VALUE_BYTES = 16 * 2**20
"""Of a row or a value of it, read or written; a run's declaration, the largest that there is, has a megabyte at most."""
CHECKED_BYTES = 64 * 2**20
"""Files up to this size are checked page by page when they are opened; beyond it that would delay the start."""


@dataclass(frozen=True)
class Table:
    """One table: the record it holds, its key, and its index."""

    name: str
    record: type
    primary_key: tuple[str, ...] = ()
    index: tuple[str, ...] = ()
    serial: str = ""
    """Column numbered by SQLite."""

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Column names, in the record's order."""
        return tuple(field.name for field in fields(self.record))

    @cached_property
    def _kinds(self) -> tuple[tuple[type, ...], ...]:
        return tuple(_kinds(field) for field in fields(self.record))

    def row(self, record: object) -> tuple[Any, ...]:
        """The values of one record."""
        return tuple(getattr(record, column) for column in self.columns)

    def holds(self, row: tuple[Any, ...]) -> bool:
        """Whether the values of a row that was read have the declared types: SQLite itself does not insist."""
        return all(map(isinstance, row, self._kinds))

    def statements(self) -> Iterator[str]:
        """The SQL that creates it."""
        columns = [self._column(field) for field in fields(self.record)]
        if self.primary_key:
            columns.append(f"PRIMARY KEY ({', '.join(self.primary_key)})")
        yield f"CREATE TABLE {self.name} ({', '.join(columns)})"
        if self.index:
            yield f"CREATE INDEX {self.name}_index ON {self.name} ({', '.join(self.index)})"

    def additions(self, present: Collection[str]) -> Iterator[str]:
        """The SQL that adds the columns which a table of an older version lacks; old rows get the record's default."""
        for field in fields(self.record):
            if field.name not in present:
                yield f"ALTER TABLE {self.name} ADD COLUMN {self._column(field)}{_default(field)}"

    def _column(self, field: Field[Any]) -> str:
        if field.name == self.serial:
            return f"{field.name} INTEGER PRIMARY KEY"
        annotation = str(field.type)
        kind = _COLUMN_TYPES[annotation.removesuffix(" | None")]
        return f"{field.name} {kind}" + ("" if annotation.endswith("None") else " NOT NULL")


def _default(field: Field[Any]) -> str:
    if field.default is None or str(field.type).endswith("None"):
        return ""
    value = _EMPTY[str(field.type)] if field.default is MISSING else field.default
    return f" DEFAULT '{value}'" if isinstance(value, str) else f" DEFAULT {value}"


def _kinds(field: Field[Any]) -> tuple[type, ...]:
    annotation = str(field.type)
    kinds = _PYTHON_TYPES[annotation.removesuffix(" | None")]
    return (*kinds, type(None)) if annotation.endswith("None") else kinds


_PYTHON_TYPES: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (float, int)}
_COLUMN_TYPES = {"str": "TEXT", "int": "INTEGER", "float": "REAL"}
_EMPTY: dict[str, str | int | float] = {"str": "", "int": 0, "float": 0.0}

TABLES: tuple[Table, ...] = (
    Table("runs", RunRecord, ("run_id",)),
    Table("changes", ChangeRecord, index=("run_id", "revision"), serial="change_id"),
    Table("decisions", DecisionRecord, index=("run_id", "time_unix"), serial="decision_id"),
    Table("telemetry", TelemetryRecord, ("run_id", "time_unix")),
    Table("machine", MachineRecord, ("time_unix",)),
    Table("evaluations", EvaluationRecord, ("run_id", "step")),
    Table("pins", PinRecord, ("run_id", "knob")),
    Table("quarantine", QuarantineRecord, ("model", "values_json")),
    Table("advice", AdviceRecord, ("advice_id",)),
    Table("modes", ModeRecord, ("time_unix",)),
    Table("comparisons", ComparisonRecord, serial="comparison_id"),
    Table("requests", RequestRecord, serial="request_id"),
)
TABLE_OF: dict[type, Table] = {table.record: table for table in TABLES}


class DamagedJournalError(JournalError):
    """The file is no journal, is torn, or has another schema version."""


class OlderJournalError(JournalError):
    """A sound journal of an older schema version, which the next daemon brings up to date."""


_NOT_DAMAGE = (
    sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL,
)  # fmt: skip
"""What may go by itself, with the file as it is; anything else that SQLite says of a query of ours speaks of the file."""


SQLITE_ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""The second comes instead of the first when the words of the first quote damaged bytes."""


def _fault(error: Exception, path: Path) -> JournalError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_BUSY) & 0xFF
    if isinstance(error, sqlite3.OperationalError) and code in _NOT_DAMAGE:
        return JournalError(f"journal {path}: {error}")
    return DamagedJournalError(f"journal {path} is damaged: {error}")


def connect(path: Path) -> sqlite3.Connection:
    """Open or create the journal for writing; raises DamagedJournalError or JournalError."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_MILLISECONDS / 1000)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_VALUE_BYTES)
    try:
        if path.stat().st_size == 0:
            _create(connection)
        upgrade(connection, path)
        check(connection, path)
        _set_up(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _set_up(connection: sqlite3.Connection, path: Path) -> None:
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA fullfsync = ON")  # macOS: plain fsync leaves the data in the drive's cache
    except SQLITE_ERRORS as error:
        raise _fault(error, path) from None


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Open an existing journal that somebody else may be writing; raises JournalError."""
    if not path.exists():
        raise JournalError(
            f"no journal at {path}: no daemon has run with this state directory yet; start one with: autotuner daemon"
        )
    connection = _open_read_only(path)
    try:
        check(connection, path, every_page=False)
    except BaseException:
        connection.close()
        raise
    return connection


def _open_read_only(path: Path) -> sqlite3.Connection:
    uri = path.absolute().as_uri()
    for options in ("mode=ro", "immutable=1"):  # a directory that we may not write to needs the second
        connection = sqlite3.connect(f"{uri}?{options}", uri=True, timeout=BUSY_MILLISECONDS / 1000)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_VALUE_BYTES)
        try:
            connection.execute("SELECT 1 FROM sqlite_schema").fetchone()
            return connection
        except SQLITE_ERRORS as error:
            connection.close()
            fault = _fault(error, path)
            if isinstance(fault, DamagedJournalError) or "locked" in str(error) or options == "immutable=1":
                raise fault from None
    raise AssertionError("unreachable")


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA synchronous = OFF")  # nothing is in it yet: a torn new file is moved aside and made again
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    if not connection.execute("SELECT 1 FROM sqlite_schema").fetchone():  # else another process was first
        for table in TABLES:
            for statement in table.statements():
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def upgrade(connection: sqlite3.Connection, path: Path) -> None:
    """Add what a sound journal of an older version lacks, in one transaction; raises DamagedJournalError or JournalError."""
    try:
        if not 0 < connection.execute("PRAGMA user_version").fetchone()[0] < SCHEMA_VERSION:
            return
        connection.execute("BEGIN IMMEDIATE")
        for table in TABLES:
            present = {name for _, name, *_ in connection.execute(f"PRAGMA table_info({table.name})")}
            for statement in table.additions(present) if present else table.statements():
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except SQLITE_ERRORS as error:
        raise _fault(error, path) from None


def check(connection: sqlite3.Connection, path: Path, every_page: bool = True) -> None:
    """Raise DamagedJournalError unless this is a sound journal of this version."""
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        if every_page and path.stat().st_size <= CHECKED_BYTES:
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise DamagedJournalError(f"journal {path} is damaged: {verdict}")
    except SQLITE_ERRORS as error:
        raise _fault(error, path) from None
    if 0 < version < SCHEMA_VERSION:
        raise OlderJournalError(
            f"journal {path} has schema version {version}; the daemon brings it to version {SCHEMA_VERSION} when it starts: "
            "autotuner daemon"
        )
    missing = {table.name for table in TABLES} - names
    if version != SCHEMA_VERSION:
        raise DamagedJournalError(f"journal {path} has schema version {version}; this Autotuner keeps version {SCHEMA_VERSION}")
    if missing:
        raise DamagedJournalError(f"journal {path} lacks the tables {', '.join(sorted(missing))}")


def move_aside(path: Path) -> Path:
    """Rename a damaged journal, with its write-ahead log, to ``journal.corrupt-<n>``; nothing is deleted."""
    number = 1
    while (target := path.with_suffix(f".corrupt-{number}")).exists():
        number += 1
    for suffix in ("", "-wal", "-shm"):
        source = path.with_name(path.name + suffix)
        if source.exists():
            source.rename(target.with_name(target.name + suffix))
    return target
