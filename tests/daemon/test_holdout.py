"""The hold-out: who is drawn, what a held-out run is spared, what the comparison says, and what follows from it."""

import json
import math
from dataclasses import replace

import pytest

from autotuner.cli import main
from autotuner.daemon.exporter import Tick, render
from autotuner.daemon.gain import evidence
from autotuner.daemon.holdout import BLOCK_RUNS, EVIDENCE_LIMIT, FEWEST, FIRST_RUNS, Untouched, drawn
from autotuner.daemon.status_page import status_page
from autotuner.journal import EvaluationRecord, Journal, ModeRecord, RunRecord, journal_path, model_key
from autotuner.messages import Declaration
from tests.daemon.sample_snapshot import EMPTY
from tests.suites.fake_run import KNOBS, FakeMachine, FakeRun
from tests.suites.hand_driven_daemon import UNIX, at, kill, start_daemon

HELD = next(name for name in (f"cats-{i}" for i in range(1000)) if drawn(name, 0.1))
TUNED = next(name for name in (f"cats-{i}" for i in range(1000)) if not drawn(name, 0.5))


def past(state, arms, treated_seconds, held_seconds, served="wishes", budget=600.0, name="cats"):
    """A journal of ended runs: ``arms`` of each, evenly mixed, losses that fall from 1 to 0.5 in so many seconds."""
    with Journal(journal_path(state)) as journal:
        for arm, seconds in (("treated", treated_seconds), ("held_out", held_seconds)):
            for i in range(arms[arm]):
                run_id = f"{name}-{arm}-{i}"
                declaration = Declaration(run_id, name, 1, 0.0, 1000.0, KNOBS, budget_seconds=budget)
                ended = UNIX - 400.0 + (i + 0.5) / arms[arm]
                journal.write(
                    RunRecord(
                        run_id, name, "", model_key(declaration), declaration.to_json(), UNIX - 1000.0, UNIX - 1000.0, "wishes",
                        "act", ended, "finished", arm=arm, served_policy=served,
                    )
                )  # fmt: skip
                for step in range(11):
                    when = UNIX - 1000.0 + step / 10 * seconds * (1 + 0.01 * i)
                    loss = math.exp(-step / 10 * math.log(2))
                    journal.write(EvaluationRecord(run_id, when, step, loss, None, 0, None, 0, None))


def test_about_the_share_is_drawn_and_always_the_same_runs():
    ids = [f"run-{i}" for i in range(5000)]
    first = [drawn(run_id, 0.1) for run_id in ids]
    assert 0.08 < sum(first) / len(ids) < 0.12
    assert first == [drawn(run_id, 0.1) for run_id in ids]
    assert not any(drawn(run_id, 0.0) for run_id in ids)
    assert all(drawn(run_id, 0.5) for run_id, small in zip(ids, first, strict=True) if small)


@pytest.mark.parametrize(("runs_before", "arm"), [(FIRST_RUNS - 1, ""), (FIRST_RUNS, "held_out")])
def test_the_first_runs_of_a_machine_are_never_held_out(tmp_path, monkeypatch, runs_before, arm):
    past(tmp_path, {"treated": runs_before, "held_out": 0}, 100.0, 100.0)
    daemon = start_daemon(tmp_path, monkeypatch)
    FakeRun(tmp_path, HELD).train(0.0, 1.0)
    daemon.tick(at(1.0))
    assert daemon.journal.run(HELD).arm == arm
    kill(daemon)


def test_runs_that_are_only_live_count_among_the_first(tmp_path, monkeypatch):
    daemon = start_daemon(tmp_path, monkeypatch)
    for i in range(FIRST_RUNS + 1):
        FakeRun(tmp_path, f"{TUNED}-{i}").train(0.0, 1.0)
    daemon.tick(at(1.0))
    assert sum(bool(run.arm) for run in daemon.journal.runs()) == 1
    kill(daemon)


