"""Finished runs as episodes: a daemon driven by hand writes the journal, the command reads it."""

import json
import math
import shutil
from dataclasses import replace

import pytest

from autotuner.cli import main
from autotuner.controller.actions import ACTION_NAMES, HOLD, action_index
from autotuner.controller.observation import FEATURES, OBSERVATION_VERSION
from autotuner.controller.rules import Rules
from autotuner.errors import ArtefactError
from autotuner.journal import Journal, Reader, journal_path
from autotuner.knobs import KNOB_NAMES
from autotuner.messages import FLAG_OUT_OF_MEMORY
from autotuner.replay.episode import NOT_IN_TABLE, read_episode
from autotuner.replay.episode_file import read_episodes, write_episodes
from autotuner.replay.past import read_past
from autotuner.replay.shadow import shadow
from tests.suites.fake_run import GIB, FakeMachine, FakeRun
from tests.suites.hand_driven_daemon import UNIX, Wishes, at, kill, start_daemon

DOWN = action_index("micro_batch", -1)


def live_through(tmp_path, monkeypatch, policy=None, end=20.0, emergency_at=None, finished=True, **settings):
    """A run of ``end`` seconds under a real daemon: losses fall by half in the first ten seconds; asks are answered."""
    machine = FakeMachine()
    daemon = start_daemon(tmp_path, monkeypatch, policy=policy, machine=machine, **settings)
    run = FakeRun(tmp_path)
    run.sample(0.0)
    run.evaluate(0.0, 1.0)
    for second in range(1, int(end) + 1):
        hot = emergency_at is not None and emergency_at <= second < emergency_at + 2
        machine.state = FakeMachine(memory_pressure=2 if hot else 0).state
        run.train(second - 0.5, second, memory=GIB)
        if second in (10, 20):
            run.evaluate(float(second), 0.5)
        daemon.tick(at(float(second)))
        if run.asked() is not None:
            run.acknowledge(second + 0.1)
    if finished:
        run.goodbye(end + 0.5)
    daemon.tick(at(end + 1.0))
    daemon.stop(at(end + 1.0))
    return run


def episode_of(tmp_path, directory=True):
    with Reader(journal_path(tmp_path)) as journal:
        (run,) = journal.runs()
        past = read_past(journal, run, tmp_path / "runs" / run.run_id if directory else None)
        return past, read_episode(journal, past)


def test_an_episode_has_a_row_a_decision(tmp_path, monkeypatch):
    live_through(tmp_path, monkeypatch)
    _, episode = episode_of(tmp_path)
    columns = episode.columns
    with Reader(journal_path(tmp_path)) as journal:
        assert columns["time_unix"] == [decision.time_unix for decision in journal.decisions("cats-1")]
    assert all(len(row) == len(FEATURES) for row in columns["observation"])
    assert all(len(row) == len(ACTION_NAMES) for row in columns["mask"])
    assert episode.about["outcome"] == "finished"
    assert episode.about["knobs"]["pace"] == [0.5, 0.75, 1.0]
    assert all(len(values) == episode.decisions for values in columns.values())


def test_the_ask_the_answer_and_the_effect_of_a_wish(tmp_path, monkeypatch):
    live_through(tmp_path, monkeypatch)
    columns = episode_of(tmp_path)[1].columns
    batch = KNOB_NAMES.index("micro_batch")
    first = columns["asked_action"].index(DOWN)
    assert columns["action"][first] == DOWN
    assert columns["decided_by"][first] == "wishes"
    assert columns["propensity"][first] == 1.0
    assert (columns["positions"][first][batch], columns["asked_positions"][first][batch]) == (2, 1)
    assert columns["positions"][first + 1][batch] == 1
    assert columns["peak_bytes_after"][first] == GIB
    assert columns["changes"][first] == 1
    undeclared = KNOB_NAMES.index("resolution")
    assert columns["positions"][first][undeclared] == -1


def test_a_wish_that_the_mode_did_not_make_was_not_asked(tmp_path, monkeypatch):
    live_through(tmp_path, monkeypatch, mode="observe")
    columns = episode_of(tmp_path)[1].columns
    assert DOWN in columns["action"]
    assert set(columns["asked_action"]) == {HOLD}
    assert sum(columns["changes"]) == 0


