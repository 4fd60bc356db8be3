"""The daemon killed at random moments: nothing torn, nothing lost, no training disturbed."""

import sqlite3

import pytest

from autotuner.journal import Journal, journal_path
from tests.daemon.kill_harness import Harness, harvest

CLEAN = {"torn": 0, "lost": 0, "disturbed": 0}


@pytest.mark.parametrize(
    ("kills", "changes"), [pytest.param(50, 3, id="50"), pytest.param(1000, 60, id="1000", marks=pytest.mark.slow)]
)
def test_killed_daemons_tear_lose_and_disturb_nothing(tmp_path, kills, changes):
    found = harvest(tmp_path, kills, seed=1)
    assert CLEAN.items() <= found.items()
    assert found["kills"] == kills
    assert found["changes"] >= changes, "too little happened to prove anything"
    assert found["inside"] >= kills // 10


def test_the_harness_sees_a_commit_that_never_reached_the_journal(tmp_path, monkeypatch):
    monkeypatch.setattr(Journal, "commit", lambda journal: journal._waiting.clear())
    assert harvest(tmp_path, 12, seed=1)["lost"]


def test_the_harness_sees_a_torn_journal(tmp_path):
    harness = Harness(tmp_path, 1)
    harness.kill()
    path = journal_path(tmp_path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    path.write_bytes(path.read_bytes()[:4096] + b"rubbish" * 4096)
    assert harness._torn()
