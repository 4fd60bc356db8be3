"""Injected heat and memory: the file between driver, daemon and trainer."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotuner.telemetry.scripted import MAX_AGE_SECONDS, InjectedState, Scripted, parse_injected, slowdown
from autotuner.telemetry.sensor import Unavailable

GIB = 2**30


def test_a_written_state_is_read_back(tmp_path: Path) -> None:
    state = InjectedState(5.0, 2, 98.5, 0.7, 4 * GIB, 3 * GIB, 1, "fanless, minute 3")
    state.write(tmp_path / "state.json")
    assert InjectedState.read(tmp_path / "state.json") == state


def test_writing_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    for second in range(3):
        InjectedState(time=float(second), thermal_level=second).write(path)
    assert InjectedState.read(path).thermal_level == 2
    assert list(tmp_path.iterdir()) == [path]


def test_every_scripted_reading_says_that_it_is_injected(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    InjectedState(time=100.0, thermal_level=2, memory_limit_bytes=GIB, memory_pressure=2).write(path)
    readings = Scripted(path).read(101.0)
    assert {reading.quantity: reading.value for reading in readings} == {
        "memory_total_bytes": GIB,
        "memory_pressure": 2,
        "thermal_level": 2,
    }
    assert {reading.source for reading in readings} == {"injected"}


@pytest.mark.parametrize("now", [100.0 + MAX_AGE_SECONDS + 0.1, 100.0 - MAX_AGE_SECONDS - 0.1])
def test_readings_of_a_dead_driver_or_another_boot_are_not_believed(tmp_path: Path, now: float) -> None:
    path = tmp_path / "state.json"
    InjectedState(time=100.0, thermal_level=2).write(path)
    with pytest.raises(Unavailable, match="old; at most 10 s"):
        Scripted(path).read(now)


def test_readings_are_believed_up_to_their_age(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    InjectedState(time=100.0, thermal_level=2).write(path)
    assert Scripted(path).read(100.0 + MAX_AGE_SECONDS)


def test_a_state_that_sets_nothing_gives_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    InjectedState(time=100.0).write(path)
    with pytest.raises(Unavailable, match="set nothing"):
        Scripted(path).read(100.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"time": null}',
        '{"time": "now"}',
        '{"time": true}',
        '{"time": NaN}',
        '{"time": 1, "surprise": 1}',
        '{"time": 1, "thermal_level": 5}',
        '{"time": 1, "thermal_level": 1.5}',
        '{"time": 1, "frequency_ratio": 0}',
        '{"time": 1, "frequency_ratio": null}',
        '{"time": 1, "memory_limit_bytes": 0}',
        '{"time": 1, "memory_pressure": -1}',
        '{"time": 1, "celsius": Infinity}',
        '{"time": 1, "note": 3}',
    ],
)
def test_a_corrupt_file_is_unavailable(tmp_path: Path, text: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(text)
    with pytest.raises(Unavailable):
        InjectedState.read(path)


def test_a_wrong_value_is_named_with_what_is_allowed() -> None:
    with pytest.raises(Unavailable, match=r"state\.json: thermal_level = 9; allowed is 0 to 4"):
        parse_injected('{"time": 1, "thermal_level": 9}', "state.json")


def test_bytes_that_are_no_text_and_a_directory_are_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(b"\xff\xfe\x00")
    for origin in (path, tmp_path):
        with pytest.raises(Unavailable):
            InjectedState.read(origin)


_WHOLE_STATE = json.dumps({"time": 12.5, "thermal_level": 2, "frequency_ratio": 0.5, "memory_limit_bytes": GIB})


@given(st.integers(0, len(_WHOLE_STATE) - 1))
def test_a_torn_file_is_never_half_believed(length: int) -> None:
    with pytest.raises(Unavailable):
        parse_injected(_WHOLE_STATE[:length], "torn")


@given(st.text())
def test_any_text_is_a_state_or_unavailable(text: str) -> None:
    with contextlib.suppress(Unavailable):
        assert isinstance(parse_injected(text, "fuzz"), InjectedState)


def test_a_cool_machine_with_memory_is_not_slowed() -> None:
    assert slowdown(InjectedState(time=0.0)) == pytest.approx(1.0)
    assert slowdown(InjectedState(time=0.0, memory_limit_bytes=GIB), used_bytes=GIB) == pytest.approx(1.0)


def test_heat_stretches_the_share_of_a_step_that_is_bound_by_the_clock() -> None:
    assert slowdown(InjectedState(time=0.0, frequency_ratio=0.5)) == pytest.approx(0.1 + 0.9 / 0.5)


@pytest.mark.parametrize(("used", "factor"), [(1.1, 1.6), (1.25, 2.5), (1.5, 4.0), (9.0, 4.0)])
def test_memory_above_the_limit_costs_six_times_the_excess_at_most_fourfold(used: float, factor: float) -> None:
    state = InjectedState(time=0.0, memory_limit_bytes=GIB)
    assert slowdown(state, used * GIB) == pytest.approx(factor)


def test_heat_and_memory_multiply() -> None:
    state = InjectedState(time=0.0, frequency_ratio=0.5, memory_limit_bytes=GIB)
    assert slowdown(state, 1.25 * GIB) == pytest.approx(1.9 * 2.5)


def test_a_trainer_pays_for_the_standard_library_only() -> None:
    code = (
        "import autotuner.telemetry.scripted, autotuner.telemetry.heat, sys; assert not {'numpy', 'psutil'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=Path(__file__).parents[2], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
