"""Hundreds of runs that have ended cost a daemon neither all rows of the journal nor a look into their directories."""

import os

import pytest

from autotuner.daemon.holdout import NEWEST
from autotuner.daemon.jobs import retain
from autotuner.journal import Journal, Reader, RunRecord, journal_path
from tests.suites.fake_run import FakeRun
from tests.suites.hand_driven_daemon import UNIX, at, start_daemon

ENDED = 2 * NEWEST
"""The gain is reckoned from the ``NEWEST`` runs: no question may bring more rows than that, however many have ended."""


@pytest.fixture
def state(tmp_path):
    """A state directory in which so many runs have ended, the first a day before the others."""
    with Journal(journal_path(tmp_path)) as journal:
        for number in range(ENDED):
            (tmp_path / "runs" / f"old-{number}").mkdir(parents=True)
            ended = UNIX - 100.0 - (86_400.0 if number == 0 else 0.0)
            journal.write(RunRecord(f"old-{number}", "old", "", "", "{}", ended - 50.0, ended - 50.0, ended_unix=ended))
    return tmp_path


@pytest.fixture
def rows(monkeypatch):
    """How many rows of runs each question to the journal brought."""
    counts, real = [], Reader.runs

    def counted(self, *arguments, **fields):
        found = real(self, *arguments, **fields)
        counts.append(len(found))
        return found

    monkeypatch.setattr(Reader, "runs", counted)
    return counts


def test_start_and_ticks_read_bounded_rows_and_no_old_directory(state, rows, monkeypatch):
    looked = []
    monkeypatch.setattr("autotuner.daemon.discovery.read_declaration", looked.append)
    daemon = start_daemon(state, monkeypatch)
    for second in range(1, 6):
        daemon.tick(at(float(second)))
    assert max(rows) <= NEWEST
    assert (looked, daemon.snapshot.runs) == ([], ())
    daemon.stop(at(6.0))


def test_ticks_do_not_list_the_directory_again(state, monkeypatch):
    daemon = start_daemon(state, monkeypatch)
    daemon.tick(at(1.0))
    monkeypatch.setattr(os, "scandir", lambda path: pytest.fail(f"{path} is listed again"))
    daemon.tick(at(2.0))
    daemon.stop(at(3.0))


def test_a_new_run_is_found_among_them(state, rows, monkeypatch):
    daemon = start_daemon(state, monkeypatch)
    daemon.tick(at(1.0))
    FakeRun(state, "cats-1").sample(1.5)
    daemon.tick(at(2.0))
    assert list(daemon.live) == ["cats-1"]
    assert max(rows) <= NEWEST
    daemon.stop(at(3.0))


def test_retention_reads_ids_alone(state, rows):
    assert retain(state, UNIX - 86_400.0)[1] == 1
    assert not (state / "runs" / "old-0").exists()
    assert (state / "runs" / "old-1").exists()
    assert max(rows, default=0) <= NEWEST
