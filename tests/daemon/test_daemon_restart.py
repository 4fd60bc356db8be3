"""A daemon killed at any point of a change, and what the next one makes of it."""

import json
from dataclasses import replace

import pytest

from autotuner.controller.hold import Hold
from autotuner.controller.loop import ControlLoop
from autotuner.daemon.run_files import RunFiles
from autotuner.hook.page import PageWriter
from autotuner.journal import Journal, PinRecord
from autotuner.messages import FLAG_OUT_OF_MEMORY
from tests.suites.fake_run import FakeRun
from tests.suites.hand_driven_daemon import UNIX, Killed, Wishes, at, kill, start_daemon

# (where the daemon dies, before or after that call, what the change is after the restart, whether the script has a new ask)
KILL_POINTS = [
    (Journal, "intend", "before", [], False),
    (Journal, "intend", "after", ["lost"], False),
    (RunFiles, "write", "before", ["lost"], False),
    (RunFiles, "write", "after", ["delivered"], True),
    (Journal, "advance", "before", ["delivered"], True),
    (Journal, "advance", "after", ["delivered"], True),
    (Journal, "commit", "after intend", ["delivered"], True),
]


@pytest.fixture
def cats(tmp_path):
    return FakeRun(tmp_path)


def die_at(patch, owner, name, when, daemon):
    real = getattr(owner, name)
    calls = []

    def dying(self, *arguments, **fields):
        calls.append(arguments)
        if when == "before" or (when == "after intend" and daemon.journal.open_changes("cats-1")):
            raise Killed
        result = real(self, *arguments, **fields)
        if when == "after":
            raise Killed
        return result

    patch.setattr(owner, name, dying)


@pytest.mark.parametrize(("owner", "name", "when", "expected", "asked"), KILL_POINTS)
def test_a_daemon_killed_in_the_middle_of_a_change_never_delivers_it_late(
    tmp_path, monkeypatch, cats, owner, name, when, expected, asked
):
    daemon = start_daemon(tmp_path, monkeypatch)
    daemon.tick(at(0.0))
    cats.train(0.0, 4.0)
    with monkeypatch.context() as patch:
        die_at(patch, owner, name, when, daemon)
        with pytest.raises(Killed):
            daemon.tick(at(4.0))
    kill(daemon)
    frozen = cats.page.revision()
    cats.train(4.5, 7.0)  # training goes on with nobody there

    second = start_daemon(tmp_path, monkeypatch, now=8.0, policy=Wishes("pace", -1))
    cats.sample(8.0)
    monkeypatch.setattr(ControlLoop, "due", lambda self, now: False)
    second.tick(at(8.0))
    assert [change.state for change in second.journal.changes("cats-1")] == expected
    assert cats.page.revision() == frozen
    assert (cats.asked() is not None) == asked
    assert second.live["cats-1"].loop.pending == asked
    kill(second)


def test_a_revision_number_is_never_used_twice_even_when_it_was_lost(tmp_path, monkeypatch, cats):
    daemon = start_daemon(tmp_path, monkeypatch)
    daemon.tick(at(0.0))
    cats.train(0.0, 4.0)
    calls = []
    real = PageWriter._pwrite

    def dying(self, data, offset):
        calls.append(offset)
        real(self, data, offset)
        if offset in (64, 128):
            raise Killed  # the slot is written, but not announced

    with monkeypatch.context() as patch:
        patch.setattr(PageWriter, "_pwrite", dying)
        with pytest.raises(Killed):
            daemon.tick(at(4.0))
    kill(daemon)
    second = start_daemon(tmp_path, monkeypatch, now=8.0)
    cats.sample(8.0)
    second.tick(at(8.0))
    changes = second.journal.changes("cats-1")
    assert [(change.revision, change.state) for change in changes] == [(1, "lost"), (2, "delivered")]
    assert cats.asked().number == 2
    kill(second)


def test_an_answer_given_while_no_daemon_ran_is_heard_by_the_next(tmp_path, monkeypatch, cats):
    daemon = start_daemon(tmp_path, monkeypatch)
    cats.train(0.0, 4.0)
    daemon.tick(at(4.0))
    kill(daemon)
    cats.acknowledge(5.0)
    cats.train(5.5, 8.0)
    second = start_daemon(tmp_path, monkeypatch, now=8.0)
    second.tick(at(8.0))
    change = second.journal.changes("cats-1")[0]
    assert (change.state, change.acknowledged_unix) == ("acknowledged", UNIX + 5.0)
    assert second.journal.runs()[0].last_values["micro_batch"] == 16.0
    kill(second)


