"""Runs from discovery to end, tick by tick."""

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from autotuner.errors import JournalError
from autotuner.journal import Journal, PinRecord, Reader, model_key
from autotuner.knobs import declare
from autotuner.messages import FLAG_OUT_OF_MEMORY
from tests.suites.fake_run import GIB, FakeMachine, FakeRun
from tests.suites.hand_driven_daemon import UNIX, Wishes, at, kill, start_daemon


@pytest.fixture
def daemon(tmp_path, monkeypatch):
    started = start_daemon(tmp_path, monkeypatch)
    yield started
    kill(started)


@pytest.fixture
def cats(tmp_path):
    return FakeRun(tmp_path)


def states(daemon, run_id="cats-1"):
    return [change.state for change in daemon.journal.changes(run_id)]


def begin(daemon, run, until=4.0):
    """Samples and ticks until the first decision has been delivered."""
    run.train(0.0, until)
    daemon.tick(at(until))
    assert run.asked() is not None


def test_a_new_run_is_seen_and_journaled(daemon, cats):
    cats.train(0.0, 1.0)
    daemon.tick(at(1.0))
    (run,) = daemon.journal.runs()
    assert (run.run_id, run.name, run.live, run.mode, run.policy) == ("cats-1", "cats", True, "act", "wishes")
    assert run.discovered_unix == UNIX + 1.0
    assert [run.run_id for run in daemon.snapshot.runs] == ["cats-1"]
    assert daemon.snapshot.runs[0].step == 3


def test_a_half_made_run_is_taken_up_when_its_declaration_appears(daemon, cats):
    declaration = (cats.directory / "run.json").read_text()
    (cats.directory / "run.json").unlink()
    daemon.tick(at(1.0))
    assert not daemon.live
    (cats.directory / "run.json").write_text(declaration)
    daemon.tick(at(2.0))
    assert list(daemon.live) == ["cats-1"]


@pytest.mark.parametrize("text", ["{", '{"version": 99}', "[]", '{"version": 1, "run_id": "../x"}'])
def test_a_damaged_declaration_is_told_once_and_left_alone(daemon, cats, text):
    (cats.directory / "run.json").write_text(text)
    with capture_logs() as logs:
        for now in (1.0, 2.0, 3.0):
            (daemon.config.state_directory / "runs" / f"other{now}").mkdir()
            daemon.tick(at(now))
    assert [log["directory"] for log in logs if log["event"] == "run_ignored"] == ["cats-1"]
    assert not daemon.live
    assert (cats.directory / "run.json").read_text() == text


def test_a_directory_that_holds_another_run_is_ignored(daemon, cats):
    shutil.copytree(cats.directory, cats.directory.with_name("copy-of-cats"))
    daemon.tick(at(1.0))
    assert list(daemon.live) == ["cats-1"]


def test_a_change_is_journaled_before_and_after_it_reaches_the_page(daemon, cats):
    begin(daemon, cats)
    assert cats.asked().positions == (1, 2)
    (change,) = daemon.journal.changes("cats-1")
    assert (change.state, change.revision, change.what) == ("delivered", 1, "micro_batch 32 to 16")
    assert (change.intended_unix, change.delivered_unix) == (UNIX + 4.0, UNIX + 4.0)
    assert "the test wants it" in change.why
    cats.acknowledge(4.5)
    daemon.tick(at(5.0))
    (change,) = daemon.journal.changes("cats-1")
    assert (change.state, change.acknowledged_unix) == ("acknowledged", UNIX + 4.5)
    assert daemon.snapshot.runs[0].changes == {("micro_batch", "down", "policy"): 1}


