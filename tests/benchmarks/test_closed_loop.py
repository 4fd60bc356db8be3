"""Stage S2's driver: which runs are made, in which order, what is frozen, and what a wrong command is told. No training."""

from __future__ import annotations

import itertools
import json
from functools import partial

import pytest

from autotuner.errors import AutotunerError
from benchmarks import closed_loop, closed_loop_run
from benchmarks.closed_loop_run import Job, Quiet, perform, starved
from benchmarks.closed_loop_scenarios import (
    ARMS,
    KILL_SHARE,
    KINDS,
    MEMORY_ROOMY,
    SEEDS,
    START,
    STATICS,
    Events,
    Machine,
    arm,
    draw,
    rotated,
    start,
)

SECONDS = 20.0
MAKE = partial(perform, quiet=Quiet())


class Maker:
    """Stands for the processes: the loss falls by a tenth a second, slower under the arms named in ``slow``."""

    def __init__(self, slow=()):
        self.slow = dict(slow)
        self.made = []

    def __call__(self, job, chosen, known, decisions):
        self.made.append(job)
        rate = 0.1 / self.slow.get(job.arm, 1.0)
        curve = [(float(s), s, 2.0 - rate * s, 0) for s in range(1, 20)]
        told = {"failure": "", "curve": curve, "held_out_loss": curve[-1][2], "teacher_bytes": 1000 + job.seed % 10}
        told |= {"probe_seconds": 0.1, "disturbed": False}
        counts = {"oom": 0, "not_finite_steps": 0, "pressure_seconds": 0.0, "heat_seconds": 0.0, "changes": 0, "vetoed": 0}
        names = ("stage", "kind", "seed", "arm", "budget_seconds", "preset")
        return {**dict(zip(names, job.key, strict=True)), **told, **counts}


def runs(tmp_path, maker=None):
    return closed_loop.Runs(tmp_path, maker or Maker())


def options(tmp_path, *words):
    return closed_loop.parse(["--out", str(tmp_path), "--seconds", str(SECONDS), *words])


def test_a_run_that_is_there_is_not_made_again(tmp_path):
    words = ("--pairs", "2", "--only", "memory", "--arms", "hold", "rules")
    first, second = Maker(), Maker()
    closed_loop.work(options(tmp_path, *words), runs(tmp_path, first))
    closed_loop.work(options(tmp_path, *words), runs(tmp_path, second))
    assert len([job for job in first.made if job.stage == "pair"]) == 4
    assert second.made == []
    closed_loop.work(options(tmp_path, "--pairs", "3", *words[2:]), runs(tmp_path, second))
    assert {job.seed for job in second.made} == {SEEDS["test"] + 2}


def test_a_torn_line_costs_one_run_and_no_other(tmp_path):
    maker, job = Maker(), Job("pair", "heat", 3, "hold", SECONDS)
    runs(tmp_path, maker).ensure(job)
    with (tmp_path / "runs.jsonl").open("a") as stream:
        stream.write('{"stage": "pair", "ki')
    again = runs(tmp_path, maker)
    again.ensure(job)
    again.ensure(Job("pair", "heat", 4, "hold", SECONDS))
    assert [made.seed for made in maker.made] == [3, 4]
    assert [line["seed"] for line in closed_loop.read(tmp_path / "runs.jsonl")] == [3, 4]


def test_another_budget_is_another_run(tmp_path):
    maker = Maker()
    found = runs(tmp_path, maker)
    for seconds in (10.0, 20.0):
        found.ensure(Job("pair", "heat", 3, "hold", seconds))
    assert len(maker.made) == 2


def test_every_arm_stands_once_at_every_place_of_the_order():
    arms = tuple(ARMS)
    orders = [rotated(arms, turn) for turn in range(len(arms))]
    for place in zip(*orders, strict=True):
        assert sorted(place) == sorted(arms)


def test_pairs_are_interleaved_and_their_first_arm_rotates():
    made = list(closed_loop.jobs("pair", ("heat", "memory"), ("a", "b", "c"), 5, 3, SECONDS))
    groups = [list(group) for _, group in itertools.groupby(made, key=lambda job: (job.kind, job.seed))]
    assert [(group[0].seed - SEEDS["test"], group[0].kind) for group in groups] == [
        (pair, kind) for pair in (5, 6, 7) for kind in ("heat", "memory")
    ]
    assert [group[0].arm for group in groups if group[0].kind == "heat"] == ["c", "a", "b"]
    assert all(sorted(job.arm for job in group) == ["a", "b", "c"] for group in groups)


