"""The registry: who is believed, who falls back on whom, and what a broken sensor costs."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autotuner.messages import MachineState
from autotuner.telemetry.host import Host
from autotuner.telemetry.registry import TIGHTEST, Chain, Registry
from autotuner.telemetry.scripted import InjectedState
from autotuner.telemetry.sensor import QUANTITIES, Absent, Reading, Unavailable
from autotuner.telemetry.slot import FIRST_RETRY_SECONDS, FRESH_SECONDS, LAST_RETRY_SECONDS, PATIENCE_SECONDS, Row
from tests.suites.fake_machine import Commands, FakeDarwin, darwin_host, linux_tree
from tests.suites.sensor_suite import empty_host

GIB = 2**30


class Puppet:
    """A sensor that answers what a test put into it, and counts."""

    def __init__(self, name: str, **values: float) -> None:
        self.name = name
        self.source = f"{name} source"
        self.values = values
        self.failure: Exception | None = None
        self.asked: list[float] = []

    def read(self, now: float) -> tuple[Reading, ...]:
        self.asked.append(now)
        if self.failure is not None:
            raise self.failure
        return tuple(Reading(quantity, value, self.source) for quantity, value in self.values.items())


def registry(*chains: Chain, injected: Path | None = None, clock: Callable[[], float] = lambda: 0.0) -> Registry:
    return Registry(chains=chains, injected=injected, clock=clock)


def heat(*sensors: Puppet) -> Chain:
    return Chain(("thermal_level",), tuple(Row(sensor) for sensor in sensors))


def memory(*sensors: Puppet) -> Chain:
    return Chain(("memory_total_bytes", "memory_available_bytes"), tuple(Row(sensor) for sensor in sensors))


# Fallback


def test_the_first_healthy_sensor_is_believed_and_the_next_is_not_asked() -> None:
    first, second = Puppet("first", thermal_level=1), Puppet("second", thermal_level=4)
    assert registry(heat(first, second)).sample(0.0).thermal_level == 1
    assert second.asked == []


def test_a_failing_sensor_falls_back_and_says_why() -> None:
    first, second = Puppet("first"), Puppet("second", thermal_level=2)
    first.failure = Unavailable("the key is gone")
    machine = registry(heat(first, second))
    assert machine.sample(0.0).thermal_level == 2
    assert [(status.name, status.up, status.reason) for status in machine.statuses(0.0)] == [
        ("first", False, "the key is gone"),
        ("second", True, ""),
    ]


def test_a_fallback_fills_only_what_is_missing() -> None:
    first = Puppet("first", memory_available_bytes=3 * GIB)
    second = Puppet("second", memory_total_bytes=8 * GIB, memory_available_bytes=7 * GIB)
    state = registry(memory(first, second)).sample(0.0)
    assert (state.memory_total_bytes, state.memory_available_bytes) == (8 * GIB, 3 * GIB)


def test_with_no_sensor_healthy_everything_is_missing_and_nothing_is_invented() -> None:
    broken = Puppet("broken")
    broken.failure = Unavailable("no such thing")
    assert registry(heat(broken), memory(broken)).sample(5.0) == MachineState(time=5.0)


# Merging


def test_the_tighter_of_two_memory_limits_counts_whichever_says_it() -> None:
    host = Puppet("host", memory_total_bytes=64 * GIB, memory_available_bytes=2 * GIB)
    group = Puppet("group", memory_total_bytes=8 * GIB, memory_available_bytes=5 * GIB)
    state = registry(memory(host), memory(group)).sample(0.0)
    assert (state.memory_total_bytes, state.memory_available_bytes) == (8 * GIB, 2 * GIB)


def test_the_worse_of_two_heats_counts_and_is_named() -> None:
    machine = registry(heat(Puppet("zones", thermal_level=0)), heat(Puppet("counters", thermal_level=2)))
    assert machine.sample(0.0).thermal_level == 2
    assert machine.readings["thermal_level"].source == "counters source"


def test_every_quantity_has_a_rule_for_merging() -> None:
    assert set(TIGHTEST) == {row.name for row in QUANTITIES}


def test_a_quantity_that_a_chain_does_not_ask_for_is_left_out() -> None:
    assert registry(heat(Puppet("both", thermal_level=1, celsius=90.0))).sample(0.0).celsius is None


# Faults


@pytest.mark.parametrize(
    "failure", [ValueError("bad"), ZeroDivisionError(), RuntimeError("(ipc/mig)"), KeyError("x"), OSError(5, "io")]
)
def test_a_raising_sensor_costs_nobody_else(failure: Exception) -> None:
    broken, healthy = Puppet("broken"), Puppet("healthy", memory_available_bytes=GIB)
    broken.failure = failure
    machine = registry(heat(broken), memory(healthy))
    assert machine.sample(0.0).memory_available_bytes == GIB
    status = machine.statuses(0.0)[0]
    assert not status.up
    assert type(failure).__name__ in status.reason


@pytest.mark.parametrize("value", [math.nan, math.inf, -3.0, 17.0])
def test_an_impossible_value_is_a_failure_even_from_a_careless_sensor(value: float) -> None:
    machine = registry(heat(Puppet("careless", thermal_level=value), Puppet("careful", thermal_level=1)))
    assert machine.sample(0.0).thermal_level == 1
    assert "careless source says thermal_level" in machine.statuses(0.0)[0].reason


def test_an_unknown_quantity_is_a_failure_and_not_a_crash() -> None:
    machine = registry(heat(Puppet("odd", vibration=3.0)))
    assert machine.sample(0.0).thermal_level is None
    assert "vibration" in machine.statuses(0.0)[0].reason


def test_a_failed_sensor_is_retried_with_growing_pauses() -> None:
    sensor = Puppet("sensor")
    sensor.failure = Unavailable("not now")
    machine = registry(heat(sensor))
    for second in range(200):
        machine.sample(float(second))
    pauses = [after - before for before, after in zip(sensor.asked, sensor.asked[1:], strict=False)]
    assert pauses == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert (pauses[0], pauses[-1]) == (FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS)


def test_a_recovered_sensor_is_believed_again_and_its_pauses_start_anew() -> None:
    sensor = Puppet("sensor", thermal_level=1)
    sensor.failure = Unavailable("not now")
    machine = registry(heat(sensor))
    for second in (0.0, 2.0):
        machine.sample(second)
    sensor.failure = None
    assert machine.sample(5.0).thermal_level is None
    assert machine.sample(6.0).thermal_level == 1
    sensor.failure = Unavailable("again")
    machine.sample(7.0)
    machine.sample(9.0)
    assert sensor.asked == [0.0, 2.0, 6.0, 7.0, 9.0]


def test_an_old_value_is_not_served_once_its_sensor_fails() -> None:
    sensor = Puppet("sensor", thermal_level=3)
    machine = registry(heat(sensor))
    assert machine.sample(0.0).thermal_level == 3
    sensor.failure = Unavailable("gone")
    assert machine.sample(1.0).thermal_level is None


# A sensor that hangs


class Hanging(Puppet):
    """Answers only when a test lets it."""

    def __init__(self, name: str, **values: float) -> None:
        super().__init__(name, **values)
        self.let_go = threading.Event()

    def read(self, now: float) -> tuple[Reading, ...]:
        self.asked.append(now)
        assert self.let_go.wait(60.0)
        return tuple(Reading(quantity, value, self.source) for quantity, value in self.values.items())

    def answer(self) -> None:
        """Come back, and be heard."""
        self.let_go.set()
        for thread in threading.enumerate():
            if thread.name == f"sensor-{self.name}":
                thread.join(60.0)


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    sensor = Hanging("hanging", thermal_level=3)
    yield sensor
    sensor.let_go.set()


def test_a_sensor_that_hangs_costs_its_own_readings_only_and_is_left_alone(hanging: Hanging) -> None:
    spare, total = Puppet("spare", thermal_level=1), Puppet("total", memory_total_bytes=8 * GIB)
    chains = (heat(hanging, spare), Chain(("memory_total_bytes",), (Row(total),)))
    machine = Registry(chains=chains, clock=lambda: 0.0, patience_seconds=0.05)
    threads = threading.active_count()
    for second in range(200):
        state = machine.sample(float(second))
        assert (state.thermal_level, state.memory_total_bytes) == (1, 8 * GIB)
    assert len(hanging.asked) == 1
    assert threading.active_count() == threads + 1
    told = next(status for status in machine.statuses(200.0) if status.name == "hanging")
    assert not told.up
    assert "no answer for" in told.reason


def test_an_answer_that_comes_late_is_taken_while_it_is_fresh(hanging: Hanging) -> None:
    machine = Registry(chains=(heat(hanging),), clock=lambda: 0.0, patience_seconds=0.05)
    assert machine.sample(0.0).thermal_level is None
    hanging.answer()
    assert machine.sample(FIRST_RETRY_SECONDS).thermal_level == 3
    assert hanging.asked == [0.0]


def test_an_answer_that_comes_too_late_is_thrown_away_and_the_sensor_asked_again(hanging: Hanging) -> None:
    machine = Registry(chains=(heat(hanging),), clock=lambda: 0.0, patience_seconds=PATIENCE_SECONDS)
    assert machine.sample(0.0).thermal_level is None
    hanging.answer()
    hanging.values["thermal_level"] = 1
    later = FRESH_SECONDS + FIRST_RETRY_SECONDS
    assert machine.sample(later).thermal_level == 1
    assert hanging.asked == [0.0, later]


# Statuses


def test_a_status_tells_duration_and_age() -> None:
    ticks = iter([10.0, 10.25, 11.0, 11.5])
    sensor = Puppet("sensor", thermal_level=1)
    machine = registry(heat(sensor), clock=lambda: next(ticks))
    machine.sample(100.0)
    assert machine.statuses(103.0)[0].seconds == pytest.approx(0.25)
    assert machine.statuses(103.0)[0].age_seconds == pytest.approx(3.0)
    sensor.failure = Unavailable("gone")
    machine.sample(104.0)
    assert machine.statuses(106.0)[0].age_seconds == pytest.approx(6.0)


def test_failures_are_counted_for_good_and_an_absence_is_none() -> None:
    sensor = Puppet("sensor", thermal_level=1)
    machine = registry(heat(sensor))
    for now, failure in ((0.0, Unavailable("gone")), (100.0, None), (200.0, RuntimeError("a defect")), (400.0, Absent("none"))):
        sensor.failure = failure
        machine.sample(now)
    sensor.failure = None
    machine.sample(600.0)
    assert machine.statuses(600.0)[0].failures == 2


def test_a_failing_reading_has_a_duration_too() -> None:
    ticks = iter([10.0, 12.0])
    sensor = Puppet("sensor")
    sensor.failure = Unavailable("hung for two seconds")
    machine = registry(heat(sensor), clock=lambda: next(ticks))
    machine.sample(0.0)
    assert machine.statuses(0.0)[0].seconds == pytest.approx(2.0)


def test_the_age_of_a_sensor_that_never_worked_counts_from_the_first_question() -> None:
    sensor = Puppet("sensor")
    sensor.failure = Unavailable("never")
    machine = registry(heat(sensor))
    for second in (50.0, 51.0, 60.0):
        machine.sample(second)
    assert machine.statuses(60.0)[0].age_seconds == pytest.approx(10.0)


def test_what_a_machine_has_not_is_an_absence_and_not_a_broken_sensor() -> None:
    sensor = Puppet("cgroup")
    sensor.failure = Absent("no control group limits memory")
    machine = registry(memory(sensor))
    machine.sample(0.0)
    assert machine.statuses(0.0) == ()
    assert machine.absences() == {"cgroup": "no control group limits memory"}
    machine.sample(LAST_RETRY_SECONDS - 1.0)
    machine.sample(LAST_RETRY_SECONDS)
    assert sensor.asked == [0.0, LAST_RETRY_SECONDS]


def test_a_sensor_of_two_chains_is_read_once_a_sample_and_listed_once() -> None:
    shared = Puppet("shared", thermal_level=1, memory_available_bytes=GIB, memory_total_bytes=GIB)
    machine = registry(heat(shared), memory(shared))
    machine.sample(0.0)
    assert shared.asked == [0.0]
    assert len(machine.statuses(0.0)) == 1


def test_a_sensor_that_starts_a_process_is_held_for_a_while() -> None:
    sensor = Puppet("command", thermal_level=1)
    machine = registry(Chain(("thermal_level",), (Row(sensor, every_seconds=5.0),)))
    levels = [machine.sample(second).thermal_level for second in (0.0, 1.0, 4.9, 5.0, 6.0)]
    assert levels == [1] * 5
    assert sensor.asked == [0.0, 5.0]


# Injection


def inject(path: Path, **fields: float) -> Path:
    InjectedState(**fields).write(path)  # type: ignore[arg-type]
    return path


def test_injected_readings_win_and_mark_the_state(tmp_path: Path) -> None:
    path = inject(tmp_path / "i.json", time=100.0, thermal_level=2, memory_limit_bytes=GIB)
    real = Puppet("real", memory_total_bytes=64 * GIB, memory_available_bytes=32 * GIB)
    state = registry(heat(Puppet("zones", thermal_level=0)), memory(real), injected=path).sample(101.0)
    assert state.injected
    assert state.thermal_level == 2
    assert state.memory_total_bytes == GIB
    assert state.memory_available_bytes == GIB, "what is available is never more than the total"


def test_a_generous_injection_wins_too(tmp_path: Path) -> None:
    path = inject(tmp_path / "i.json", time=100.0, thermal_level=0, memory_available_bytes=9 * GIB)
    real = Puppet("real", memory_total_bytes=64 * GIB, memory_available_bytes=2 * GIB)
    state = registry(heat(Puppet("zones", thermal_level=3)), memory(real), injected=path).sample(101.0)
    assert (state.thermal_level, state.memory_available_bytes) == (0, 9 * GIB)


def test_a_dead_driver_gives_the_machine_back(tmp_path: Path) -> None:
    path = inject(tmp_path / "i.json", time=100.0, thermal_level=2)
    machine = registry(heat(Puppet("zones", thermal_level=0)), injected=path)
    state = machine.sample(111.0)
    assert (state.thermal_level, state.injected) == (0, False)
    assert [status.name for status in machine.statuses(111.0) if not status.up] == ["scripted"]


def test_a_driver_that_comes_late_is_heard_at_the_next_sample(tmp_path: Path) -> None:
    path = tmp_path / "i.json"
    machine = registry(heat(Puppet("zones", thermal_level=0)), injected=path)
    for second in range(8):
        assert not machine.sample(float(second)).injected
    inject(path, time=8.0, thermal_level=2)
    assert machine.sample(8.0).thermal_level == 2


# The platforms' own tables


def test_a_linux_machine_is_merged_from_all_its_sensors(tmp_path: Path) -> None:
    machine = Registry("linux", root=linux_tree(tmp_path))
    machine.sample(0.0)
    state = machine.sample(10.0)
    assert state == MachineState(
        time=10.0,
        memory_total_bytes=8 * GIB,
        memory_available_bytes=7 * GIB,
        memory_pressure=0,
        swap_used_bytes=0,
        thermal_level=0,
        celsius=63.0,
    )
    assert machine.readings["power_watts"].value == 18.5


def test_a_mac_with_its_library_starts_no_process(tmp_path: Path) -> None:
    commands = Commands({})
    machine = Registry("darwin", host=Host(tmp_path, commands, FakeDarwin().load))
    state = machine.sample(0.0)
    assert commands.calls == []
    assert dataclasses.astuple(state) == (0.0, 16 * GIB, 16 * GIB * 30 // 100, 0, GIB, 0, None, False)
    assert all(status.up for status in machine.statuses(0.0))


def test_a_mac_without_its_library_is_read_by_commands(tmp_path: Path) -> None:
    library = FakeDarwin()
    library.absent = {"/usr/lib/libSystem.B.dylib", "/usr/lib/libobjc.A.dylib"}
    machine = Registry("darwin", host=darwin_host(tmp_path, library))
    state = machine.sample(0.0)
    assert state.memory_available_bytes == 16 * GIB * 64 // 100
    assert (state.memory_pressure, state.thermal_level) == (0, 2)
    assert state.swap_used_bytes == int(11625.69 * 2**20)
    up = {status.name for status in machine.statuses(0.0) if status.up}
    assert up == {"sysctl_command", "thermal_notifyutil", "power_macmon"}


@pytest.mark.parametrize("platform", ["linux", "darwin", "sunos5"])
def test_a_machine_that_answers_nothing_is_sampled_without_an_error(
    tmp_path: Path, platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psutil", None)
    machine = Registry(platform, host=empty_host(tmp_path))
    for second in (0.0, 1.0, 100.0):
        assert machine.sample(second) == MachineState(time=second)
    assert not any(status.up for status in machine.statuses(100.0))
