"""Stage S2's figures on made-up lines: censoring, pairing, signs, intervals, the winner."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks import closed_loop_analysis as analysis
from benchmarks.closed_loop_scenarios import KINDS

TARGET, BUDGET = 1.0, 40.0


def line(arm, seconds, kind="heat", seed=0, **more):
    """A run that meets the target after ``seconds``; None never does."""
    end = 0.5 if seconds is not None else 1.5
    curve = [(1.0, 1, 2.0, 0), (seconds or 20.0, 2, 1.0 if seconds is not None else 1.5, 0), (BUDGET, 3, end, 0)]
    counts = {"oom": 0, "not_finite_steps": 0, "pressure_seconds": 0.0, "heat_seconds": 0.0, "changes": 1, "vetoed": 0}
    base = {
        "arm": arm,
        "kind": kind,
        "seed": seed,
        "budget_seconds": BUDGET,
        "curve": curve,
        "held_out_loss": end,
        "failure": "",
    }
    return base | counts | more


def paired(ours, other, count=10, kind="heat"):
    """Pairs of ``rules``, which takes ``ours`` seconds and a little more from seed to seed, and ``other``, which takes 20."""
    times = {"rules": ours, other: 20.0}
    return [line(arm, s + seed / 10, kind, seed) for seed in range(count) for arm, s in times.items()]


def test_a_crossing_between_two_measurements_is_interpolated():
    assert analysis.time_to([(10.0, 1, 2.0, 0), (20.0, 2, 0.0, 0)], 0.5, BUDGET) == (17.5, True)


def test_a_run_that_never_meets_the_target_is_censored_at_its_budget():
    assert analysis.time_to(line("hold", None)["curve"], TARGET, BUDGET) == (BUDGET, False)
    assert analysis.time_to([], TARGET, BUDGET) == (BUDGET, False)


def test_a_crossing_after_the_budget_does_not_count():
    assert analysis.time_to([(30.0, 1, 2.0, 0), (50.0, 2, 0.5, 0)], 1.0, BUDGET) == (BUDGET, False)


def test_a_loss_that_was_not_finite_is_no_crossing():
    curve = [(1.0, 1, 2.0, 0), (2.0, 2, None, 0), (11.0, 3, 0.0, 0)]
    assert analysis.time_to(curve, 1.0, BUDGET) == (6.0, True)


def test_the_restricted_mean_counts_the_budget_and_the_table_says_how_many_reached():
    lines = [line("hold", 20.0, seed=1), line("hold", None, seed=2)]
    [row] = [text.split() for text in analysis.table(lines, ["hold"], TARGET)[1:]]
    assert row[:5] == ["heat", "hold", "2", "1", "30.00"]


def test_a_training_that_failed_counts_as_one_that_never_got_there():
    failed = {"arm": "hold", "kind": "heat", "seed": 0, "budget_seconds": BUDGET, "failure": "exit code 1"}
    assert analysis.seconds_of(failed, TARGET) == BUDGET
    assert not analysis.diverged(failed)


def test_half_the_time_is_half_saved_and_twice_the_time_is_a_loss():
    lines = [line("rules", 10.0), line("hold", 20.0)]
    assert analysis.gain(analysis.compare(lines, "rules", "hold", ("heat",), TARGET).middle.value) == pytest.approx(0.5)
    assert analysis.gain(analysis.compare(lines, "hold", "rules", ("heat",), TARGET).middle.value) == pytest.approx(-1.0)


def test_only_the_same_scenario_and_seed_are_a_pair():
    lines = [line("rules", 10.0, seed=1), line("hold", 20.0, seed=2), line("hold", 20.0, "memory", 1)]
    assert analysis.compare(lines, "rules", "hold", KINDS, TARGET).values == ()


def test_no_interval_below_ten_pairs_and_one_around_the_middle_from_ten_on():
    few = analysis.compare(paired(10.0, "hold", 9), "rules", "hold", KINDS, TARGET)
    many = analysis.compare(paired(10.0, "hold", 10), "rules", "hold", KINDS, TARGET)
    assert few.middle.low is None
    assert few.resampled(np.mean)[1:] == (None, None)
    mean, low, high = many.resampled(np.mean)
    assert low < mean < high
    assert many.middle.low < many.middle.value < many.middle.high


def test_a_loss_far_above_the_best_of_its_run_has_diverged():
    assert not analysis.diverged(line("rules", 10.0))
    assert analysis.diverged(line("rules", 10.0, held_out_loss=0.5 * analysis.DIVERGED + 0.01))
    assert analysis.diverged(line("rules", 10.0, held_out_loss=None))
    assert analysis.diverged(line("rules", 10.0, not_finite_steps=1))


def test_the_last_line_has_every_number_that_was_asked_for():
    lines = [
        *paired(10.0, "best_static"),
        *paired(20.0, "best_static", kind="stationary"),
        *paired(10.0, "alone", kind="poor_lr"),
        *[line("learned", 9.0 + seed / 10, kind, seed) for seed in range(10) for kind in ("heat", "stationary", "poor_lr")],
    ]
    found = analysis.summary(lines, "learned", ["rules", "learned", "best_static", "alone"], TARGET)
    assert found["vs_best_static_disturbed"] == pytest.approx(0.55, abs=0.02)
    assert 0.5 < found["ci_low"] <= found["vs_best_static_disturbed"]
    assert found["vs_best_static_stationary"] == pytest.approx(0.55, abs=0.02)
    assert found["bad_start_speedup"] == pytest.approx(20.0 / 9.0, rel=0.05)
    assert 0.1 < found["vs_rules"] < 0.5
    assert (found["pairs"], found["oom"], found["diverged"], found["failed"]) == (10, 0, 0, 0)


def test_without_pairs_there_are_no_numbers_but_nothing_breaks():
    found = analysis.summary([line("rules", 10.0)], "rules", ["rules"], TARGET)
    assert found["vs_best_static_disturbed"] is None
    assert found["ci_low"] is None
    assert found["pairs"] == 0
    assert found["winner"] == "rules"


def test_the_winner_is_chosen_where_all_arms_ran():
    lines = [line("rules", 12.0, seed=1), line("hold", 11.0, seed=1), line("rules", 1.0, seed=2)]
    assert analysis.winner(lines, ["rules", "hold"], TARGET) == "hold"
    assert analysis.winner([line("rules", 1.0, seed=1), line("hold", 1.0, seed=2)], ["rules", "hold"], TARGET) is None


def test_losses_stand_first():
    lines = [*paired(30.0, "hold", 2, "memory"), *paired(10.0, "hold", 2)]
    rows = analysis.comparisons(lines, "rules", ["rules", "hold"], TARGET)[1:]
    assert rows[0].startswith("hold, memory")
    assert "-" in rows[0].split()[3]


def test_agreement_of_an_arm_with_itself_has_students_half_width():
    times = [("hold", 10.0, 0), ("hold again", 11.0, 0), ("hold", 11.0, 1), ("hold again", 10.0, 1)]
    lines = [line(arm, seconds, seed=seed) for arm, seconds, seed in times]
    mean, half, pairs = analysis.agreement(lines, "hold", TARGET)
    assert mean == pytest.approx(0.0, abs=1e-9)
    assert half == pytest.approx(12.706 * math.log(1.1), rel=1e-3)
    assert pairs == 2
    assert math.isnan(analysis.agreement(lines[:2], "hold", TARGET)[1])


def test_the_picture_has_a_row_for_each_type_that_was_run(tmp_path):
    from PIL import Image

    def height(lines):
        file = tmp_path / f"{len(lines)}.png"
        analysis.draw_picture(lines, "rules", ["rules", "hold"], TARGET, file)
        with Image.open(file) as picture:
            return picture.size[1]

    one = paired(10.0, "hold")
    assert height(one) < height(one + paired(10.0, "hold", kind="memory"))


def test_memory_that_runs_out_often_in_one_run_is_one_run():
    lines = [line("rules", 10.0, seed=1, oom=5), line("rules", 10.0, seed=2), line("hold", 20.0, seed=1, oom=1)]
    assert analysis.summary(lines, "rules", ["rules", "hold"], TARGET)["oom"] == 1
    [_, rules, hold] = [text.split() for text in analysis.table(lines, ["rules", "hold"], TARGET)]
    assert (rules[7], hold[7]) == ("1", "1")  # after scenario, arm, runs, reached, seconds, loss and quality