def test_the_target_is_the_untouched_scripts_loss_at_its_share_of_the_budget(tmp_path):
    maker = Maker()
    known = closed_loop.frozen(tmp_path, runs(tmp_path, maker), SECONDS, 3)
    assert known["target"] == pytest.approx(2.0 - 0.1 * closed_loop.TARGET_SHARE * SECONDS)
    assert known["unit_bytes"] == 1001
    assert {(job.arm, job.kind) for job in maker.made} == {("alone", "stationary")}
    assert all(SEEDS["validation"] <= job.seed < SEEDS["test"] for job in maker.made)
    assert closed_loop.frozen(tmp_path, runs(tmp_path), SECONDS, 3) == known


def test_what_was_frozen_for_one_budget_serves_no_other(tmp_path):
    closed_loop.frozen(tmp_path, runs(tmp_path), SECONDS, 1)
    with pytest.raises(AutotunerError, match="20 s, not 30"):
        closed_loop.frozen(tmp_path, runs(tmp_path), 30.0, 1)


def test_a_report_makes_no_run(tmp_path):
    maker = Maker()
    with pytest.raises(AutotunerError, match="nothing to report"):
        closed_loop.work(options(tmp_path, "--report"), runs(tmp_path, maker))
    closed_loop.frozen(tmp_path, runs(tmp_path), SECONDS, 1)
    assert closed_loop.work(options(tmp_path, "--report"), runs(tmp_path, maker))["target"] > 0
    assert maker.made == []


def test_an_untouched_script_that_fails_stops_everything(tmp_path):
    maker = Maker()

    def failing(*arguments):
        return {**maker(*arguments), "failure": "exit code 1: no images"}

    with pytest.raises(AutotunerError, match="no images"):
        closed_loop.frozen(tmp_path, closed_loop.Runs(tmp_path, failing), SECONDS, 1)
    assert not (tmp_path / "frozen.json").exists()


def test_tuning_finds_the_best_static_on_validation_seeds_and_later_rounds_have_fewer(tmp_path):
    best = sorted(STATICS)[5]
    maker = Maker({name: 1.2 for name in STATICS if name != best})
    closed_loop.work(options(tmp_path, "--tune"), runs(tmp_path, maker))
    assert json.loads((tmp_path / "frozen.json").read_text())["best_static"] == best
    tuned = [job for job in maker.made if job.stage == "tune"]
    assert all(SEEDS["validation"] <= job.seed < SEEDS["test"] for job in tuned)
    counts = [len({job.arm for job in tuned if job.seed == seed}) for seed in sorted({job.seed for job in tuned})]
    assert counts == [len(STATICS), *(keep for _, keep in closed_loop.ROUNDS[:-1])]


def test_a_best_static_that_nobody_chose_is_refused_before_any_pair(tmp_path):
    maker = Maker()
    with pytest.raises(ValueError, match="--tune chooses"):
        closed_loop.work(options(tmp_path, "--arms", "best_static", "hold"), runs(tmp_path, maker))
    assert {job.stage for job in maker.made} == {"calibrate"}


def test_an_arm_whose_artefact_does_not_fit_is_refused_instead_of_being_the_rules_in_disguise(tmp_path, monkeypatch):
    monkeypatch.setattr(closed_loop, "shipped_artefacts", lambda: tmp_path / "nothing")
    maker = Maker()
    with pytest.raises(AutotunerError, match=r"arm 'learned': .*no such artefact"):
        closed_loop.work(options(tmp_path, "--arms", "learned", "hold"), runs(tmp_path, maker))
    assert {job.stage for job in maker.made} == {"calibrate"}


def test_hold_is_compared_with_itself(tmp_path, capsys):
    maker = Maker({"hold again": 1.1})
    result = closed_loop.work(options(tmp_path, "--aa", "--pairs", "3"), runs(tmp_path, maker))
    assert {job.arm for job in maker.made if job.stage == "aa"} == {"hold", "hold again"}
    assert result["aa_pairs"] == 3
    assert result["aa_mean"] > 0.05
    assert "does NOT contain 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--seconds", "1"], "allowed is 5 to 36000"),
        (["--pairs", "0"], "1 and more pairs"),
        (["--first", "-1"], "from number 0 on"),
        (["--core", "4096"], "--core 4096; allowed: "),
        (["--only", "rain"], "choose from 'stationary'"),
        (["--arms", "magic"], "choose from 'learned'"),
        (["--aa", "--tune"], "not allowed with"),
    ],
)
def test_a_wrong_flag_is_answered_with_what_is_allowed(words, what, capsys):
    with pytest.raises(SystemExit) as ended:
        closed_loop.parse(words)
    assert ended.value.code == 2
    assert what in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_and_a_seed_name_the_same_events_every_time(kind):
    assert draw(kind, 7) == draw(kind, 7)
    disturbed = KINDS[kind].heat or KINDS[kind].memory
    assert (draw(kind, 7) != draw(kind, 8)) == disturbed