def test_an_emergency_is_the_guards_and_has_no_propensity(tmp_path, monkeypatch):
    live_through(tmp_path, monkeypatch, policy=Rules(), emergency_at=8)
    columns = episode_of(tmp_path)[1].columns
    guard = columns["decided_by"].index("guard")
    assert math.isnan(columns["propensity"][guard])
    assert columns["action"][guard] == HOLD
    assert columns["asked_action"][guard] in (NOT_IN_TABLE, DOWN)
    assert columns["pressure_share"][guard] > 0


def test_the_terms_add_up_to_the_run(tmp_path, monkeypatch):
    live_through(tmp_path, monkeypatch, emergency_at=8)
    past, episode = episode_of(tmp_path)
    columns = episode.columns
    first = columns["time_unix"][0]
    made_before = math.log(2) * (first - UNIX) / 10  # the line from 1.0 at 0 s to 0.5 at 10 s
    told = sum(value for value in columns["progress"] if not math.isnan(value))
    assert told == pytest.approx(math.log(2) - made_before)
    assert sum(columns["seconds"]) == pytest.approx(past.end - first)
    assert sum(columns["pressure_share"]) == pytest.approx(2 / 600.0)
    assert sum(columns["heat_share"]) == 0
    rate = columns["progress_per_budget"][0]
    assert rate == pytest.approx(columns["progress"][0] / columns["budget_share"][0])


def test_what_was_not_evaluated_stays_unknown(tmp_path, monkeypatch):
    live_through(tmp_path, monkeypatch, end=8.0)
    columns = episode_of(tmp_path)[1].columns
    assert all(math.isnan(value) for value in columns["progress"])


def test_steps_that_ran_out_of_memory_are_told_by_the_ring_alone(tmp_path, monkeypatch):
    daemon = start_daemon(tmp_path, monkeypatch, policy=Rules())
    run = FakeRun(tmp_path)
    for second in range(1, 9):
        run.sample(second - 0.5, flags=FLAG_OUT_OF_MEMORY if second == 5 else 0)
        daemon.tick(at(float(second)))
    run.goodbye(8.5)
    daemon.tick(at(9.0))
    daemon.stop(at(9.0))
    with_ring, without = (episode_of(tmp_path, directory)[1].columns["out_of_memory"] for directory in (True, False))
    assert sum(with_ring) == 1
    assert all(math.isnan(value) for value in without)


def test_the_ring_replaces_the_journals_samples_and_not_its_evaluations(tmp_path, monkeypatch):
    run = live_through(tmp_path, monkeypatch)
    full, _ = episode_of(tmp_path)
    bare, _ = episode_of(tmp_path, directory=False)
    steps = [record.step for record in full.records if type(record).__name__ == "Sample"]
    assert steps == list(range(1, run.step + 1))
    assert len(steps) > len([record for record in bare.records if type(record).__name__ == "Sample"])
    assert [e.held_out_loss for e in full.evaluations] == [e.held_out_loss for e in bare.evaluations] == [1.0, 0.5, 0.5]


def test_a_damaged_ring_costs_the_ring_alone(tmp_path, monkeypatch):
    run = live_through(tmp_path, monkeypatch)
    (run.directory / "telemetry.ring").write_bytes(b"nonsense")
    past, episode = episode_of(tmp_path)
    assert math.isinf(past.ring_from)
    assert episode.decisions


@pytest.mark.parametrize("directory", [True, False])
def test_the_policy_that_decided_agrees_with_itself(tmp_path, monkeypatch, directory):
    live_through(tmp_path, monkeypatch, policy=Rules(), end=40.0, emergency_at=8)
    past, episode = episode_of(tmp_path, directory)
    compared = list(shadow(past, episode, Rules()))
    assert len(compared) == sum(by == "rules" for by in episode.columns["decided_by"]) > 5
    assert all(one.agrees for one in compared)


class Looks:
    """Remembers the windows that it was shown."""

    name = "looks"

    def __init__(self):
        self.seen = []

    def choose(self, observation, mask, window):
        self.seen.append((window.closed_at, window.positions, len(window.evaluations), window.machine.time))
        return Rules().choose(observation, mask, window)


