"""Several ranks: rank 0 reports, all of them follow the knobs after the same step, and none moves when one does not follow."""

import json
import random
from pathlib import Path

import pytest

from autotuner.hook import AutotunerWarning, attach, knob
from autotuner.hook.page import PageWriter
from autotuner.hook.ranks import PATIENCE_REPORTS
from autotuner.hook.ring import RingReader
from autotuner.messages import REFUSALS, Acknowledgement, Sample

KNOBS = {"micro_batch": [8, 16, 32, 64], "pace": [0.5, 0.75, 1.0]}


class Rank:
    """One rank of a launch, in this process."""

    def __init__(self, monkeypatch, rank, size=2, port=29500, knobs=KNOBS, **settings):
        environment = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
        for name, value in environment.items():
            monkeypatch.setenv(name, str(value))
        self.run = attach("cats", knobs={n: knob(values[-1], values) for n, values in knobs.items()}, **settings)

    @property
    def values(self):
        return tuple(self.run.knobs[name] for name in self.run.knobs)


@pytest.fixture
def ranks(monkeypatch):
    def make(size, **settings):
        settings = {"shape_dwell_steps": 0, **settings}
        return [Rank(monkeypatch, rank, size, **settings) for rank in range(size)]

    return make


@pytest.fixture
def daemon(attached):
    return lambda ranks: attached(ranks[0].run)


def step_all(ranks, step):
    for rank in ranks:
        rank.run.report(step, 0.5)
    return {rank.values for rank in ranks}


def answers(daemon):
    return [(a.revision, a.step, REFUSALS[a.detail]) for a in daemon.records(Acknowledgement)]


def test_rank_0_reports_and_all_follow_after_the_same_step(ranks, daemon, state):
    started = ranks(3)
    asker = daemon(started)
    assert step_all(started, 1) == {(64, 1.0)}
    revision = asker.ask(1, 0)
    assert step_all(started, 2) == {(64, 1.0)}, "announced"
    assert step_all(started, 3) == {(16, 0.5)}, "taken over by all"
    step_all(started, 4)
    assert len(list((state / "runs").iterdir())) == 1
    records = asker.ring.read()
    assert [record.step for record in records if isinstance(record, Sample)] == [1, 2, 3, 4]
    (answer,) = [record for record in records if isinstance(record, Acknowledgement)]
    assert (answer.revision, answer.step) == (revision, 4)


@pytest.mark.parametrize("late", [0, 1])
def test_it_does_not_matter_which_rank_reports_first(ranks, daemon, late):
    started = ranks(2)
    asker = daemon(started)
    order = [started[1 - late], started[late]]
    for step in range(1, 40):
        if step % 5 == 0:
            asker.ask(step % 4, step % 3)
        assert len(step_all(order, step)) == 1, step


def test_random_asks_and_own_settings_are_followed_alike(ranks, daemon):
    started = ranks(3, shape_dwell_steps=3, max_shapes=3)
    asker, chance, seen = daemon(started), random.Random(2), set()
    for step in range(1, 400):
        if chance.random() < 0.3:
            asker.ask(chance.randrange(4), chance.randrange(3))
        if chance.random() < 0.02:
            pace = chance.choice(KNOBS["pace"])
            for rank in started:
                rank.run.set("pace", pace)
        (values,) = step_all(chance.sample(started, 3), step)
        seen.add(values)
    assert len({micro_batch for micro_batch, _ in seen}) == 3
    assert len(seen) > 4


def test_real_processes_in_step_follow_at_the_same_step(python, tmp_path):
    script = tmp_path / "train.py"
    script.write_text("""
import json, multiprocessing, os, sys
from autotuner.hook import attach, knob

def train(rank, size, barrier, finish, out):
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="localhost", MASTER_PORT="29511")
    run = attach("cats", knobs={"micro_batch": knob(64, [8, 16, 32, 64])}, shape_dwell_steps=0)
    used, step = [], 0
    while True:
        step += 1
        used.append(run.knobs.micro_batch)
        barrier.wait()  # the collective of the step
        run.report(step, 0.5)
        if rank == 0 and step == 1:
            print(run.directory, flush=True)
        if barrier.wait() == 0 and os.path.exists(sys.argv[1]):
            finish.set()
        barrier.wait()
        if finish.is_set():
            break
    out.put((rank, used))

if __name__ == "__main__":
    spawn, size = multiprocessing.get_context("spawn"), 3
    barrier, finish, out = spawn.Barrier(size), spawn.Event(), spawn.Queue()
    processes = [spawn.Process(target=train, args=(rank, size, barrier, finish, out)) for rank in range(size)]
    for process in processes:
        process.start()
    print(json.dumps([used for _, used in sorted(out.get() for _ in processes)]), flush=True)
    for process in processes:
        process.join()
""")
    finish = tmp_path / "finish"
    code = f"import runpy, sys; sys.argv = ['', {str(finish)!r}]; runpy.run_path({str(script)!r}, run_name='__main__')"
    process = python(code)
    directory = Path(process.stdout.readline().strip())
    page, reader, answered, revision = PageWriter(directory / "knobs.page"), RingReader(directory / "telemetry.ring"), 0, 0
    for number in range(12):
        revision = page.write((number % 4,), float(number))
        while answered < revision:
            assert process.poll() is None
            answered = max([answered, *(r.revision for r in reader.read() if isinstance(r, Acknowledgement) and not r.refused)])
    finish.touch()
    used = json.loads(process.stdout.readline())
    _, errors = process.communicate(timeout=60)
    page.close()
    reader.close()
    assert errors == ""
    assert used[0] == used[1] == used[2]
    assert set(used[0]) == {8, 16, 32, 64}