@pytest.mark.parametrize("settings", [{"holdout": 0.0}, {"mode": "advise"}, {"mode": "observe"}])
def test_nothing_is_held_out_where_nothing_would_be_compared(tmp_path, monkeypatch, settings):
    past(tmp_path, {"treated": FIRST_RUNS, "held_out": 0}, 100.0, 100.0)
    daemon = start_daemon(tmp_path, monkeypatch, **settings)
    FakeRun(tmp_path, HELD).train(0.0, 1.0)
    daemon.tick(at(1.0))
    assert daemon.journal.run(HELD).arm == ""
    kill(daemon)


def held_run(tmp_path, monkeypatch, **state):
    past(tmp_path, {"treated": FIRST_RUNS, "held_out": 0}, 100.0, 100.0)
    machine = FakeMachine(**state)
    return start_daemon(tmp_path, monkeypatch, machine=machine), FakeRun(tmp_path, HELD), machine


def test_a_held_out_run_keeps_its_values_and_says_why(tmp_path, monkeypatch, capsys):
    daemon, run, _ = held_run(tmp_path, monkeypatch)
    for now in (2.0, 4.0, 6.0, 8.0):
        run.train(now - 1.5, now)
        daemon.tick(at(now))
    assert run.asked() is None
    last = daemon.journal.decisions(HELD)[-1]
    assert (last.policy, last.reason, last.changed) == ("held_out", "held_out", 0)
    assert "its script's own values" in last.why
    (shown,) = daemon.snapshot.runs
    assert shown.held_out
    assert "held out" in status_page(Tick(daemon.snapshot, 8.0), False)
    main(["explain", HELD, "--state-dir", str(tmp_path)])
    assert "held out: left at its script's own values" in capsys.readouterr().out
    kill(daemon)


def test_the_guards_emergencies_stay_in_a_held_out_run(tmp_path, monkeypatch):
    daemon, run, machine = held_run(tmp_path, monkeypatch)
    run.train(0.0, 2.0)
    daemon.tick(at(2.0))
    machine.state = replace(machine.state, memory_pressure=2)
    run.train(2.5, 5.0)
    daemon.tick(at(5.0))
    assert run.asked().positions[0] < run.positions[0]
    assert daemon.journal.changes(HELD)[0].policy == "guard"
    kill(daemon)


def test_a_restarted_daemon_keeps_a_runs_arm(tmp_path, monkeypatch):
    daemon, run, _ = held_run(tmp_path, monkeypatch)
    run.train(0.0, 2.0)
    daemon.tick(at(2.0))
    daemon.journal.commit()
    kill(daemon)
    again = start_daemon(tmp_path, monkeypatch, now=3.0, holdout=0.0)
    again.tick(at(3.0))
    assert again.live[HELD].arm == "held_out"
    assert isinstance(again.live[HELD].loop.policy, Untouched)
    kill(again)


def page(daemon):
    return render(lambda: daemon.snapshot).decode()


def test_no_gain_is_told_before_ten_runs_on_each_side(tmp_path, monkeypatch):
    past(tmp_path, {"treated": 40, "held_out": FEWEST - 1}, 50.0, 100.0)
    daemon = start_daemon(tmp_path, monkeypatch)
    daemon.tick(at(1.0))
    assert daemon.snapshot.gain is None
    assert "autotuner_gain_ratio" not in page(daemon)
    assert f"autotuner_holdout_runs {FEWEST - 1}.0" in page(daemon)
    kill(daemon)


def test_the_gain_is_on_metrics_and_status_page(tmp_path, monkeypatch):
    past(tmp_path, {"treated": 20, "held_out": FEWEST}, 50.0, 100.0)
    daemon = start_daemon(tmp_path, monkeypatch)
    daemon.tick(at(1.0))
    gain = daemon.snapshot.gain
    assert gain.ratio == pytest.approx(0.5, abs=0.05)
    assert 0 < gain.low < gain.ratio < gain.high
    for name in ("autotuner_gain_ratio ", "autotuner_gain_ratio_low ", "autotuner_gain_ratio_high ", "autotuner_demoted 0.0"):
        assert name in page(daemon)
    assert f"20 tuned runs against {FEWEST}" in status_page(Tick(daemon.snapshot, 0.0), False)
    assert "tuned runs against" not in status_page(Tick(EMPTY, 0.0), False)
    kill(daemon)