@pytest.mark.parametrize("directory", [True, False])
def test_the_window_is_what_it_was(tmp_path, monkeypatch, directory):
    then = Looks()
    live_through(tmp_path, monkeypatch, policy=then, emergency_at=8)
    past, episode = episode_of(tmp_path, directory)
    now = Looks()
    list(shadow(past, episode, now))
    shifted = [(t + UNIX, positions, count, m + UNIX) for t, positions, count, m in then.seen]
    assert now.seen == shifted


@pytest.mark.parametrize("name", ["episodes.npz", "episodes.json"])
def test_a_file_brings_back_what_was_written(tmp_path, monkeypatch, name):
    live_through(tmp_path, monkeypatch)
    _, episode = episode_of(tmp_path)
    write_episodes(tmp_path / name, [episode, episode])
    read = read_episodes(tmp_path / name)
    assert [run["run_id"] for run in read.runs] == ["cats-1", "cats-1"]
    assert read.columns["run"] == [0] * episode.decisions + [1] * episode.decisions
    assert read.columns["observation"][: episode.decisions] == episode.columns["observation"]
    assert [math.isnan(x) for x in read.columns["propensity"]] == [math.isnan(x) for x in episode.columns["propensity"] * 2]


@pytest.mark.parametrize("name", ["episodes.npz", "episodes.json"])
def test_a_disk_that_refuses_leaves_the_file_that_was_there(tmp_path, monkeypatch, name):
    live_through(tmp_path, monkeypatch)
    _, episode = episode_of(tmp_path)
    path = tmp_path / "out" / name
    path.parent.mkdir()
    path.write_bytes(b"earlier")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(ArtefactError, match=f"{name} cannot be written: No space left"):
        write_episodes(path, [episode])
    assert path.read_bytes() == b"earlier"
    assert [each.name for each in path.parent.iterdir()] == [name]


@pytest.mark.parametrize(
    ("change", "words"),
    [({"observation_version": 1}, "observation version 1"), ({"actions": []}, "actions differ"), ({"format": 9}, "format 1")],
)
def test_a_file_of_another_build_is_refused(tmp_path, monkeypatch, change, words):
    live_through(tmp_path, monkeypatch)
    path = tmp_path / "episodes.json"
    write_episodes(path, [episode_of(tmp_path)[1]])
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ArtefactError, match=words):
        read_episodes(path)


