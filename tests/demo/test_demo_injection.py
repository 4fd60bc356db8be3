"""The demo's script of injected events: same for both runs, labelled, and felt only while it lasts."""

from __future__ import annotations

import pytest

from autotuner.demo.injection import HEAT, MEMORY_AWAY, MEMORY_LEFT, Injection
from autotuner.telemetry.scripted import slowdown

BUDGET = 100.0
USED = 200_000_000


def play(pace=1.0, used=USED, baseline=USED):
    """The states of a whole run, one a second."""
    injection = Injection(BUDGET, baseline)
    return [injection.step(1000.0 + t, float(t), 1.0, used, pace) for t in range(int(BUDGET))]


def between(states, window):
    return states[int(window[0] * BUDGET) : int(window[1] * BUDGET)]


def test_memory_falls_below_what_the_run_uses_only_in_its_window():
    states = play()
    away = between(states, MEMORY_AWAY)
    assert all(state.memory_pressure == 2 and state.memory_available_bytes == 0 for state in away)
    assert all(slowdown(state, USED) > 1.5 for state in away)
    assert all(state.memory_pressure == 0 for state in states if state not in away)


def test_a_run_that_makes_room_feels_nothing_of_it():
    small = int(USED * MEMORY_LEFT * 0.8)
    away = between(play(used=small), MEMORY_AWAY)
    assert all(slowdown(state, small) == pytest.approx(1.0) and state.memory_pressure == 0 for state in away)


def test_heat_throttles_only_in_its_window_and_less_at_a_gentler_pace():
    full, gentle = play(pace=1.0), play(pace=0.7)
    assert all(state.frequency_ratio == 1.0 for state in full[: int(HEAT[0] * BUDGET)])
    hot = [state.thermal_level for state in between(full, HEAT)]
    assert max(hot) >= 2
    assert sum(hot) > sum(state.thermal_level for state in between(gentle, HEAT))
    assert min(state.frequency_ratio for state in full) < 0.9


def test_before_the_first_run_has_shown_its_memory_none_is_injected():
    injection = Injection(BUDGET)
    state = injection.step(0.0, 1.0, 1.0, USED, 1.0)
    assert (state.memory_limit_bytes, state.memory_available_bytes, state.memory_pressure) == (None, None, None)
    injection.learn(1.0, USED)
    injection.learn(MEMORY_AWAY[0] * BUDGET + 1, 10 * USED)
    assert injection.baseline_bytes == USED


def test_what_is_injected_is_named_while_it_is():
    states = play()
    assert states[int(MEMORY_AWAY[0] * BUDGET)].note == "memory taken away"
    assert states[int(HEAT[0] * BUDGET)].note == "heat"
    assert states[0].note == ""