def test_a_start_does_not_wait_for_the_comparison(tmp_path, monkeypatch):
    past(tmp_path, {"treated": 20, "held_out": FEWEST}, 50.0, 100.0)
    monkeypatch.setattr("autotuner.daemon.gain.estimate", lambda *_: pytest.fail("compared before the first tick"))
    kill(start_daemon(tmp_path, monkeypatch))


def told(daemon):
    """Evidence, and the compared blocks."""
    return daemon.snapshot.evidence, daemon.journal.comparisons()


def test_each_block_is_compared_once_whatever_is_restarted(tmp_path, monkeypatch):
    past(tmp_path, {"treated": 18, "held_out": 4}, 200.0, 100.0)
    daemon = start_daemon(tmp_path, monkeypatch)
    daemon.tick(at(1.0))
    daemon.stop(at(2.0))
    again = start_daemon(tmp_path, monkeypatch, now=3.0)
    again.tick(at(3.0))
    again.journal.commit()
    before, blocks = told(again)
    assert before == pytest.approx(evidence([1.0, 1.0]))
    assert [block.advantage for block in blocks] == [1.0, 1.0]
    used = [run_id for block in blocks for run_id in block.run_ids]
    assert len(set(used)) == len(used) == 2 * BLOCK_RUNS < 22, "the rest waits for a full block"
    assert (again.snapshot.mode, again.journal.modes()) == ("act", [])
    kill(again)


@pytest.mark.parametrize("column", ["served_policy = 'another'", "version = version - 1"])
def test_evidence_starts_anew_with_another_policy_or_score_and_no_run_counts_twice(tmp_path, monkeypatch, column):
    past(tmp_path, {"treated": 12, "held_out": 4}, 200.0, 100.0)
    daemon = start_daemon(tmp_path, monkeypatch)
    daemon.tick(at(1.0))
    daemon.stop(at(2.0))
    with Journal(journal_path(tmp_path)) as journal:
        journal._execute(f"UPDATE comparisons SET {column}")
    again = start_daemon(tmp_path, monkeypatch, now=3.0)
    again.tick(at(3.0))
    assert told(again)[0] == 1.0
    assert len(told(again)[1]) == 2
    kill(again)


def test_a_block_in_which_nobody_is_held_out_is_no_evidence_but_used(tmp_path, monkeypatch):
    past(tmp_path, {"treated": BLOCK_RUNS, "held_out": 0}, 200.0, 100.0)
    daemon = start_daemon(tmp_path, monkeypatch)
    daemon.tick(at(1.0))
    daemon.journal.commit()
    found, (block,) = told(daemon)
    assert (found, block.advantage, block.treated, block.held_out) == (1.0, None, BLOCK_RUNS, 0)
    kill(daemon)


def test_runs_of_another_policy_do_not_count(tmp_path, monkeypatch):
    past(tmp_path, {"treated": 20, "held_out": 20}, 50.0, 100.0, served="rules")
    daemon = start_daemon(tmp_path, monkeypatch)
    daemon.tick(at(1.0))
    assert daemon.snapshot.gain is None
    assert daemon.snapshot.holdout_runs == 0
    kill(daemon)


def lose(tmp_path, monkeypatch, **settings):
    """A daemon that has lost so far, and one more run that ends."""
    past(tmp_path, {"treated": 41, "held_out": 14}, 200.0, 100.0)
    daemon = start_daemon(tmp_path, monkeypatch, **settings)
    run = FakeRun(tmp_path, HELD)
    run.train(0.0, 1.0)
    daemon.tick(at(1.0))
    mode_before = daemon.snapshot.mode
    run.goodbye(1.5)
    daemon.tick(at(2.0))
    return daemon, mode_before


