"""Runs from discovery to effect, tick by tick."""

import json
import math
import os
import shutil
import time
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from autotuner.cli import main
from autotuner.daemon.discovery import Discovery
from autotuner.errors import JournalError
from autotuner.journal import Journal, PinRecord, model_key
from autotuner.knobs import declare
from autotuner.messages import Acknowledgement
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


def test_a_directory_that_stays_half_made_costs_one_look_a_scan(tmp_path, monkeypatch):
    """A run that died while it attached lies there for ever: thousands of others are not listed for it at each tick."""
    for name in ("half-made", *(f"ended-{i}" for i in range(3))):
        (tmp_path / name).mkdir()
    long_ago = time.time() - 3600.0
    os.utime(tmp_path, (long_ago, long_ago))
    discovery = Discovery(tmp_path, {f"ended-{i}" for i in range(3)})
    assert list(discovery.scan(time.time())) == []
    monkeypatch.setattr(os, "scandir", lambda path: pytest.fail(f"{path} is listed again"))
    assert list(discovery.scan(time.time())) == []
    (tmp_path / "half-made" / "run.json").write_text("{")
    (found,) = discovery.scan(time.time())
    assert "half-made/run.json" in found.problem
    assert list(discovery.scan(time.time())) == []


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
    daemon.roster.policy = Wishes("pace", -1)
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
    daemon.roster.policy = Wishes("pace", 1)
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
    daemon.roster.policy = Wishes("pace", 1)
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


def test_an_overtaken_change_is_lost_once_the_newer_one_is_answered(tmp_path, monkeypatch, capsys):
    daemon, cats = start_daemon(tmp_path, monkeypatch, policy=Wishes("pace", -1)), FakeRun(tmp_path)
    cats.train(0.0, 2.0)
    daemon.tick(at(2.0))
    daemon._machine = FakeMachine(memory_pressure=2, memory_available_bytes=0)
    daemon.tick(at(4.0))
    assert [(c.revision, c.knob) for c in daemon.journal.changes("cats-1")] == [(1, "pace"), (2, "micro_batch"), (2, "pace")]
    cats.acknowledge(4.5)
    cats.sample(4.6)
    daemon.tick(at(5.0))
    assert [c.state for c in daemon.journal.changes("cats-1")] == ["lost", "acknowledged", "acknowledged"]
    assert main(["explain", "cats-1", "--state-dir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "pace 1 to 0.75  [lost]" in shown
    assert "never reached the script" in shown
    kill(daemon)


def test_the_late_refusal_of_an_overtaken_change_leaves_the_newer_one_waiting(tmp_path, monkeypatch):
    daemon, cats = start_daemon(tmp_path, monkeypatch, policy=Wishes("pace", -1)), FakeRun(tmp_path)
    cats.train(0.0, 2.0)
    daemon.tick(at(2.0))
    daemon._machine = FakeMachine(memory_pressure=2, memory_available_bytes=0)
    daemon.tick(at(4.0))
    cats.ring.acknowledgement(Acknowledgement(1, cats.step, 4.1, True, 2, cats.positions))
    cats.sample(4.2)
    daemon.tick(at(4.5))
    loop = daemon.live["cats-1"].loop
    assert (loop.pending, loop.guard.quarantine) == (True, set())
    assert [c.state for c in daemon.journal.changes("cats-1")] == ["refused", "delivered", "delivered"]
    kill(daemon)


def test_an_answer_that_the_ring_has_lost_is_read_from_the_samples(tmp_path, monkeypatch):
    daemon, cats = start_daemon(tmp_path, monkeypatch, policy=Wishes("pace", -1)), FakeRun(tmp_path, capacity=16)
    cats.train(0.0, 2.0)
    daemon.tick(at(2.0))
    cats.acknowledge(2.5)
    cats.train(2.6, 4.0, every=0.05)  # overwrites it before the daemon looks
    daemon.tick(at(4.0))
    loop = daemon.live["cats-1"].loop
    assert daemon.live["cats-1"].files.lost
    assert daemon.journal.changes("cats-1")[0].state == "acknowledged"
    assert loop.positions == cats.positions
    kill(daemon)


def test_a_refusal_that_the_ring_has_lost_does_not_stop_the_guidance(tmp_path, monkeypatch):
    daemon, cats = start_daemon(tmp_path, monkeypatch, policy=Wishes("pace", -1)), FakeRun(tmp_path, capacity=16)
    cats.train(0.0, 2.0)
    daemon.tick(at(2.0))
    cats.refuse(2.5)
    cats.revision = 0
    cats.train(2.6, 4.0, every=0.05)
    daemon.tick(at(4.0))
    assert cats.asked().number == 2
    kill(daemon)
