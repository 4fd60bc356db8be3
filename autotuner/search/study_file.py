"""The study file ``<state>/study.sqlite3``: one writer at a time; a damaged one is moved aside, never deleted."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import optuna
import sqlalchemy.exc

from autotuner.errors import JournalError

STUDY_FILE = "study.sqlite3"
BUSY_SECONDS = 30
"""How long a lock that another program (a dashboard) holds on the file is waited for."""


@contextmanager
def only_writer(state_directory: Path) -> Iterator[None]:
    """Hold the lock that lets one proposer at a time work; waits for the other one."""
    state_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(state_directory / "study.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def open_storage(state_directory: Path) -> tuple[optuna.storages.RDBStorage, str]:
    """The storage, and what had to be done to open it (empty: nothing). Call under ``only_writer``.

    A damaged file is moved aside and a new one begun: the journal holds every result, so the next pass tells them again.
    Raises JournalError when the file is locked or belongs to another version of Optuna.
    """
    path = state_directory / STUDY_FILE
    damage = _damage(path)
    note = f"{path} is damaged ({damage}): moved to {_move_aside(path)}, begun anew from the journal" if damage else ""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": BUSY_SECONDS}})
    except (RuntimeError, sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise JournalError(f"study file {path} cannot be used: {error}") from None
    path.chmod(0o600)
    return storage, note


def _damage(path: Path) -> str:
    """What is wrong with the file, in SQLite's words; empty when nothing is, or there is none yet."""
    if not path.exists():
        return ""
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
            verdict = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.OperationalError as error:
        raise JournalError(f"study file {path} cannot be read: {error}") from None
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if verdict == "ok" else verdict


def _move_aside(path: Path) -> Path:
    number = 1
    while (target := path.with_name(f"study.corrupt-{number}.sqlite3")).exists():
        number += 1
    for suffix in ("", "-wal", "-shm", "-journal"):
        source = path.with_name(path.name + suffix)
        if source.exists():
            source.rename(target.with_name(target.name + suffix))
    return target
