"""The heat model against the published facts that its profiles were fitted to, and its own laws."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest

from autotuner.errors import ConfigurationError
from autotuner.telemetry.heat import PROFILES, HeatModel, HeatState


def seconds_of_load(model: HeatModel, seconds: int, duty: float = 1.0) -> Iterator[tuple[int, HeatState]]:
    for second in range(1, seconds + 1):
        yield second, model.step(duty, 1.0)


def first_second(model: HeatModel, level: int) -> int:
    return next(second for second, state in seconds_of_load(model, 3600) if state.level >= level)


def after(profile: str, seconds: float, duty: float = 1.0) -> HeatState:
    return HeatModel(profile).step(duty, seconds)


def test_a_fanless_air_is_moderate_after_48_and_heavy_after_69_seconds() -> None:
    assert first_second(HeatModel("air_fanless"), 1) == pytest.approx(48, abs=4)
    assert first_second(HeatModel("air_fanless"), 2) == pytest.approx(69, abs=4)


def test_a_fanless_air_keeps_three_quarters_of_its_speed_after_twenty_minutes() -> None:
    state = after("air_fanless", 1200)
    assert 1 / state.step_ratio == pytest.approx(0.785, abs=0.015)
    assert 41 <= state.case_celsius <= 45


def test_a_closed_lid_caps_to_half_after_ten_minutes() -> None:
    model = HeatModel("air_clamshell")
    assert 1 / model.step(1.0, 540).step_ratio > 0.7
    state = model.step(1.0, 300)
    assert 1 / state.step_ratio == pytest.approx(0.52, abs=0.03)
    assert state.watts <= 5.01
    assert state.level == 2


def test_a_14_inch_max_falls_from_72_to_about_44_watts() -> None:
    model = HeatModel("mbp14_max")
    assert model.step(1.0, 10).watts == pytest.approx(72)
    assert model.step(1.0, 110).watts == pytest.approx(54, abs=2)
    assert model.step(1.0, 1080).watts == pytest.approx(44, abs=1.5)


def test_a_capped_machine_slows_down_while_its_level_stays_nominal() -> None:
    model = HeatModel("mbp14_capped")
    assert model.step(1.0, 1.0).watts == pytest.approx(96)
    levels = {state.level for _, state in seconds_of_load(model, 1200)}
    assert levels == {0}
    assert model.state.watts == pytest.approx(42, abs=0.1)
    assert model.state.step_ratio > 1.3


def test_a_burst_comes_back_after_a_rest_and_not_before() -> None:
    model = HeatModel("mbp14_capped")
    model.step(1.0, 60.0)
    model.step(0.0, 5.0)
    assert model.step(1.0, 1.0).watts == pytest.approx(42, abs=0.1)
    model.step(0.0, 25.0)
    assert model.step(1.0, 1.0).watts == pytest.approx(96)


def test_an_idle_machine_draws_its_idle_power_under_every_cap() -> None:
    for profile in PROFILES.values():
        state = after(profile.name, 100, duty=0.0)
        assert state.watts == pytest.approx(profile.idle_watts)
        assert (state.frequency_ratio, state.level, state.step_ratio) == (1.0, 0, 1.0)


def test_a_closed_lid_recovers_once_the_case_has_cooled() -> None:
    model = HeatModel("air_clamshell")
    assert model.step(1.0, 900).frequency_ratio < 0.6
    model.step(0.0, 1200)
    assert model.step(1.0, 1.0).frequency_ratio > 0.95


def test_one_fan_holds_a_gpu_alone_but_not_gpu_and_processor() -> None:
    assert after("mbp13_gpu", 1200).frequency_ratio == 1.0
    assert after("mbp13_gpu", 1200).die_celsius == pytest.approx(71, abs=1)
    assert 25 <= after("mbp13_fan", 600).watts <= 30


@pytest.mark.parametrize("name", ["studio_ultra", "mini_m4pro", "mbp16_max"])
def test_a_well_cooled_machine_never_throttles(name: str) -> None:
    states = [(state.frequency_ratio, state.level) for _, state in seconds_of_load(HeatModel(name), 3600)]
    assert min(ratio for ratio, _ in states) == 1.0
    assert max(level for _, level in states) < 2


def test_the_limit_cycle_drops_hard_cools_and_ramps_again() -> None:
    model = HeatModel("limit_cycle")
    trace = [(state.frequency_ratio, state.die_celsius) for _, state in seconds_of_load(model, 900)]
    drops = sum(1 for before, now in itertools.pairwise(trace) if before[0] > 0.9 and now[0] < 0.25)
    assert 8 <= drops <= 16
    assert max(die for _, die in trace[60:]) == pytest.approx(108, abs=1.5)
    assert min(die for _, die in trace[150:]) < 84


def test_less_duty_keeps_a_fanless_air_from_throttling() -> None:
    state = after("air_fanless", 1800, duty=0.4)
    assert state.frequency_ratio == 1.0
    assert state.level < 2


def test_pausing_breaks_the_limit_cycle_and_gains_work() -> None:
    def work(duty: float) -> float:
        return sum(duty / state.step_ratio for _, state in seconds_of_load(HeatModel("limit_cycle"), 1200, duty))

    assert work(0.8) > 1.05 * work(1.0)


def test_cooling_takes_most_of_a_minute_for_the_die_and_much_longer_for_the_case() -> None:
    model = HeatModel("air_fanless")
    model.step(1.0, 1200)
    case = model.state.case_celsius
    seconds = next(second for second, state in seconds_of_load(model, 600, duty=0.0) if state.die_celsius < 75)
    assert 30 <= seconds <= 60
    assert model.state.case_celsius > case - 2


def test_the_level_rises_at_once_and_falls_after_a_while() -> None:
    model = HeatModel("mbp14_max")
    model.step(1.0, 300)
    assert model.state.level == 2
    assert model.step(0.0, 5.0).level == 2
    assert model.step(0.0, 120.0).level == 0


@pytest.mark.parametrize("name", list(PROFILES))
def test_one_long_step_equals_many_short_ones(name: str) -> None:
    coarse, fine = HeatModel(name), HeatModel(name)
    coarse.step(0.9, 80)
    for _ in range(800):
        fine.step(0.9, 0.1)
    assert coarse.state.die_celsius == pytest.approx(fine.state.die_celsius, abs=0.3)
    assert coarse.state.frequency_ratio == pytest.approx(fine.state.frequency_ratio, abs=0.015)
    assert coarse.state.case_celsius == pytest.approx(fine.state.case_celsius, abs=0.1)


def test_a_compressed_model_is_the_same_model_in_less_time() -> None:
    plain, compressed = HeatModel("air_fanless"), HeatModel("air_fanless", time_scale=20.0)
    plain.step(1.0, 600)
    compressed.step(1.0, 30)
    assert compressed.state.die_celsius == pytest.approx(plain.state.die_celsius)
    assert compressed.state.frequency_ratio == pytest.approx(plain.state.frequency_ratio)


def test_heat_flows_in_as_much_as_out_once_it_is_settled() -> None:
    model = HeatModel("mini_m4pro")
    state = model.step(1.0, 7200)
    fan = 1 + 3 * state.fan_ratio
    assert state.watts == pytest.approx((state.case_celsius - 24.0) * fan / 1.2, rel=0.01)


def test_a_warmer_room_other_load_and_low_power_mode_act_at_once() -> None:
    cool, warm = HeatModel("air_fanless"), HeatModel("air_fanless", ambient_celsius=35.0)
    assert warm.step(1.0, 1200).frequency_ratio < cool.step(1.0, 1200).frequency_ratio
    loaded, saver = HeatModel("mbp13_gpu"), HeatModel("mbp13_gpu")
    loaded.external_watts = 20.0
    saver.frequency_cap = 0.6
    assert loaded.step(1.0, 600).level > 0
    assert saver.step(1.0, 600).frequency_ratio == 0.6
    assert saver.state.level == 0


def test_a_heat_soaked_start_throttles_sooner() -> None:
    soaked = first_second(HeatModel("air_fanless", case_celsius=40.0), 2)
    assert soaked < first_second(HeatModel("air_fanless"), 2)


@pytest.mark.parametrize(("duty", "seconds"), [(-1.0, 5.0), (7.0, 5.0), (0.5, 0.0), (0.5, -3.0), (1.0, 1e5)])
def test_odd_arguments_leave_a_possible_state(duty: float, seconds: float) -> None:
    state = HeatModel("air_fanless").step(duty, seconds)
    assert 20 < state.die_celsius < 115
    assert 0.2 <= state.frequency_ratio <= 1.0
    assert math.isfinite(state.step_ratio)


def test_no_time_changes_no_heat() -> None:
    model = HeatModel("air_fanless")
    before = model.state.die_celsius
    assert model.step(1.0, 0.0).die_celsius == before


def test_an_unknown_profile_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"'air_vacuum'; known: air_fanless"):
        HeatModel("air_vacuum")


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan])
def test_a_time_scale_that_is_not_positive_is_refused(scale: float) -> None:
    with pytest.raises(ConfigurationError, match="time_scale"):
        HeatModel("air_fanless", time_scale=scale)