def command(capsys, *words):
    capsys.readouterr()  # what the daemon logged before
    code = main(["replay", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_command_writes_episodes_and_asks_another_policy(tmp_path, monkeypatch, capsys):
    live_through(tmp_path, monkeypatch)
    output = tmp_path / "out.npz"
    code, out, err = command(capsys, "--policy", "hold", "--output", str(output), "--state-dir", str(tmp_path))
    assert (code, err) == (0, "")
    assert "cats-1" in out
    assert "hold agrees in" in out
    assert "wishes wished micro_batch down; hold wishes hold" in out
    assert read_episodes(output).runs[0]["run_id"] == "cats-1"


def test_a_journal_elsewhere_is_read(tmp_path, monkeypatch, capsys):
    live_through(tmp_path, monkeypatch)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(journal_path(tmp_path), elsewhere / "old.sqlite3")
    code, out, _ = command(capsys, "cats", "--journal", str(elsewhere / "old.sqlite3"))
    assert code == 0
    assert out.splitlines()[1].split()[-1] == "no", "there is no ring beside it"


def test_decisions_of_another_observation_are_refused_with_both_versions(tmp_path, monkeypatch, capsys):
    live_through(tmp_path, monkeypatch)
    with Journal(journal_path(tmp_path)) as journal:
        journal._execute("UPDATE decisions SET observation_version = 1")
    code, _, err = command(capsys, "--state-dir", str(tmp_path))
    assert code == 1
    assert "decisions of observation version 1 refused" in err
    assert f"observes version {OBSERVATION_VERSION}" in err


def test_a_run_that_another_version_declared_costs_its_own_episode_alone(tmp_path, monkeypatch, capsys):
    live_through(tmp_path, monkeypatch)
    with Journal(journal_path(tmp_path)) as journal:
        (run,) = journal.runs()
        journal.write(replace(run, run_id="old-1", name="old", declaration_json='{"version": 1}'))
    code, out, err = command(capsys, "--state-dir", str(tmp_path))
    assert code == 0
    assert "cats-1" in out
    assert err.startswith("autotuner: old-1 is left out: run.json has version 1;")
    code, _, err = command(capsys, "old", "--state-dir", str(tmp_path))
    assert code == 1
    assert "old-1 is left out" in err


def test_a_live_run_is_no_episode(tmp_path, monkeypatch, capsys):
    daemon = start_daemon(tmp_path, monkeypatch, policy=Wishes())
    FakeRun(tmp_path).train(0.0, 2.0)
    daemon.tick(at(2.0))
    code, _, err = command(capsys, "cats", "--state-dir", str(tmp_path))
    assert code == 1
    assert "has not ended" in err
    kill(daemon)


def test_an_unknown_suffix_is_refused_before_anything_is_read(tmp_path, capsys):
    code, _, err = command(capsys, "--output", "x.csv", "--state-dir", str(tmp_path))
    assert code == 1
    assert ".npz, .json" in err


def test_a_journals_path_alone_is_enough_and_json_holds_each_decision(tmp_path, monkeypatch, capsys):
    live_through(tmp_path, monkeypatch)
    code, out, err = command(capsys, str(journal_path(tmp_path)), "--policy", "hold", "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    (run,) = document["runs"]
    assert (document["policy"], run["run_id"], run["outcome"]) == ("hold", "cats-1", "finished")
    assert run["asked"] == len(run["compared"]) == run["decisions"]
    assert run["agrees"] == sum(one["agrees"] for one in run["compared"]) < run["asked"]
    assert {"micro_batch down", "hold"} == {one["wished"] for one in run["compared"]}


def explain(capsys, tmp_path, *words):
    capsys.readouterr()
    code = main(["explain", "cats", "--state-dir", str(tmp_path), *words])
    return code, capsys.readouterr().out


@pytest.mark.parametrize("finished", [True, False])
def test_explain_tells_what_was_seen_and_what_each_policy_would_have_wished(tmp_path, monkeypatch, capsys, finished):
    live_through(tmp_path, monkeypatch, finished=finished)
    code, out = explain(capsys, tmp_path)
    assert code == 0
    first = out.split("\n\n")[1]
    assert "micro_batch 32 to 16  [observed]" in first
    assert "guard: let it pass" in first
    assert "loss 0.5" in first
    assert "memory 1 GiB" in first
    assert "pressure normal, heat nominal, speed of its best 100 %" in first
    assert "policies would wish: hold: hold, rules: " in first
    assert "forecast: " in first
    assert "seen:" not in explain(capsys, tmp_path, "--short")[1]


def test_the_policy_that_decided_would_wish_the_same_again(tmp_path, monkeypatch, capsys):
    live_through(tmp_path, monkeypatch, policy=Rules(), end=40.0)
    document = json.loads(explain(capsys, tmp_path, "--json", "--all", "--last", "100")[1])
    decisions = [decision for decision in document["decisions"] if decision["policy"] == "rules"]
    assert len(decisions) > 10
    assert {ACTION_NAMES[decision["action"]] == decision["wishes"]["rules"] for decision in decisions} == {True}
    assert any(decision["action"] != HOLD for decision in decisions)
    assert all(decision["seen"]["available_bytes"] == 16 * GIB for decision in decisions)


def test_explain_says_when_the_guard_acted_by_itself(tmp_path, monkeypatch, capsys):
    live_through(tmp_path, monkeypatch, policy=Wishes("pace", 1), emergency_at=8)
    out = explain(capsys, tmp_path)[1]
    assert "the machine reports memory pressure (guard: memory_pressure)" in out
    assert "pressure critical" in out
    assert "guard: acted by itself, no policy was asked" in out


def test_decisions_of_another_observation_are_explained_without_hindsight(tmp_path, monkeypatch, capsys):
    live_through(tmp_path, monkeypatch)
    with Journal(journal_path(tmp_path)) as journal:
        journal._execute("UPDATE decisions SET observation_version = 1")
    out = explain(capsys, tmp_path)[1]
    assert "micro_batch 32 to 16  [observed]" in out
    assert "would wish" not in out
