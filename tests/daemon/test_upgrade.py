"""A daemon of this version on the state directory of an earlier one: nothing is lost, and live runs are adopted."""

import sqlite3
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from autotuner.journal import journal_path
from autotuner.knobs import declare
from tests.suites.fake_run import FakeRun
from tests.suites.hand_driven_daemon import at, kill, start_daemon

OLDER = sorted((Path(__file__).parents[1] / "fixtures" / "journal").glob("version-*.sql"))


@pytest.mark.parametrize("dump", OLDER, ids=lambda dump: dump.stem)
def test_an_upgrade_in_place_keeps_runs_pins_and_what_is_live(tmp_path, monkeypatch, dump):
    connection = sqlite3.connect(journal_path(tmp_path))
    connection.executescript(dump.read_text())
    connection.close()
    cats = FakeRun(tmp_path, "cats-2", knobs=(declare("micro_batch", 32, [16, 32, 64]), declare("pace", 1.0, [0.5, 1.0])))
    with capture_logs() as logs:
        daemon = start_daemon(tmp_path, monkeypatch)
        cats.train(0.0, 4.0)
        daemon.tick(at(4.0))
    assert not [log for log in logs if log["event"] == "journal_moved_aside"]
    assert next(log["event"] for log in logs if log.get("run") == "cats-2") == "adopted"
    assert daemon.live["cats-2"].loop.pinned == {"micro_batch": "you"}
    assert not daemon.live["cats-2"].first_here, "a run has ended here before"
    assert [(run.run_id, run.outcome) for run in daemon.journal.runs()] == [("cats-1", "finished"), ("cats-2", "")]
    kill(daemon)