def test_changes_that_an_earlier_daemon_made_are_not_taken_for_the_scripts_own(tmp_path, monkeypatch, cats):
    daemon = start_daemon(tmp_path, monkeypatch, policy=Wishes("pace", -1))
    for began in (0.0, 10.0):
        cats.train(began, began + 8.0)
        daemon.tick(at(began + 8.0))
        cats.acknowledge(began + 9.0)
        cats.sample(began + 9.5)
        daemon.tick(at(began + 9.5))
    moved = cats.positions
    kill(daemon)
    second = start_daemon(tmp_path, monkeypatch, now=21.0)
    monkeypatch.setattr(ControlLoop, "due", lambda self, now: False)
    second.tick(at(21.0))
    assert second.journal.changes("cats-1")[-1].revision == 2
    assert second.live["cats-1"].loop.positions == moved
    assert second.journal.pins() == []
    kill(second)


def test_a_refusal_given_while_no_daemon_ran_stays_a_refusal(tmp_path, monkeypatch, cats):
    daemon = start_daemon(tmp_path, monkeypatch)
    cats.train(0.0, 4.0)
    daemon.tick(at(4.0))
    kill(daemon)
    cats.refuse(5.0)
    second = start_daemon(tmp_path, monkeypatch, now=8.0)
    second.tick(at(8.0))
    assert second.journal.changes("cats-1")[0].state == "refused"
    kill(second)


def restart_after_the_ring_has_wrapped(tmp_path, monkeypatch, keep_journal):
    cats = FakeRun(tmp_path, capacity=16)
    daemon = start_daemon(tmp_path, monkeypatch)
    cats.train(0.0, 4.0)
    daemon.tick(at(4.0))
    cats.acknowledge(4.2)
    cats.sample(4.3)
    cats.evaluate(4.3, 0.75)
    monkeypatch.setattr(ControlLoop, "due", lambda self, now: False)
    daemon.tick(at(4.5))
    kill(daemon)
    if not keep_journal:
        daemon.journal.path.unlink()
    cats.train(5.0, 20.0)
    second = start_daemon(tmp_path, monkeypatch, now=20.0)
    second.tick(at(20.0))
    return second


@pytest.mark.parametrize("keep_journal", [True, False], ids=["journal", "page alone"])
def test_knobs_in_force_are_known_after_the_ring_has_forgotten_them(tmp_path, monkeypatch, keep_journal):
    second = restart_after_the_ring_has_wrapped(tmp_path, monkeypatch, keep_journal)
    loop = second.live["cats-1"].loop
    assert loop.positions == loop.asked == (1, 2)
    assert not loop.pending
    kill(second)


def test_an_answer_that_the_ring_has_forgotten_too_is_read_from_samples_and_page(tmp_path, monkeypatch):
    cats = FakeRun(tmp_path, capacity=16)
    daemon = start_daemon(tmp_path, monkeypatch)
    cats.train(0.0, 4.0)
    daemon.tick(at(4.0))
    kill(daemon)
    cats.acknowledge(4.2)
    cats.train(5.0, 20.0)
    second = start_daemon(tmp_path, monkeypatch, now=20.0)
    monkeypatch.setattr(ControlLoop, "due", lambda self, now: False)
    second.tick(at(20.0))
    assert second.live["cats-1"].loop.positions == (1, 2)
    assert not second.live["cats-1"].loop.pending
    assert second.journal.changes("cats-1")[0].state == "acknowledged"
    kill(second)


def test_what_the_ring_has_forgotten_comes_from_the_journal(tmp_path, monkeypatch):
    second = restart_after_the_ring_has_wrapped(tmp_path, monkeypatch, keep_journal=True)
    loop = second.live["cats-1"].loop
    assert loop.summary(20.0).held_out_loss == 0.75
    assert loop.summary(20.0).budget_used == pytest.approx(16 / 600)
    kill(second)


def test_pins_and_releases_outlive_the_daemon(tmp_path, monkeypatch, cats):
    daemon = start_daemon(tmp_path, monkeypatch)
    daemon.tick(at(0.5))
    cats.set((3, 2), 0.6)
    daemon.tick(at(1.0))
    daemon.journal.release("cats-1", "micro_batch")
    daemon.journal.pin(PinRecord("cats-1", "pace", None, "you", UNIX))
    daemon.journal.commit()
    kill(daemon)
    second = start_daemon(tmp_path, monkeypatch, now=8.0)
    second.tick(at(8.0))
    assert second.live["cats-1"].loop.pinned == {"pace": "you"}
    kill(second)


