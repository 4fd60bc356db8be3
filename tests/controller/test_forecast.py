"""The forecasting policy: what it fits to a run's window, and the moves that it makes of it."""

from __future__ import annotations

import pytest
from controller_bench import MEGABYTE
from modelled_bench import modelled

from autotuner.controller.actions import ACTION_COUNT, HOLD
from autotuner.controller.forecast import Forecast, Move
from autotuner.controller.forecast_models import Estimate, exceeds, image_seconds, learning_slope, memory_trend, preview_share
from autotuner.controller.hold import Hold
from autotuner.controller.observation import FEATURES
from autotuner.controller.window import RunWindow
from autotuner.knobs import declare

FULL = declare("resolution", 28, [16, 20, 28])
PACED = (declare("micro_batch", 64, [8, 16, 32, 64]), declare("pace", 1.0, [0.5, 0.7, 0.85, 1.0]))


def test_a_shape_that_was_seen_is_told_as_it_was_measured():
    bench = modelled(Hold())
    bench.all_turns(4)
    seen = image_seconds(bench.loop.window, (28.0, 64.0), 0)
    assert seen is not None
    assert seen.mean == pytest.approx(bench.step_seconds() / 64)


def test_one_shape_gives_a_prior_and_two_give_the_cost_law():
    """Two micro-batches tell a pass from a pixel: the third is predicted exactly, and surer than by the prior."""
    bench = modelled(Hold())
    bench.all_turns(3)
    window = bench.loop.window
    guess = image_seconds(window, (28.0, 16.0), 0)
    bench.acknowledge(bench.loop.force("micro_batch", 2, "pinned", bench.now))
    bench.all_turns(3)
    fitted = image_seconds(window, (28.0, 16.0), 0)
    assert guess is not None
    assert fitted is not None
    assert fitted.mean == pytest.approx(bench.pass_seconds / 16 + 28**2 * bench.pixel_seconds)
    near = image_seconds(window, (28.0, 32.0), 0)
    assert near is not None
    assert fitted.spread / abs(fitted.mean - near.mean) < 0.45


def test_before_anything_was_measured_nothing_is_predicted():
    window = RunWindow(modelled(Hold()).loop.declaration, 2.0)
    assert image_seconds(window, (28.0, 64.0), 0) is None
    assert learning_slope(window) is None
    assert preview_share(window, 0.0) == 0.0


def test_a_power_law_is_found_in_the_evaluations():
    bench = modelled(Hold())
    bench.all_turns(30)
    assert learning_slope(bench.loop.window) == pytest.approx(0.4, rel=1e-6)


def test_a_leak_is_a_trend_and_a_change_of_ours_is_none():
    bench = modelled(Hold())
    for _ in range(12):
        bench.turn()
        bench.image_bytes *= 1.02
    assert memory_trend(bench.loop.window) > 0.0
    bench.acknowledge(bench.loop.force("micro_batch", 2, "pinned", bench.now))
    bench.turn()
    assert memory_trend(bench.loop.window) == 0.0


def test_the_probability_of_exceeding_a_limit_is_a_half_at_the_limit():
    assert exceeds(Estimate(0.95, 0.05), 0.95) == pytest.approx(0.5)
    assert exceeds(Estimate(0.5, 0.05), 0.95) < 1e-6
    assert exceeds(None, 0.95) == 0.0


@pytest.mark.parametrize(
    ("gain", "spread", "pays"), [(0.06, 0.2, True), (0.03, 0.01, True), (0.03, 0.02, False), (0.001, 0.0, False)]
)
def test_a_move_must_beat_holding_by_a_twentieth_or_by_twice_its_spread(gain, spread, pays):
    assert Move("pace", 1, gain, spread, "cooled", "").pays is pays


def test_a_micro_batch_at_the_bottom_grows_within_a_few_decisions():
    bench = modelled(Forecast(), (FULL, declare("micro_batch", 8, [8, 16, 32, 64])))
    assert bench.turns_until("micro_batch", 64, most=10) <= 10


def test_a_micro_batch_stays_where_the_memory_would_not_hold_more():
    bench = modelled(Forecast(), (FULL, declare("micro_batch", 8, [8, 16, 32, 64])), image_bytes=30.0 * MEGABYTE)
    bench.machine(memory_available_bytes=60 * MEGABYTE, memory_pressure=0)
    bench.all_turns(12)
    assert bench.value("micro_batch") == 8


