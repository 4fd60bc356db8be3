"""How runs end, and what goes wrong with them: each fault costs as little as it can."""

import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from autotuner.controller.hold import Hold
from autotuner.daemon.moment import Moment
from autotuner.errors import JournalError
from autotuner.journal import Reader, model_key
from autotuner.knobs import declare
from autotuner.messages import FLAG_OUT_OF_MEMORY, Evaluation
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
    daemon.roster.ended = lambda: ended.append("now")
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


def test_a_declaration_that_is_wrong_in_any_way_costs_that_run_alone(tmp_path, daemon, cats):
    for number, text in enumerate(('{"version": 1, "budget_seconds": "long"}', "[" * 500_000)):
        wrong = tmp_path / "runs" / f"wrong-{number}"
        wrong.mkdir()
        (wrong / "run.json").write_text(text)
    dogs = FakeRun(tmp_path, "dogs-1")
    document = dogs.declaration.to_json().replace('"budget_seconds": 600.0', '"budget_seconds": "long"')
    (dogs.directory / "run.json").write_text(document)
    with capture_logs() as logs:
        daemon.tick(at(1.0))
        daemon.tick(at(2.0))
    assert list(daemon.live) == ["cats-1"]
    assert sorted(log["directory"] for log in logs if log["event"] == "run_ignored") == ["dogs-1", "wrong-0", "wrong-1"]


def test_numbers_that_no_journal_can_hold_cost_neither_the_daemon_nor_the_other_rows(daemon, cats):
    cats.train(0.0, 1.0)
    cats.sample(1.5, memory=2**64 - 1)
    cats.ring.evaluation(Evaluation(3, float("nan"), 0.5))
    daemon.tick(at(1.5))
    cats.sample(2.5)
    daemon.tick(at(2.5))
    assert not daemon.frozen
    assert [row.step for row in daemon.journal.telemetry("cats-1")] == [4, 5]
    assert daemon.journal.telemetry("cats-1")[0].active_bytes == 2**63 - 1
    assert (daemon.journal.evaluations("cats-1"), daemon.live["cats-1"].files.lost) == ([], 1)


def test_a_name_that_is_no_unicode_text_does_not_end_the_daemon(tmp_path, daemon, cats):
    dogs = FakeRun(tmp_path, "dogs-1")
    dogs.declare(replace(dogs.declaration, name="d\udcffgs"))
    daemon.tick(at(1.0))
    assert sorted(run.name for run in daemon.journal.runs()) == ["cats", "d?gs"]


def test_a_clock_that_jumps_ends_no_run_and_the_guard_goes_on(tmp_path, monkeypatch):
    """Only Unix time jumps, as it does when a clock is set; 400 days are past every retention and every pause."""
    cats = FakeRun(tmp_path, knobs=(declare("micro_batch", 64, [2, 4, 8, 16, 32, 64]),))
    daemon = start_daemon(tmp_path, monkeypatch, policy=Hold())
    acknowledged = []
    for number, days in enumerate((0.0, 400.0, -400.0)):
        start, jump = 60.0 * number, days * 86_400.0
        for now in (start + 2.0 * tick for tick in range(30)):
            pressed = now - start == 20.0
            daemon._machine = FakeMachine(memory_pressure=2) if pressed else FakeMachine()
            cats.train(now - 2.0, now, every=1.0, memory=GIB // 8 * 2 ** cats.positions[0])
            if cats.asked():
                cats.acknowledge(now)
            daemon.tick(Moment(now, UNIX + now + jump))
            assert [run.state for run in daemon.snapshot.runs] == ["live"]
            assert daemon.snapshot.problems == ()
        assert daemon.snapshot.unix_time == UNIX + now + jump
        (reached,) = (run.files.page.revision for run in daemon.live.values())
        acknowledged.append(cats.revision)
        assert reached == cats.revision
    assert acknowledged == [1, 2, 3], "the guard acts once before the jumps and once after each"
    assert set(states(daemon)) <= {"acknowledged", "observed"}
    assert daemon.journal.runs()[0].live
    kill(daemon)