def test_a_past_is_replayed_in_decision_intervals(tmp_path, monkeypatch, cats):
    cats.train(0.0, 20.0)
    daemon = start_daemon(tmp_path, monkeypatch, now=20.0)
    monkeypatch.setattr(ControlLoop, "due", lambda self, now: False)
    daemon.tick(at(20.0))
    intervals = daemon.live["cats-1"].loop.window.intervals
    assert len(intervals) == 10
    assert {interval.steps for interval in intervals} == {4}
    kill(daemon)


def test_a_corrupt_journal_is_moved_aside_and_live_runs_go_on(tmp_path, monkeypatch, cats):
    daemon = start_daemon(tmp_path, monkeypatch)
    daemon.tick(at(0.5))
    daemon.stop(at(1.0))
    daemon.journal.path.write_bytes(b"rubbish that once was a journal" * 500)
    cats.train(1.0, 8.0)
    second = start_daemon(tmp_path, monkeypatch, now=8.0)
    second.tick(at(8.0))
    assert (tmp_path / "journal.corrupt-1").exists()
    assert second.journal.runs()[0].run_id == "cats-1"
    assert cats.asked() is not None
    kill(second)


def test_a_journal_that_breaks_while_it_is_open_is_replaced(tmp_path, monkeypatch, cats):
    daemon = start_daemon(tmp_path, monkeypatch)
    daemon.tick(at(0.5))
    daemon.journal._connection.close()  # every use is an error from now on
    cats.train(1.0, 4.0)
    daemon.tick(at(4.0))
    assert daemon.frozen
    cats.train(4.5, 6.0)
    daemon.tick(at(6.0))
    assert not daemon.frozen
    assert cats.asked() is not None
    assert json.loads(daemon.journal.decisions("cats-1")[-1].positions_json) == [1, 2]
    kill(daemon)


def test_a_journal_that_is_damaged_under_the_daemon_is_moved_aside_and_the_live_runs_are_written_again(
    tmp_path, monkeypatch, cats
):
    daemon = start_daemon(tmp_path, monkeypatch, policy=Wishes("pace", 1))
    daemon.tick(at(0.5))
    cats.set((3, 2), 0.6)
    daemon.tick(at(1.0))
    daemon.journal._connection.close()
    daemon.journal.path.write_bytes(b"rubbish" * 1000)
    for now in (2.0, 3.0):
        cats.train(now - 0.5, now)
        daemon.tick(at(now))
    assert (tmp_path / "journal.corrupt-1").exists()
    assert not daemon.frozen
    assert [run.run_id for run in daemon.journal.runs(live=True)] == ["cats-1"]
    assert [(pin.knob, pin.origin) for pin in daemon.journal.pins("cats-1")] == [("micro_batch", "script")]
    assert daemon.live["cats-1"].loop.pinned == {"micro_batch": "script"}
    kill(daemon)


def test_lost_records_are_counted_once_over_restarts(tmp_path, monkeypatch):
    cats = FakeRun(tmp_path, capacity=16)
    daemon = start_daemon(tmp_path, monkeypatch, policy=Wishes("pace", 1))
    cats.train(0.0, 1.0)
    daemon.tick(at(1.0))
    cats.train(1.5, 20.0)
    daemon.tick(at(20.0))
    lost = daemon.snapshot.runs[0].lost_records
    assert lost > 0
    daemon.stop(at(20.5))
    second = start_daemon(tmp_path, monkeypatch, now=21.0)
    monkeypatch.setattr(ControlLoop, "due", lambda self, now: False)
    second.tick(at(21.0))
    assert second.snapshot.runs[0].lost_records == lost
    kill(second)


def test_another_declaration_of_the_same_run_does_not_confuse_the_memory_of_knobs(tmp_path, monkeypatch, cats):
    daemon = start_daemon(tmp_path, monkeypatch)
    cats.train(0.0, 4.0)
    daemon.tick(at(4.0))
    kill(daemon)
    knobs = (replace(cats.declaration.knobs[0], values=(4.0, 12.0), start=0), cats.declaration.knobs[1])
    cats.declare(replace(cats.declaration, knobs=knobs))
    second = start_daemon(tmp_path, monkeypatch, now=8.0)
    second.tick(at(8.0))
    assert second.live["cats-1"].loop.positions == (0, 2)
    kill(second)


def test_an_out_of_memory_of_long_ago_is_not_answered_after_a_restart(tmp_path, monkeypatch):
    cats = FakeRun(tmp_path)
    cats.sample(1.0, flags=FLAG_OUT_OF_MEMORY)
    cats.train(2.0, 40.0)
    daemon = start_daemon(tmp_path, monkeypatch, 40.0, policy=Hold())
    daemon.tick(at(40.0))
    assert daemon.journal.changes("cats-1") == []
    kill(daemon)