def test_a_daemon_that_loses_demotes_itself_and_says_why(tmp_path, monkeypatch):
    daemon, before = lose(tmp_path, monkeypatch)
    assert (before, daemon.snapshot.mode, daemon.snapshot.demoted) == ("act", "advise", True)
    daemon.tick(at(3.0))
    (record,) = daemon.journal.modes()
    assert (record.mode, record.served_policy, record.time_unix) == ("advise", "wishes", UNIX + 2.0)
    assert record.why.startswith("held-out runs are the sooner ones in 100% of pairs (time to the same held-out loss, ")
    assert "to 1 where 20 demotes" in record.why
    assert ", gain -" in record.why
    assert daemon.snapshot.evidence >= EVIDENCE_LIMIT
    shown = 'autotuner_demotion_info{policy="wishes",why="held-out runs are the sooner ones in 100% of pairs"} 1.0'
    assert shown in page(daemon)
    assert "loses by its own measurement" in status_page(Tick(daemon.snapshot, 3.0), False)
    assert any("loses by its own measurement" in problem for problem in daemon.snapshot.problems)
    assert "autotuner_demoted 1.0" in page(daemon)
    other = FakeRun(tmp_path, f"{TUNED}-later")
    other.train(3.0, 8.0)
    daemon.tick(at(6.0))
    daemon.tick(at(8.0))
    assert other.asked() is None
    assert daemon.journal.advice(other.declaration.run_id)
    kill(daemon)


def test_the_verdict_outlives_the_daemon_but_not_the_policy(tmp_path, monkeypatch):
    daemon, _ = lose(tmp_path, monkeypatch)
    daemon.stop(at(4.0))
    again = start_daemon(tmp_path, monkeypatch, now=5.0)
    assert again.snapshot.mode == "advise"
    again.tick(at(5.0))
    assert len(again.journal.modes()) == 1
    assert again.snapshot.evidence == daemon.snapshot.evidence >= EVIDENCE_LIMIT
    kill(again)
    with Journal(journal_path(tmp_path)) as journal:
        verdict = journal.modes()[0]
        journal._execute("UPDATE modes SET served_policy = 'another'")
        assert verdict.mode == "advise"
        journal._execute("UPDATE runs SET served_policy = 'another'")
    third = start_daemon(tmp_path, monkeypatch, now=6.0)
    assert third.snapshot.mode == "act"
    kill(third)


def test_without_a_holdout_an_old_verdict_is_left_alone(tmp_path, monkeypatch):
    with Journal(journal_path(tmp_path)) as journal:
        journal.write(ModeRecord(UNIX, "advise", "wishes", "it lost"))
    daemon = start_daemon(tmp_path, monkeypatch, holdout=0.0)
    assert daemon.snapshot.mode == "act"
    kill(daemon)


def test_switching_the_holdout_off_and_on_again_lets_no_run_count_twice(tmp_path, monkeypatch):
    daemon, _ = lose(tmp_path, monkeypatch)
    daemon.stop(at(4.0))
    again = start_daemon(tmp_path, monkeypatch, now=5.0, holdout=0.0)
    blocks = again.journal.comparisons()
    for now, share, mode in ((6.0, 0.1, "advise"), (7.0, 0.0, "act"), (8.0, 0.1, "advise")):
        again.reconfigure(replace(again.config, holdout=share))
        again.tick(at(now))
        assert again.snapshot.mode == mode
    assert again.journal.comparisons() == blocks
    kill(again)


def test_a_daemon_that_gains_stays_as_it_is(tmp_path, monkeypatch):
    past(tmp_path, {"treated": 20, "held_out": FEWEST}, 50.0, 100.0)
    daemon = start_daemon(tmp_path, monkeypatch)
    run = FakeRun(tmp_path, HELD)
    run.train(0.0, 1.0)
    daemon.tick(at(1.0))
    run.goodbye(1.5)
    daemon.tick(at(2.0))
    assert daemon.snapshot.mode == "act"
    assert daemon.journal.modes() == []
    kill(daemon)


def test_the_status_document_has_the_gain(tmp_path, monkeypatch, capsys):
    from autotuner.daemon.web import status_document

    past(tmp_path, {"treated": 20, "held_out": FEWEST}, 50.0, 100.0)
    daemon = start_daemon(tmp_path, monkeypatch)
    daemon.tick(at(1.0))
    document = json.loads(json.dumps(status_document(Tick(daemon.snapshot, 0.0), False)))
    monkeypatch.setattr("autotuner.cli.status.ask", lambda address: document)
    monkeypatch.setattr("autotuner.cli.status.read_address", lambda state: type("Address", (), {"url": "http://x"}))
    main(["status", "--state-dir", str(tmp_path)])
    assert "20 tuned runs, 10 held out" in capsys.readouterr().out
    kill(daemon)