def test_nothing_moves_while_a_rank_does_not_follow_and_the_daemon_is_told(monkeypatch, daemon):
    started = [Rank(monkeypatch, 0, 3), Rank(monkeypatch, 1, 3)]  # the third never attaches
    asker = daemon(started)
    revision = asker.ask(0, 2)
    for step in range(1, PATIENCE_REPORTS + 2):
        assert step_all(started, step) == {(64, 1.0)}
    assert answers(asker) == [(revision, PATIENCE_REPORTS, "another rank does not follow")]


def test_a_rank_that_attaches_before_rank_0_finds_it_at_its_first_report(monkeypatch, daemon):
    follower = Rank(monkeypatch, 1)
    assert follower.run.directory is None
    leader = Rank(monkeypatch, 0)
    asker = daemon([leader])
    step_all([leader, follower], 1)
    assert follower.run.directory == leader.run.directory
    asker.ask(0, 2)
    step_all([leader, follower], 2)
    assert step_all([leader, follower], 3) == {(8, 1.0)}


def test_a_rank_that_finds_no_rank_0_says_so_once_and_does_nothing(monkeypatch):
    follower = Rank(monkeypatch, 1).run
    for step in range(1, PATIENCE_REPORTS - 1):
        follower.report(step, 0.5)
    with pytest.warns(AutotunerWarning, match="rank 1 found no run of rank 0; its knobs stay"):
        follower.report(PATIENCE_REPORTS, 0.5)
    follower.report(PATIENCE_REPORTS + 1, 0.5)  # a second warning would be an error here
    assert (follower.directory, follower.knobs.micro_batch) == (None, 64)


def test_the_run_of_another_launch_of_the_same_name_is_not_followed(monkeypatch):
    Rank(monkeypatch, 0, port=29500)
    assert Rank(monkeypatch, 1, port=29501).run.directory is None


def test_the_run_of_a_launch_that_has_ended_is_not_followed(monkeypatch, python):
    code = """
import os
os.environ.update(RANK="0", WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT="29500")
from autotuner.hook import attach, knob
print(attach("cats", knobs={"micro_batch": knob(64, [8, 16, 32, 64]), "pace": knob(1.0, [0.5, 0.75, 1.0])}).directory)
"""
    out, _ = python(code).communicate(timeout=60)
    assert Path(out.strip()).is_dir()
    assert Rank(monkeypatch, 1).run.directory is None


def test_a_damaged_note_of_a_launch_is_none(monkeypatch, state):
    Rank(monkeypatch, 0)
    (note,) = (state / "launches").iterdir()
    for text in ("", "[]", "{}", '{"key": 1, "pid": "x", "pid_start": null}'):
        note.write_text(text)
        assert Rank(monkeypatch, 1).run.directory is None


def test_a_launch_without_a_mark_is_followed_by_the_directory_that_it_is_given(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    knobs = {"micro_batch": knob(64, [8, 64])}
    leader = attach("cats", knobs=knobs)
    monkeypatch.setenv("RANK", "1")
    alone = attach("cats", knobs=knobs)
    alone.report(1, 0.5)
    assert alone.directory is None
    monkeypatch.setenv("AUTOTUNER_RUN_DIR", str(leader.directory))
    assert attach("cats", knobs=knobs).directory == leader.directory


def test_another_rank_with_a_wrong_directory_is_told_and_inert(monkeypatch, tmp_path):
    monkeypatch.setenv("AUTOTUNER_RUN_DIR", str(tmp_path / "nowhere"))
    with pytest.warns(AutotunerWarning, match=r"AUTOTUNER_RUN_DIR=.*nowhere"):
        run = Rank(monkeypatch, 1).run
    assert (run.directory, run.knobs.micro_batch) == (None, 64)


def test_another_rank_with_other_knobs_is_told_and_inert(monkeypatch):
    Rank(monkeypatch, 0)
    with pytest.warns(AutotunerWarning, match="both must offer the same knobs"):
        run = Rank(monkeypatch, 1, knobs={"pace": [0.5, 1.0]}).run
    assert (run.directory, run.knobs.pace) == (None, 1.0)


def test_a_rank_without_knobs_has_nothing_to_follow(monkeypatch):
    Rank(monkeypatch, 0)
    run = Rank(monkeypatch, 1, knobs={}).run
    for step in range(1, 2 * PATIENCE_REPORTS):
        run.report(step, 0.5)
    assert run.directory is None


def test_a_follower_knows_whether_the_run_is_guided(ranks, daemon):
    leader, follower = ranks(2)
    assert (follower.run.guided, follower.run.mode) == (False, None)
    daemon([leader]).page.heartbeat(1e12, "act")
    assert (follower.run.guided, follower.run.mode) == (True, "act")


def test_evaluations_and_the_end_of_a_follower_are_not_the_runs(ranks, daemon):
    leader, follower = ranks(2)
    follower.run.evaluation(1, 0.5)
    follower.run.close()
    assert daemon([leader]).ring.read() == []
