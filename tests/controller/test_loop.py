"""The loop's own bookkeeping: intervals, effects, the memory model, the summary."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from controller_bench import MEGABYTE, a_declaration, make_bench

from autotuner.controller.actions import action_index
from autotuner.controller.loop import interval_for
from autotuner.controller.memory import LINE_MARGIN, MemoryModel
from autotuner.controller.observation import FEATURES
from autotuner.controller.policy import Choice
from autotuner.controller.reasons import REASONS
from autotuner.messages import Evaluation, Sample


def feature(decision, name):
    return decision.observation[FEATURES.index(name)]


@pytest.mark.parametrize(("budget", "seconds"), [(None, 15.0), (60.0, 2.0), (150.0, 2.5), (3600.0, 60.0), (8 * 3600.0, 60.0)])
def test_decisions_come_a_sixtieth_of_the_budget_apart_within_bounds(budget, seconds):
    assert interval_for(a_declaration(budget_seconds=budget)) == seconds


def test_nothing_is_decided_before_the_first_sample(bench):
    assert not bench.loop.due(bench.now)
    bench.pass_interval()
    assert bench.loop.due(bench.now)


def test_the_effect_of_a_change_is_told_once_from_a_whole_interval_after_it(bench):
    bench.turn()
    decision = bench.loop.act(Choice(action_index("micro_batch", -1), "policy"), bench.now)
    bench.acknowledge(decision)
    assert bench.loop.effect(bench.now) is None
    bench.used = 60 * MEGABYTE
    bench.turn()
    bench.turn()
    effect = bench.loop.effect(bench.now)
    assert effect is not None
    assert (effect.knob, effect.peak_bytes_before, effect.peak_bytes_after) == ("micro_batch", 100e6, 60e6)
    assert effect.images_per_second_after == pytest.approx(640.0)
    assert bench.loop.effect(bench.now) is None


def test_an_ask_that_was_never_delivered_can_be_abandoned(bench):
    bench.pass_interval()
    bench.loop.act(Choice(action_index("pace", -1), "policy"), bench.now)
    bench.loop.abandon()
    assert not bench.loop.pending
    assert bench.loop.asked == bench.loop.positions


def test_a_person_may_set_what_the_policy_may_not_but_never_leave_the_shape_budget():
    bench = make_bench(declaration=a_declaration(max_shapes=1))
    bench.pass_interval()
    bench.machine(thermal_level=2)
    assert bench.loop.force("pace", 0, "pinned", bench.now).what == "pace 1 to 0.5"
    bench.loop.abandon()
    refused = bench.loop.force("resolution", 0, "pinned", bench.now)
    assert (refused.changes, refused.vetoed) == ((), "shape_budget")


def test_what_is_unknown_is_marked_so_and_zero():
    bench = make_bench(declaration=a_declaration(budget_seconds=None))
    bench.machine(memory_available_bytes=None, memory_pressure=None, thermal_level=None)
    decision = bench.turn()
    for name in ("budget_known", "held_out_known", "memory_known", "pressure_known", "heat_known", "quality_known"):
        assert feature(decision, name) == 0.0
    assert feature(decision, "memory_used") == feature(decision, "heat") == 0.0


def test_held_out_losses_show_as_level_and_slope(bench):
    for loss in (1.0, 0.5):
        bench.loop.feed(Evaluation(bench.step, bench.now, loss))
        decision = bench.turn()
    assert feature(decision, "held_out_level") == pytest.approx(math.log(0.5) / 2)
    assert feature(decision, "held_out_slope") < 0
    assert bench.loop.summary(bench.now).held_out_loss == 0.5


def test_throttling_shows_as_a_rate_below_the_best_of_the_same_shape(bench):
    bench.turn()
    decision = bench.turn()
    assert feature(decision, "rate_against_shape") == pytest.approx(1.0)
    for interval in bench.loop.window.intervals:
        assert interval.images_per_second == pytest.approx(640.0)
    bench.loop.window.best_rate = {key: 2 * rate for key, rate in bench.loop.window.best_rate.items()}
    assert feature(bench.turn(), "rate_against_shape") == pytest.approx(0.5)


def test_one_shape_seen_is_assumed_to_grow_in_full():
    model = MemoryModel()
    assert model.predict(100, False) is None
    model.observe(100, False, 1000)
    assert model.predict(200, False) == 2000
    assert 500 < model.predict(50, False) < 1000
    assert model.predict(100, True) == pytest.approx(1500)


def test_two_shapes_seen_give_base_and_slope():
    model = MemoryModel()
    for pixels in (100, 200):
        model.observe(pixels, False, 500 + 3 * pixels)
    assert model.predict(400, False) == pytest.approx((500 + 1200) * LINE_MARGIN)
    assert model.predict(200, False) == 1100


def test_every_reason_that_the_controller_names_is_in_the_table():
    import ast

    import autotuner.controller as package

    named = set()
    for path in Path(package.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Choice" and len(node.args) > 1:
                named.add(getattr(node.args[1], "value", ""))
            if isinstance(node, ast.Return) and isinstance(node.value, ast.Constant) and path.name == "guard.py":
                named.add(node.value.value)
    named = {name for name in named if isinstance(name, str) and name}
    assert {"policy", "hold", "pinned", "pending"} <= named
    assert named <= set(REASONS)


def test_a_script_that_does_not_time_its_steps_is_timed_by_its_reports(bench):
    for step in range(1, 41):
        bench.loop.feed(Sample(step, bench.now + 0.05 * step, 1.0, 64 * step))
    bench.loop.decide(bench.now + bench.loop.interval_seconds)
    interval = bench.loop.window.intervals[-1]
    assert interval.step_seconds == pytest.approx(0.05)
    assert interval.images_per_second == pytest.approx(64 / 0.05)


def test_a_gap_between_reports_is_not_taken_for_a_slow_step(bench):
    for step in (1, 9, 17):
        bench.loop.feed(Sample(step, bench.now + 0.05 * step, 1.0, 64 * step))
    bench.loop.decide(bench.now + bench.loop.interval_seconds)
    assert math.isnan(bench.loop.window.intervals[-1].step_seconds)


@pytest.mark.parametrize(
    ("seconds", "steps", "used"),
    [(None, None, None), (120.0, None, 0.0125), (None, 40, 0.1), (120.0, 40, 0.1), (120.0, 4000, 0.0125)],
)
def test_the_budget_ends_by_time_or_steps_whichever_comes_first(seconds, steps, used):
    bench = make_bench(declaration=a_declaration(budget_seconds=seconds, budget_steps=steps))
    bench.loop.interval_seconds = 2.0
    bench.pass_interval(samples=4)
    assert bench.loop.window.budget_used(bench.now) == (None if used is None else pytest.approx(used))