@pytest.mark.parametrize("start", [16, 28])
def test_a_run_begins_coarse_and_then_stays_at_full_resolution(start):
    bench = modelled(Forecast(), (declare("resolution", start, [16, 20, 28]),))
    values = []
    for _ in range(45):
        bench.turn()
        values.append(bench.value("resolution"))
    assert min(values[:10]) < 28
    assert set(values[15:]) == {28}


def test_a_learning_rate_far_off_comes_back():
    bench = modelled(Forecast(), (FULL, declare("lr_scale", 0.25, [0.25, 0.5, 1.0, 2.0])))
    assert bench.turns_until("lr_scale", 1.0, most=14) <= 14
    bench.all_turns(20)
    assert bench.value("lr_scale") == 1.0


@pytest.mark.parametrize(("step_seconds", "steps"), [(0.03, 4), (0.0, 16)])
def test_previews_are_thinned_where_they_cost_time_and_left_alone_where_they_do_not(step_seconds, steps):
    bench = modelled(Forecast(), (FULL, declare("sampling_steps", 16, [4, 8, 16])), preview_step_seconds=step_seconds)
    bench.all_turns(40)
    assert bench.value("sampling_steps") == steps


def test_short_memory_is_answered_first():
    bench = modelled(Forecast(), PACED)
    bench.all_turns(3)
    bench.machine(memory_available_bytes=12 * MEGABYTE, memory_total_bytes=260 * MEGABYTE)
    decision = bench.turn()
    assert decision.what == "micro_batch 64 to 32"
    assert decision.reason == "memory_high"
    assert "of the memory used" in decision.why


def test_a_student_begins_late_and_once_and_the_last_stage_is_reached():
    bench = modelled(Forecast())
    whats = [(i, change.what) for i, decision in enumerate(bench.all_turns(60)) for change in decision.changes]
    begins = {what: i for i, what in whats if what.startswith("distill")}
    assert 30 <= begins["distill 0 to 1"] <= 54
    assert bench.value("distill") == 2


def test_no_student_begins_before_the_target_while_there_is_time():
    """The same run with a target it never reaches begins its student at the latest share of the budget."""
    bench = modelled(Forecast())
    object.__setattr__(bench.loop.declaration, "target", 1e-9)
    whats = [(i, change.what) for i, decision in enumerate(bench.all_turns(60)) for change in decision.changes]
    begins = {what: i for i, what in whats if what.startswith("distill")}
    assert begins["distill 0 to 1"] >= 44


def cycle(bench, turns, brake):
    """A governor that halves the clock every other interval; ``brake`` is how much a full pace costs it. Returns the paces."""
    paces = []
    for i in range(turns):
        bench.machine(thermal_level=2 * (i % 2))
        full = bench.value("pace") == 1.0
        bench.speed = (brake if full else 1.0) * (0.5 if i % 2 else 1.0)
        paces += [change.to_value for change in bench.turn().changes if change.knob == "pace"]
    return paces


def test_steady_heat_is_not_paced():
    bench = modelled(Forecast())
    bench.machine(thermal_level=2)
    bench.speed = 0.6
    assert not [change for decision in bench.all_turns(25) for change in decision.changes if change.knob == "pace"]


def test_a_lower_pace_is_tried_in_a_cycle_and_taken_back_where_it_brings_nothing():
    assert cycle(modelled(Forecast(), PACED), 20, brake=1.0) == [0.85, 1.0]


def test_a_lower_pace_that_was_measured_better_stays():
    paces = cycle(modelled(Forecast(), PACED), 20, brake=0.5)
    assert paces[0] == 0.85
    assert 1.0 not in paces


def test_every_change_explains_itself_with_numbers():
    bench = modelled(Forecast(), (FULL, declare("micro_batch", 8, [8, 16, 32, 64])))
    why = [decision.why for decision in bench.all_turns(6) if decision.changes]
    assert why
    assert all("worth +" in sentence and "±" in sentence for sentence in why)


def test_an_empty_window_is_held():
    window = RunWindow(modelled(Hold()).loop.declaration, 2.0)
    assert Forecast().choose((0.0,) * len(FEATURES), (True,) * ACTION_COUNT, window).action == HOLD
