"""Every sensor of every platform, through the one suite."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from autotuner.telemetry.cgroup_linux import CgroupLinux
from autotuner.telemetry.energy_darwin import EnergyDarwin
from autotuner.telemetry.hardware_monitors_linux import HardwareMonitors
from autotuner.telemetry.host import Host
from autotuner.telemetry.macmon_lib_darwin import MacmonLib
from autotuner.telemetry.memory_linux import MemoryLinux
from autotuner.telemetry.memory_psutil import MemoryPsutil
from autotuner.telemetry.memory_sysctl_darwin import MemoryDarwin
from autotuner.telemetry.power_darwin import Macmon
from autotuner.telemetry.pressure_darwin import PressureDarwin
from autotuner.telemetry.pressure_linux import PressureLinux
from autotuner.telemetry.registry import PLATFORMS, Chain, Registry
from autotuner.telemetry.scripted import InjectedState, Scripted
from autotuner.telemetry.sensor import Sensor, Unavailable, checked
from autotuner.telemetry.slot import Row
from autotuner.telemetry.swap_darwin import SwapDarwin
from autotuner.telemetry.sysctl_command_darwin import SysctlCommand
from autotuner.telemetry.thermal_notify_darwin import ThermalNotify
from autotuner.telemetry.thermal_notifyutil_darwin import NotifyUtil
from autotuner.telemetry.thermal_pmset_darwin import Pmset
from autotuner.telemetry.thermal_process_info_darwin import LIBOBJC, ProcessInfo
from autotuner.telemetry.thermal_zones_linux import ThermalZones
from autotuner.telemetry.throttle_counters_linux import ThrottleCounters
from autotuner.telemetry.vm_stat_darwin import VmStat
from tests.suites.fake_machine import FIXTURES, MODULES, FakeDarwin, darwin_host, linux_tree
from tests.suites.sensor_suite import SensorSuite, empty_host

LINUX = (MemoryLinux, PressureLinux, CgroupLinux, ThermalZones, ThrottleCounters, HardwareMonitors)
DARWIN = (
    MemoryDarwin,
    PressureDarwin,
    SwapDarwin,
    SysctlCommand,
    VmStat,
    ThermalNotify,
    NotifyUtil,
    ProcessInfo,
    Pmset,
    Macmon,
    MacmonLib,
    EnergyDarwin,
)
BUILDERS: tuple[Callable[[Host], Sensor], ...] = (*LINUX, *DARWIN)


class TestLinuxSensors(SensorSuite):
    @pytest.fixture(params=LINUX)
    def sensor(self, request: pytest.FixtureRequest, tmp_path: Path) -> Sensor:
        return request.param(Host(linux_tree(tmp_path)))

    @pytest.fixture(params=LINUX)
    def deaf(self, request: pytest.FixtureRequest, tmp_path: Path) -> Sensor:
        return request.param(empty_host(tmp_path))


class TestDarwinSensors(SensorSuite):
    @pytest.fixture(params=DARWIN)
    def sensor(self, request: pytest.FixtureRequest, tmp_path: Path) -> Sensor:
        return request.param(darwin_host(tmp_path, modules=MODULES))

    @pytest.fixture(params=DARWIN)
    def deaf(self, request: pytest.FixtureRequest, tmp_path: Path) -> Sensor:
        return request.param(empty_host(tmp_path))


class TestScriptedSensor(SensorSuite):
    @pytest.fixture
    def sensor(self, tmp_path: Path) -> Sensor:
        path = tmp_path / "injected.json"
        InjectedState(time=10.0, thermal_level=2, celsius=99.0, memory_limit_bytes=2**30, memory_pressure=1).write(path)
        return Scripted(path)

    @pytest.fixture
    def deaf(self, tmp_path: Path) -> Sensor:
        return Scripted(tmp_path / "nobody wrote this")


class TestPsutilSensor(SensorSuite):
    @pytest.fixture
    def sensor(self) -> Sensor:
        return MemoryPsutil()

    @pytest.fixture
    def deaf(self, monkeypatch: pytest.MonkeyPatch) -> Sensor:
        monkeypatch.setitem(sys.modules, "psutil", None)
        return MemoryPsutil()


def test_every_sensor_of_the_tables_is_listed_here(tmp_path: Path) -> None:
    host = empty_host(tmp_path)
    served = {type(row.sensor) for chains in PLATFORMS.values() for chain in chains(host) for row in chain.rows}
    assert served == {*BUILDERS, MemoryPsutil}


def test_sensor_names_are_unique(tmp_path: Path) -> None:
    names = [build(empty_host(tmp_path)).name for build in BUILDERS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 5.0])
def test_a_value_that_no_machine_can_have_is_refused_with_the_bounds(value: float) -> None:
    with pytest.raises(Unavailable, match="0 to 4 level"):
        checked("thermal_level", value, "somewhere")


def array_not_large_enough() -> None:
    raise RuntimeError("(ipc/mig) array not large enough")


def test_psutil_failing_on_a_new_macos_is_a_fact_and_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    for call in ("virtual_memory", "swap_memory"):
        monkeypatch.setattr(psutil, call, array_not_large_enough)
    with pytest.raises(Unavailable, match=r"virtual_memory: .*array not large enough; swap_memory: "):
        MemoryPsutil().read(0.0)


@pytest.mark.parametrize(
    ("fails", "kept"),
    [
        ("virtual_memory", {"swap_used_bytes"}),
        ("swap_memory", {"memory_total_bytes", "memory_available_bytes"}),
    ],
)
def test_one_call_of_psutil_that_fails_costs_only_itself(fails: str, kept: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, fails, array_not_large_enough)
    assert {reading.quantity for reading in MemoryPsutil().read(0.0)} == kept


def test_what_psutil_tells_that_no_machine_can_have_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(used=-5))
    assert "swap_used_bytes" not in {reading.quantity for reading in MemoryPsutil().read(0.0)}


def test_every_sensor_has_a_file_of_its_own(tmp_path: Path) -> None:
    files = [type(row.sensor).__module__ for chains in PLATFORMS.values() for row in _rows(chains(empty_host(tmp_path)))]
    assert len(files) == len(set(files)) + 1  # psutil serves both platforms


def test_fallbacks_of_macos_are_asked_in_the_order_of_cost_and_coarseness(tmp_path: Path) -> None:
    chains = PLATFORMS["darwin"](empty_host(tmp_path))
    order = {chain.quantities[-1]: [row.sensor.name for row in chain.rows] for chain in chains}
    assert order == {
        "memory_available_bytes": ["memory_sysctl", "sysctl_command", "memory_vm_stat", "memory_psutil"],
        "memory_pressure": ["pressure_sysctl", "sysctl_command"],
        "swap_used_bytes": ["swap_sysctl", "sysctl_command", "memory_psutil"],
        "thermal_level": ["thermal_notify", "thermal_notifyutil", "thermal_process_info", "thermal_pmset"],
        "power_watts": ["power_macmon_lib", "power_macmon", "power_zeus"],
    }


def test_a_mac_falls_through_every_thermometer_to_the_last(tmp_path: Path) -> None:
    """Each fallback is really asked when the ones before it fail, and the last says so when none is left."""
    library, answers = FakeDarwin(), {"/usr/bin/notifyutil": "key 1\n", "/usr/bin/pmset": "CPU_Speed_Limit = 34\n"}
    library.thermal_level, library.thermal_state = 3, 2
    heard = []
    for _ in range(5):
        machine = Registry("darwin", host=darwin_host(tmp_path, library, dict(answers)))
        level = machine.sample(0.0).thermal_level
        source = machine.readings["thermal_level"].source if level is not None else ""
        heard.append((level, source.split()[0] if source else ""))
        if library.register_status == 0:
            library.register_status = 9
        elif "/usr/bin/notifyutil" in answers:
            del answers["/usr/bin/notifyutil"]
        elif not library.absent:
            library.absent = {LIBOBJC}
        else:
            answers.clear()
    assert heard == [
        (3, "notify"),
        (1, "/usr/bin/notifyutil"),
        (3, "NSProcessInfo.thermalState"),
        (2, "/usr/bin/pmset"),
        (None, ""),
    ]


def _rows(chains: tuple[Chain, ...]) -> dict[Row, None]:
    """Every sensor once, though one may serve several chains."""
    unique = {type(row.sensor): row for chain in chains for row in chain.rows}
    return dict.fromkeys(unique.values())


@pytest.mark.parametrize("platform", ["linux", "macos"])
def test_every_captured_output_is_listed_with_its_origin(platform: str) -> None:
    folder = FIXTURES / platform
    text = (folder / "README.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([\w.]+)`", row.split("|")[1])}
    assert named == {path.name for path in folder.iterdir()} - {"README.md"}
    for row in rows:
        assert row.split("|")[3].split(":")[0].strip().split()[0].rstrip(",") in ("captured", "constructed", "published"), row
