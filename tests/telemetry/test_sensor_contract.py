"""Every sensor of every platform, through the one suite."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

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
from autotuner.telemetry.registry import PLATFORMS
from autotuner.telemetry.scripted import InjectedState, Scripted
from autotuner.telemetry.sensor import Sensor, Unavailable, checked
from autotuner.telemetry.swap_darwin import SwapDarwin
from autotuner.telemetry.sysctl_command_darwin import SysctlCommand
from autotuner.telemetry.thermal_notify_darwin import ThermalNotify
from autotuner.telemetry.thermal_notifyutil_darwin import NotifyUtil
from autotuner.telemetry.thermal_pmset_darwin import Pmset
from autotuner.telemetry.thermal_process_info_darwin import ProcessInfo
from autotuner.telemetry.thermal_zones_linux import ThermalZones
from autotuner.telemetry.throttle_counters_linux import ThrottleCounters
from autotuner.telemetry.vm_stat_darwin import VmStat
from tests.suites.fake_machine import MODULES, darwin_host, linux_tree
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


def test_psutil_failing_on_a_new_macos_is_a_fact_and_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    def broken() -> None:
        raise RuntimeError("(ipc/mig) array not large enough")

    monkeypatch.setattr(psutil, "virtual_memory", broken)
    with pytest.raises(Unavailable, match="array not large enough"):
        MemoryPsutil().read(0.0)
