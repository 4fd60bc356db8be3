"""Throttling as the run itself shows it, whatever the system says."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from controller_bench import Bench, a_declaration, make_bench

from autotuner.controller.slowdown import Slowdown, told
from autotuner.knobs import declare
from autotuner.messages import FLAG_CHECKPOINT, FLAG_FIRST_OF_SHAPE, Acknowledgement, Evaluation, Sample

COOL, THROTTLED = 0.5, 0.7
ENOUGH = 40


def train(bench: Bench, seconds: float, steps: int = ENOUGH, told_by_script: bool = True, flags: int = 0) -> None:
    """Steps of so many seconds, as a script reports them."""
    for _ in range(steps):
        bench.step += 1
        bench.now += seconds
        shown = seconds if told_by_script else math.nan
        bench.loop.feed(Sample(bench.step, bench.now, 1.0, 64 * bench.step, shown, revision=bench.revision, flags=flags))
    bench.loop.machine(replace(bench.state, time=bench.now))


def turn_to(bench: Bench, **values: float) -> None:
    """The script takes over new values of some knobs."""
    bench.revision += 1
    knobs = bench.loop.declaration.knobs
    positions = tuple(
        knob.values.index(values[knob.name]) if knob.name in values else held
        for knob, held in zip(knobs, bench.loop.positions, strict=True)
    )
    bench.loop.feed(Acknowledgement(bench.revision, bench.step, bench.now, positions=positions))


def seen(bench: Bench) -> tuple[float | None, bool, str]:
    summary = bench.loop.summary(bench.now)
    return summary.slowdown_ratio, summary.slow, told(summary.slowdown_ratio, summary.slow, bench.state.thermal_level)


def test_a_run_that_throttles_while_the_system_says_nominal_is_seen(bench: Bench) -> None:
    train(bench, COOL)
    assert seen(bench) == (1.0, False, "")
    train(bench, THROTTLED)
    ratio, slow, words = seen(bench)
    assert (ratio, slow) == (pytest.approx(1.4), True)
    assert "1.40 times as long" in words
    assert "reports no heavy heat" in words


def test_heavy_heat_without_a_slower_step_is_told_as_both(bench: Bench) -> None:
    train(bench, COOL)
    bench.machine(thermal_level=2)
    train(bench, COOL)
    assert seen(bench) == (1.0, False, "the system is hot, but steps are as fast as ever")


def test_the_guard_acts_on_the_systems_level_and_not_on_slowness_alone() -> None:
    """Slow steps may have many causes, and less load helps few of them; critical heat is acted on before steps get slow."""
    slow, hot = make_bench(), make_bench()
    for bench in (slow, hot):
        train(bench, COOL)
    train(slow, THROTTLED)
    assert seen(slow)[1]
    assert not slow.loop.decide(slow.now).changes
    hot.machine(thermal_level=3)
    train(hot, COOL)
    decision = hot.loop.decide(hot.now)
    assert not seen(hot)[1]
    assert [(change.knob, change.to_value, change.reason) for change in decision.changes] == [("pace", 0.5, "heat")]


def test_both_together_and_an_unknown_level_have_their_own_words() -> None:
    assert told(1.3, True, 2).endswith("and the system is hot")
    assert "nothing tells how hot" in told(1.3, True, None)
    assert told(None, False, 3) == told(1.3, False, 0) == told(None, False, None) == ""


def test_a_run_that_is_fast_again_is_no_longer_slow(bench: Bench) -> None:
    train(bench, COOL)
    train(bench, THROTTLED)
    train(bench, COOL)
    assert seen(bench) == (1.0, False, "")


def test_nothing_is_known_before_a_block_of_steps_nor_of_a_new_shape(bench: Bench) -> None:
    assert seen(bench)[0] is None
    train(bench, COOL)
    turn_to(bench, resolution=16)
    train(bench, THROTTLED, steps=3)
    assert seen(bench)[:2] == (None, False)
    train(bench, THROTTLED)
    assert seen(bench)[:2] == (1.0, False)  # its own best, however slow other shapes were


def test_a_shape_keeps_its_best_while_another_is_trained(bench: Bench) -> None:
    train(bench, COOL)
    turn_to(bench, micro_batch=32)
    train(bench, COOL / 2)
    turn_to(bench, micro_batch=64)
    train(bench, THROTTLED)
    assert seen(bench)[:2] == (pytest.approx(1.4), True)


def test_knobs_without_a_part_in_step_time_do_not_begin_anew(bench: Bench) -> None:
    train(bench, COOL)
    turn_to(bench, sampling_steps=4)
    train(bench, THROTTLED)
    assert seen(bench)[1]


def test_pauses_for_pace_are_no_slowdown_but_throttling_under_them_is(bench: Bench) -> None:
    train(bench, COOL)
    turn_to(bench, pace=0.5)
    train(bench, COOL / 0.5)
    assert seen(bench)[:2] == (1.0, False)
    turn_to(bench, pace=0.7)
    train(bench, THROTTLED / 0.7)  # throttled from the first step at this pace: the best at pace 1 tells
    assert seen(bench)[:2] == (pytest.approx(1.4), True)


def test_pauses_that_are_cut_short_make_no_other_pace_look_slow(bench: Bench) -> None:
    turn_to(bench, pace=0.5)
    train(bench, COOL + 0.4)  # a pause is at most 0.4 s, so that computing is more than half
    turn_to(bench, pace=1.0)
    train(bench, COOL)
    turn_to(bench, pace=0.85)
    train(bench, COOL / 0.85)
    assert seen(bench)[:2] == (1.0, False)


@pytest.mark.parametrize("flags", [FLAG_FIRST_OF_SHAPE, FLAG_CHECKPOINT])
def test_compiling_and_checkpoints_are_no_slowdown(bench: Bench, flags: int) -> None:
    for _ in range(20):
        train(bench, COOL, steps=2)
        train(bench, 9.0, steps=3, flags=flags)
    assert seen(bench)[:2] == (1.0, False)


def test_evaluation_pauses_are_no_slowdown_when_time_is_taken_between_reports(bench: Bench) -> None:
    for _ in range(30):
        train(bench, COOL, steps=1, told_by_script=False)
        bench.now += 8.0
        bench.loop.feed(Evaluation(bench.step, bench.now, 0.5, seconds=8.0))
        train(bench, COOL, steps=1, told_by_script=False)
    assert seen(bench)[1] is False
    assert seen(bench)[0] == pytest.approx(1.0)


def test_noise_alone_is_never_slow_and_throttling_shows_through_it() -> None:
    for deviation in (0.02, 0.1, 0.3):
        for seed in range(10):
            draw, slowdown, steps = random.Random(seed), Slowdown(), 1500
            for _ in range(steps):
                slowdown.step("vector", 1.0, 0.1 * math.exp(draw.gauss(0.0, deviation)))
                assert not slowdown.slow, (deviation, seed)
            for _ in range(200):
                slowdown.step("vector", 1.0, 0.25 * math.exp(draw.gauss(0.0, deviation)))
            assert slowdown.slow, (deviation, seed)


def test_single_long_steps_are_no_slowdown(bench: Bench) -> None:
    train(bench, COOL)
    for _ in range(20):
        train(bench, COOL, steps=4)
        train(bench, 60.0, steps=1)
        assert not seen(bench)[1]


def test_unknown_durations_are_left_out() -> None:
    slowdown = Slowdown()
    for seconds in (math.nan, 0.0, -1.0, math.inf) * 20:
        slowdown.step((), 1.0, seconds)
    assert slowdown.ratio is None
    assert not slowdown.slow


def test_what_is_remembered_is_bounded() -> None:
    slowdown = Slowdown()
    for vector in range(1000):
        for _ in range(12):
            slowdown.step(vector, 1.0, 1.0)
    assert len(slowdown._best) <= 64


def test_a_script_without_knobs_is_watched_too() -> None:
    bench = make_bench(declaration=a_declaration((declare("lr_scale", 1.0, [0.5, 1.0]),)))
    train(bench, COOL)
    train(bench, THROTTLED)
    assert seen(bench)[1]