def test_memory_goes_within_a_ramp_and_comes_back():
    events = Events(memory_from=0.1, memory_until=0.5, memory_left=0.3)
    shares = [events.limit_share(used) for used in (0.0, 0.1, 0.13, 0.2, 0.49, 0.5)]
    assert shares[0] == shares[1] == shares[-1] == MEMORY_ROOMY
    assert shares[3] == shares[4] == pytest.approx(0.3)
    assert 0.3 < shares[2] < MEMORY_ROOMY


def test_the_pretended_machine_counts_pressure_only_above_its_limit():
    machine = Machine(Events(memory_from=0.0, memory_until=1.0, memory_left=0.5), 100.0, 1000)
    assert machine.step(0.0, 50.0, 1.0, 499, 1.0).memory_pressure == 1
    assert machine.pressure_seconds == 0.0
    assert machine.step(1.0, 51.0, 1.0, 501, 1.0).memory_pressure == 2
    assert machine.pressure_seconds == 1.0
    assert not machine.out_of_memory(int(500 * KILL_SHARE))
    assert machine.out_of_memory(int(500 * KILL_SHARE) + 1)


def test_a_pretended_machine_without_heat_stays_cool_and_one_with_it_throttles():
    cool, hot = (Machine(draw(kind, 1), 45.0, 0) for kind in ("stationary", "heat"))
    for at in range(180):
        cool_state, hot_state = (machine.step(0.0, at / 4, 0.25, 0, 1.0) for machine in (cool, hot))
    assert (cool_state.thermal_level, cool_state.frequency_ratio, cool.heat_seconds) == (0, 1.0, 0.0)
    assert hot.heat_seconds > 5.0
    assert hot_state.memory_limit_bytes is None


def test_an_arm_without_autotuner_has_no_policy_and_a_plan_sets_what_a_bad_start_spoiled():
    assert [name for name in ("alone", "hand") if arm(name).policy] == []
    assert start("small_micro_batch", arm("alone")) == {**START, "micro_batch": 8.0}
    assert start("small_micro_batch", arm("hand"))["micro_batch"] == START["micro_batch"]
    assert [name for name in ARMS if name != "best_static" and arm(name).coarse_until] == ["hand"]
    assert arm("hold again") == arm("hold")
    with pytest.raises(ValueError, match="allowed: learned"):
        arm("magic")


def test_what_neither_training_nor_daemon_nor_sleep_took_was_starved():
    result = {"seconds": 10.0, "slept_seconds": 2.0, "processor_seconds": 7.0}
    assert starved(result, 0.5) == pytest.approx(0.05)
    assert starved(result, 1.5) == 0.0
    assert starved({}, 0.0) == 0.0


CLEAN, STARVED, SLOW = (0.01, 0.10), (0.30, 0.10), (0.01, 0.13)
"""Starved share and processor seconds of the probe, beside a calibration's 0.1."""


@pytest.mark.parametrize(
    ("rows", "attempts", "disturbed"),
    [
        ([CLEAN], 1, False),
        ([STARVED, CLEAN], 2, False),
        ([SLOW, CLEAN], 2, False),
        ([SLOW] * 9, closed_loop_run.ATTEMPTS, True),
    ],
)
def test_a_run_that_others_cost_too_much_is_made_again_but_not_for_ever(monkeypatch, tmp_path, rows, attempts, disturbed):
    left = iter(rows)

    def attempted(*_):
        return dict(zip(("starved_share", "probe_seconds"), next(left), strict=True)) | {"failure": ""}

    monkeypatch.setattr(closed_loop_run, "attempted", attempted)
    job, known = Job("aa", "heat", 1, "hold", SECONDS), {"probe_seconds": 0.1, "unit_bytes": 1}
    line = closed_loop_run.perform(job, arm("hold"), known, tmp_path, closed_loop_run.Quiet(most_starved=0.05))
    assert (line["attempts"], line["disturbed"]) == (attempts, disturbed)


def test_a_calibration_has_no_probe_to_be_compared_with():
    line = {"failure": "", "starved_share": 0.0, "probe_seconds": 9.0}
    assert not closed_loop_run.Quiet().disturbed(line, 0.0)
    assert closed_loop_run.Quiet().disturbed(line, 1.0)


@pytest.mark.slow
def test_two_arms_of_one_tiny_pair_from_end_to_end(tmp_path, capsys):
    """Real processes: calibration, then a daemon that acts and one that holds, in twelve seconds each."""
    closed_loop.work(
        closed_loop.parse(["--quick", "--only", "memory", "--out", str(tmp_path)]), closed_loop.Runs(tmp_path, MAKE)
    )
    lines = closed_loop.read(tmp_path / "runs.jsonl")
    assert [line["failure"] for line in lines] == ["", "", ""]
    held, ruled = (next(line for line in lines if line["arm"] == name) for name in ("hold", "rules"))
    assert held["events"] == ruled["events"]
    assert ruled["served"] == "rules"
    assert ruled["changes"] > 0
    assert len(list((tmp_path / "decisions").iterdir())) == 2
    assert '"memory"' not in capsys.readouterr().err