def test_the_effect_of_a_change_is_observed(daemon, cats):
    begin(daemon, cats)
    cats.acknowledge(4.1)
    for now in (6.0, 8.0, 10.0):
        cats.train(now - 1.5, now, memory=GIB // 2)
        daemon.tick(at(now))
    change = daemon.journal.changes("cats-1")[0]
    assert change.state == "observed"
    assert (change.peak_bytes_before, change.peak_bytes_after) == (GIB, GIB // 2)


def test_nothing_is_decided_while_a_change_is_not_acknowledged(daemon, cats):
    begin(daemon, cats)
    cats.train(4.5, 20.0)
    for now in range(6, 20, 2):
        daemon.tick(at(float(now)))
    assert states(daemon) == ["delivered"]
    assert cats.asked().number == 1


def test_a_refusal_is_journaled_with_its_reason(daemon, cats):
    begin(daemon, cats)
    cats.refuse(4.5, detail=3)
    daemon.tick(at(5.0))
    (change,) = daemon.journal.changes("cats-1")
    assert (change.state, change.refusal) == ("refused", "joint limit on pixels")


def test_a_knob_that_the_script_moved_is_pinned_for_the_run(daemon, cats):
    daemon.tick(at(1.0))
    cats.set((3, 2), 1.2)
    cats.train(1.5, 12.0)
    for now in (4.0, 8.0, 12.0):
        daemon.tick(at(now))
    assert [(pin.knob, pin.origin) for pin in daemon.journal.pins("cats-1")] == [("micro_batch", "script")]
    assert cats.asked() is None
    assert [knob.pinned for knob in daemon.snapshot.runs[0].knobs] == [True, False]


def test_a_pin_from_outside_is_followed_within_a_tick(daemon, cats):
    cats.train(0.0, 1.0)
    daemon._policy = Wishes("pace", -1)
    daemon.tick(at(0.5))
    cats.acknowledge(0.6)
    with Journal(daemon.journal.path) as outside:
        outside.pin(PinRecord("cats-1", "micro_batch", 8.0, "you", UNIX))
    daemon.tick(at(1.0))
    assert cats.asked().positions == (0, 1)
    change = daemon.journal.changes("cats-1")[-1]
    assert (change.knob, change.reason, change.policy) == ("micro_batch", "pinned", "you")
    cats.acknowledge(1.1)
    with Journal(daemon.journal.path) as outside:
        outside.release("cats-1", "micro_batch")
    daemon.tick(at(1.5))
    assert not daemon.live["cats-1"].loop.pinned


def pinned_to(daemon, value, now):
    with Journal(daemon.journal.path) as outside:
        outside.pin(PinRecord("cats-1", "micro_batch", value, "you", UNIX + now))


def test_a_pinned_value_that_the_script_refuses_is_asked_for_once(daemon, cats):
    daemon._policy = Wishes("pace", 1)
    daemon.tick(at(0.5))
    pinned_to(daemon, 64.0, 0.5)
    cats.train(0.0, 1.0)
    daemon.tick(at(1.0))
    cats.refuse(1.1)
    for now in (2.0, 3.0, 4.0):
        daemon.tick(at(now))
    assert states(daemon) == ["refused"]
    pinned_to(daemon, 16.0, 4.0)
    daemon.tick(at(5.0))
    assert states(daemon) == ["refused", "delivered"]


def test_a_pinned_value_that_the_guard_refuses_is_told_once(tmp_path, monkeypatch):
    knobs = (declare("micro_batch", 32, [8, 16, 32, 64]), declare("resolution", 64, [32, 64]))
    cats = FakeRun(tmp_path, knobs=knobs)
    cats.declare(replace(cats.declaration, max_pixels=32 * 64 * 64))
    daemon = start_daemon(tmp_path, monkeypatch, policy=Wishes("pace", 1))
    daemon.tick(at(0.5))
    pinned_to(daemon, 64.0, 0.5)
    cats.train(0.0, 1.0)
    with capture_logs() as logs:
        for now in (1.0, 2.0, 3.0):
            daemon.tick(at(now))
    assert [log["why"] for log in logs if log["event"] == "pin_not_possible"] == [
        "refused: micro_batch x resolution^2 would exceed the script's own limit"
    ]
    assert states(daemon) == []
    kill(daemon)


def test_a_pin_waits_for_a_journal_that_can_be_written(daemon, cats, monkeypatch):
    daemon._policy = Wishes("pace", 1)
    daemon.tick(at(0.5))
    pinned_to(daemon, 8.0, 0.5)

    def full(changes):
        raise JournalError("full")

    with monkeypatch.context() as patch:
        patch.setattr(daemon.journal, "intend", full)
        daemon.tick(at(1.0))
    assert cats.asked() is None
    daemon.tick(at(2.0))
    assert cats.asked().positions == (0, 2)


def test_mode_observe_decides_and_delivers_nothing(tmp_path, monkeypatch, cats):
    daemon = start_daemon(tmp_path, monkeypatch, mode="observe")
    cats.train(0.0, 8.0)
    for now in (4.0, 6.0, 8.0):
        daemon.tick(at(now))
    assert cats.page.revision().number == 0
    assert cats.page.heartbeat().mode == "observe"
    assert states(daemon) == []
    wishes = daemon.journal.decisions("cats-1", changed_only=True)
    assert [(wish.mode, wish.what) for wish in wishes] == [("observe", "micro_batch 32 to 16")] * len(wishes)
    assert wishes
    assert not daemon.live["cats-1"].loop.pending
    kill(daemon)


def test_mode_advise_keeps_one_piece_of_advice_with_a_stable_name(tmp_path, monkeypatch, cats):
    daemon = start_daemon(tmp_path, monkeypatch, mode="advise")
    cats.train(0.0, 8.0)
    seen = []
    for now in (4.0, 6.0, 8.0):
        daemon.tick(at(now))
        seen.append(daemon.journal.advice("cats-1"))
    assert [[advice.what for advice in each] for each in seen] == [["micro_batch 32 to 16"]] * 3
    assert len({each[0].advice_id for each in seen}) == 1
    assert (seen[-1][0].first_unix, seen[-1][0].last_unix) == (UNIX + 4.0, UNIX + 8.0)
    assert cats.page.revision().number == 0
    kill(daemon)


def test_every_live_page_gets_a_heartbeat_at_every_tick(daemon, cats):
    daemon.tick(at(1.0))
    daemon.tick(at(2.0))
    heartbeat = cats.page.heartbeat()
    assert (heartbeat.time, heartbeat.mode) == (2.0, "act")


@pytest.mark.parametrize(("outcome", "word"), [(0, "finished"), (1, "interrupted"), (2, "failed"), (77, "failed")])
def test_a_goodbye_ends_the_run_with_its_own_word(daemon, cats, outcome, word):
    cats.train(0.0, 4.0, loss=0.25)
    cats.evaluate(4.0, 0.125)
    cats.goodbye(4.2, outcome)
    daemon.tick(at(5.0))
    (run,) = daemon.journal.runs()
    assert (run.outcome, run.ended_unix, run.step) == (word, UNIX + 4.2, 9)
    assert (run.final_held_out_loss, run.best_held_out_loss, run.loss, run.peak_bytes) == (0.125, 0.125, 0.25, GIB)
    assert run.last_values == {"micro_batch": 32.0, "pace": 1.0}
    assert [run.state for run in daemon.snapshot.runs] == ["ended"]
    daemon.tick(at(1000.0))
    assert daemon.snapshot.runs == ()


def test_the_end_of_a_run_is_told_to_whoever_waits_for_it(daemon, cats):
    ended = []
    daemon._ended = lambda: ended.append("now")
    daemon.tick(at(1.0))
    cats.goodbye(2.0)
    daemon.tick(at(2.0))
    daemon.tick(at(3.0))
    assert ended == ["now"]


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    return process.pid


def kill_cats(tmp_path, daemon, run):
    run.declare(replace(run.declaration, pid=dead_process()))
    daemon.live["cats-1"].declaration = run.declaration


def test_a_run_killed_without_pressure_is_told_and_not_quarantined(tmp_path, daemon, cats):
    cats.train(0.0, 4.0)
    daemon.tick(at(4.0))
    kill_cats(tmp_path, daemon, cats)
    daemon.tick(at(5.0))
    (run,) = daemon.journal.runs()
    assert run.outcome == "killed"
    assert daemon.journal.quarantine() == []


def test_a_reused_pid_is_another_process(daemon, cats):
    daemon.tick(at(1.0))
    run = daemon.live["cats-1"]
    run.declaration = replace(run.declaration, pid_start=run.declaration.pid_start + 1)
    daemon.tick(at(2.0))
    assert daemon.journal.runs()[0].outcome == "killed"


def test_a_run_killed_with_memory_almost_full_quarantines_its_values(tmp_path, monkeypatch, cats):
    daemon = start_daemon(
        tmp_path, monkeypatch, policy=Wishes("pace", -1), machine=FakeMachine(memory_available_bytes=GIB // 8)
    )
    cats.train(0.0, 1.0)
    daemon.tick(at(1.0))
    kill_cats(tmp_path, daemon, cats)
    daemon._machine = FakeMachine()  # its memory is free again: only the time before counts
    daemon.tick(at(2.0))
    (record,) = daemon.journal.quarantine(model_key(cats.declaration))
    assert record.values == {"micro_batch": 32.0, "pace": 1.0}
    assert "89 %" in record.why
    again = FakeRun(tmp_path, "cats-2")
    daemon.tick(at(3.0))
    assert daemon.live["cats-2"].loop.guard.quarantine == {again.declaration.start}
    kill(daemon)


def test_an_out_of_memory_report_before_the_end_is_enough_to_quarantine(tmp_path, monkeypatch, cats):
    daemon = start_daemon(tmp_path, monkeypatch, policy=Wishes("pace", -1))
    cats.sample(1.0, flags=FLAG_OUT_OF_MEMORY)
    daemon.tick(at(1.0))
    cats.goodbye(2.0, outcome=2)
    daemon.tick(at(2.0))
    (record,) = daemon.journal.quarantine()
    assert "out of memory" in record.why
    kill(daemon)


def test_a_run_directory_deleted_under_it_ends_the_run_and_not_the_daemon(daemon, cats):
    daemon.tick(at(1.0))
    shutil.rmtree(cats.directory)
    daemon.tick(at(2.0))
    assert daemon.journal.runs()[0].outcome == "vanished"


def test_a_run_directory_deleted_while_no_daemon_ran_is_an_ended_run(tmp_path, monkeypatch, cats):
    first = start_daemon(tmp_path, monkeypatch)
    first.tick(at(1.0))
    first.stop(at(1.5))
    shutil.rmtree(cats.directory)
    second = start_daemon(tmp_path, monkeypatch, now=10.0)
    assert second.journal.runs()[0].outcome == "vanished"
    kill(second)


@pytest.mark.parametrize("damage", [b"", b"rubbish" * 100, None], ids=["empty", "rubbish", "cut short"])
def test_an_unreadable_ring_is_told_once_and_costs_only_its_own_run(tmp_path, daemon, cats, damage):
    dogs = FakeRun(tmp_path, "dogs-1")
    ring = cats.directory / "telemetry.ring"
    ring.write_bytes(ring.read_bytes()[:1000] if damage is None else damage)
    with capture_logs() as logs:
        for now in (4.0, 6.0):
            dogs.train(now - 2, now)
            daemon.tick(at(now))
    assert [log["run"] for log in logs if log["event"] == "run_files"] == ["cats-1"]
    assert dogs.asked() is not None
    assert set(daemon.live) == {"cats-1", "dogs-1"}


def test_a_damaged_page_is_never_written_to(daemon, cats):
    page = cats.directory / "knobs.page"
    page.write_bytes(b"x" * 4096)
    cats.train(0.0, 4.0)
    daemon.tick(at(4.0))
    assert page.read_bytes() == b"x" * 4096
    assert daemon.live["cats-1"].files.problem
    assert states(daemon) == []


def test_a_defect_in_one_run_leaves_the_others_guided(tmp_path, daemon, cats, monkeypatch):
    dogs = FakeRun(tmp_path, "dogs-1")
    daemon.tick(at(0.5))
    monkeypatch.setattr(daemon.live["cats-1"], "listen", lambda moment: 1 / 0)
    dogs.train(0.0, 4.0)
    with capture_logs() as logs:
        daemon.tick(at(4.0))
    assert [log["run"] for log in logs if log["event"] == "run_given_up"] == ["cats-1"]
    assert dogs.asked() is not None
    assert list(daemon.live) == ["dogs-1"]


def test_a_run_that_cannot_be_taken_up_costs_only_itself(tmp_path, daemon, cats, monkeypatch):
    dogs = FakeRun(tmp_path, "dogs-1")

    def broken(run, *arguments):
        if run.run_id == "cats-1":
            raise ZeroDivisionError

    monkeypatch.setattr("autotuner.daemon.adoption._replay", broken)
    with capture_logs() as logs:
        daemon.tick(at(1.0))
        daemon.tick(at(2.0))
    assert [log["run"] for log in logs if log["event"] == "run_given_up"] == ["cats-1"]
    assert list(daemon.live) == [dogs.declaration.run_id]


def test_a_run_made_in_the_same_moment_as_the_last_look_is_not_missed(tmp_path, daemon, cats):
    runs = tmp_path / "runs"
    now = runs.stat().st_mtime - UNIX
    daemon.tick(at(now))
    before = runs.stat()
    dogs = FakeRun(tmp_path, "dogs-1")
    os.utime(runs, ns=(before.st_atime_ns, before.st_mtime_ns))
    daemon.tick(at(now + 1.0))
    assert dogs.declaration.run_id in daemon.live


def test_nothing_is_listed_while_the_directory_of_runs_stays_as_it_is(tmp_path, daemon, cats, monkeypatch):
    now = (tmp_path / "runs").stat().st_mtime - UNIX + 10.0
    daemon.tick(at(now))

    def listed(path):
        raise AssertionError("listed again")

    monkeypatch.setattr("autotuner.daemon.discovery.os.scandir", listed)
    daemon.tick(at(now + 1.0))
    assert list(daemon.live) == ["cats-1"]


def test_a_rewritten_declaration_is_taken_over_with_its_model_and_trial(daemon, cats):
    daemon.tick(at(1.0))
    cats.declare(replace(cats.declaration, model={"width": 96, "_trial": 3}))
    daemon.tick(at(2.0))
    run = daemon.journal.runs()[0]
    assert (run.trial, run.declaration.model["width"]) == (3, 96)
    assert run.model == model_key(cats.declaration)


def test_unknown_numbers_stay_unknown_in_the_journal(daemon, cats):
    cats.sample(1.0, loss=math.nan)
    cats.evaluate(1.0, 0.5)
    daemon.tick(at(1.0))
    assert daemon.journal.telemetry("cats-1")[0].loss is None
    assert daemon.journal.evaluations("cats-1")[0].quality is None
    assert daemon.journal.evaluations("cats-1")[0].held_out_loss == 0.5


def test_telemetry_has_one_row_a_tick_with_news(daemon, cats):
    for now in (1.0, 2.0, 3.0):
        if now != 2.0:
            cats.train(now - 0.5, now)
        daemon.tick(at(now))
    rows = daemon.journal.telemetry("cats-1")
    assert [row.time_unix - UNIX for row in rows] == [1.0, 3.0]
    assert rows[0].values == (32.0, 1.0)
    assert len(daemon.journal.machine()) == 3


def test_a_machine_without_live_runs_leaves_no_rows(daemon):
    for now in (1.0, 2.0):
        daemon.tick(at(now))
    assert daemon.journal.machine() == []


def test_a_decision_can_be_replayed_from_the_journal(daemon, cats):
    begin(daemon, cats)
    (decision,) = daemon.journal.decisions("cats-1")
    assert len(decision.mask) == 17
    assert decision.mask[0] == "1"
    assert len(json.loads(decision.observation_json)) > 20
    assert json.loads(decision.positions_json) == [1, 2]


def test_a_full_disk_delivers_nothing_and_keeps_the_daemon(daemon, cats, monkeypatch):
    cats.train(0.0, 1.0)
    daemon.tick(at(0.2))

    def full(*arguments):
        raise JournalError("journal x: database or disk is full")

    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(daemon.journal, "commit", full)
        for now in (4.0, 6.0, 8.0):
            cats.train(now - 1.5, now)
            daemon.tick(at(now))
    assert cats.page.revision().number <= 1
    assert daemon.snapshot.problems == ("nothing is changed: journal x: database or disk is full",)
    assert len([log for log in logs if log["event"] == "frozen"]) == 1
    assert cats.page.heartbeat().mode == "observe"
    if cats.asked():
        cats.acknowledge(8.5)
    for now in (10.0, 12.0):
        cats.train(now - 1.5, now)
        daemon.tick(at(now))
    assert not daemon.snapshot.problems
    assert states(daemon)


def test_an_intent_that_cannot_be_written_is_never_delivered(daemon, cats, monkeypatch):
    cats.train(0.0, 4.0)

    def full(changes):
        raise JournalError("journal x: database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(daemon.journal, "intend", full)
        daemon.tick(at(4.0))
    assert cats.asked() is None
    assert states(daemon) == []
    assert not daemon.live["cats-1"].loop.pending
    cats.train(4.5, 6.0)
    daemon.tick(at(6.0))
    assert cats.asked().number == 1


def test_a_run_that_ends_between_the_last_tick_and_the_stop_is_written_down(tmp_path, monkeypatch, cats):
    daemon = start_daemon(tmp_path, monkeypatch)
    daemon.tick(at(1.0))
    cats.goodbye(1.2)
    daemon.stop(at(1.5))
    with Reader(daemon.journal.path) as journal:
        assert journal.runs()[0].outcome == "finished"
