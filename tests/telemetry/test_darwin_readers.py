"""macOS: parsers over published outputs, and readers over fakes of its libraries and commands. No Mac ran any of this."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from autotuner.telemetry.host import Host
from autotuner.telemetry.memory_sysctl_darwin import MemoryDarwin
from autotuner.telemetry.power_darwin import Macmon, parse_macmon
from autotuner.telemetry.pressure_darwin import PressureDarwin, pressure_of
from autotuner.telemetry.process import footprint
from autotuner.telemetry.sensor import Absent, Sensor, Unavailable
from autotuner.telemetry.swap_darwin import SwapDarwin, parse_swapusage, parse_xsw_usage
from autotuner.telemetry.sysctl_command_darwin import SysctlCommand
from autotuner.telemetry.thermal_notify_darwin import ThermalNotify
from autotuner.telemetry.thermal_notifyutil_darwin import NotifyUtil, parse_notifyutil
from autotuner.telemetry.thermal_pmset_darwin import Pmset, parse_pmset_therm
from autotuner.telemetry.thermal_process_info_darwin import ProcessInfo
from autotuner.telemetry.vm_stat_darwin import VmStat, parse_vm_stat
from tests.suites.fake_machine import FIXTURES, Commands, FakeDarwin, darwin_host, fixture

GIB = 2**30
PRESSURE = "kern.memorystatus_vm_pressure_level"
FREE = "kern.memorystatus_level"


def values(sensor: Sensor) -> dict[str, float]:
    return {reading.quantity: reading.value for reading in sensor.read(0.0)}


@pytest.fixture
def library() -> FakeDarwin:
    return FakeDarwin()


@pytest.fixture
def host(tmp_path: Path, library: FakeDarwin) -> Host:
    return darwin_host(tmp_path, library)


# Memory


def test_available_memory_is_the_kernels_percentage_of_the_total(host: Host) -> None:
    assert values(MemoryDarwin(host)) == {"memory_total_bytes": 16 * GIB, "memory_available_bytes": 16 * GIB * 30 // 100}


@pytest.mark.parametrize("percent", [0, -1, 101, 2**31 - 1])
def test_an_invalid_percentage_is_unavailable(host: Host, library: FakeDarwin, percent: int) -> None:
    library.integer(FREE, percent)
    with pytest.raises(Unavailable, match="possible is 1 to 100"):
        MemoryDarwin(host).read(0.0)


def test_a_sysctl_of_an_odd_size_is_unavailable(host: Host, library: FakeDarwin) -> None:
    library.sysctls["hw.memsize"] = b"\0\0"
    with pytest.raises(Unavailable, match="2 bytes; expected 4 or 8"):
        MemoryDarwin(host).read(0.0)


@pytest.mark.parametrize(("dispatch", "level"), [(1, 0), (2, 1), (4, 2)])
def test_dispatch_levels_become_ours(host: Host, library: FakeDarwin, dispatch: int, level: int) -> None:
    library.integer(PRESSURE, dispatch)
    assert values(PressureDarwin(host)) == {"memory_pressure": level}


@pytest.mark.parametrize("dispatch", [0, 3, 5, -1])
def test_an_unknown_pressure_is_unknown_and_not_normal(host: Host, library: FakeDarwin, dispatch: int) -> None:
    library.integer(PRESSURE, dispatch)
    with pytest.raises(Unavailable, match=r"known are \[1, 2, 4\]"):
        PressureDarwin(host).read(0.0)


@pytest.mark.parametrize(
    ("dispatch", "free_percent", "level"),
    [(1, 46, 0), (2, 46, 0), (4, 46, 1), (2, 40, 1), (4, 40, 2), (4, None, 2), (2, 300, 1)],
)
def test_a_latched_pressure_counts_one_less_while_much_is_free(dispatch: int, free_percent: int | None, level: int) -> None:
    assert pressure_of(dispatch, free_percent) == level


def test_pressure_needs_no_percentage(host: Host, library: FakeDarwin) -> None:
    library.integer(PRESSURE, 4)
    del library.sysctls[FREE]
    assert values(PressureDarwin(host)) == {"memory_pressure": 2}


def test_swap_is_the_third_field_of_the_struct(host: Host) -> None:
    assert values(SwapDarwin(host)) == {"swap_used_bytes": GIB}


def test_a_short_swap_struct_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="16 bytes; expected at least 24"):
        parse_xsw_usage(bytes(16))


@pytest.mark.parametrize("name", ["sysctl_swapusage", "sysctl_swapusage_comma"])
def test_printed_swap_is_read_in_any_language(name: str) -> None:
    assert parse_swapusage(fixture(f"macos/{name}.txt")) == int(11625.69 * 2**20)


@pytest.mark.parametrize(("printed", "size"), [("1.5K", 1536), ("2.00G", 2 * GIB), ("0.00M", 0)])
def test_printed_swap_has_suffixes(printed: str, size: int) -> None:
    assert parse_swapusage(f"total = 9.00G  used = {printed}  free = 1.00G") == size


@pytest.mark.parametrize("text", ["", "vm.swapusage:", "used = lots", "used = 5.00X"])
def test_printed_swap_of_another_form_is_unavailable(text: str) -> None:
    with pytest.raises(Unavailable):
        parse_swapusage(text)


def test_the_sysctl_command_tells_all_that_the_library_does(host: Host) -> None:
    assert values(SysctlCommand(host)) == {
        "memory_total_bytes": 16 * GIB,
        "memory_available_bytes": 16 * GIB * 64 // 100,
        "memory_pressure": 0,
        "swap_used_bytes": int(11625.69 * 2**20),
    }


def test_an_older_system_that_lacks_a_name_still_tells_the_others(tmp_path: Path) -> None:
    for percent in (0, 200):
        printed = f"hw.memsize: 8589934592\nkern.memorystatus_level: {percent}\n"
        host = darwin_host(tmp_path, answers={"/usr/sbin/sysctl": printed})
        assert values(SysctlCommand(host)) == {"memory_total_bytes": 8 * GIB}


def test_vm_stat_counts_pages_of_the_size_in_its_header(tmp_path: Path) -> None:
    assert values(VmStat(darwin_host(tmp_path))) == {"memory_available_bytes": (17490 + 9021 + 402114) * 16384}
    assert parse_vm_stat(fixture("macos/vm_stat_intel.txt")) == 3500 * 4096


@pytest.mark.parametrize("missing", ["(page size of 16384 bytes)", "Pages free:", "Pages inactive:", "Pages speculative:"])
def test_vm_stat_without_a_row_is_unavailable(missing: str) -> None:
    with pytest.raises(Unavailable, match="vm_stat lacks"):
        parse_vm_stat(fixture("macos/vm_stat.txt").replace(missing, ""))


# Heat


@pytest.mark.parametrize("level", range(5))
def test_the_notification_key_tells_the_level(host: Host, library: FakeDarwin, level: int) -> None:
    library.thermal_level = level
    assert values(ThermalNotify(host)) == {"thermal_level": level}


@pytest.mark.parametrize("state", [5, 10, 20, 2**40])
def test_levels_of_another_system_are_unknown(host: Host, library: FakeDarwin, state: int) -> None:
    library.thermal_level = state
    with pytest.raises(Unavailable, match="possible is 0 to 4"):
        ThermalNotify(host).read(0.0)


def test_the_key_is_registered_once_and_again_only_after_a_failure(host: Host, library: FakeDarwin) -> None:
    sensor = ThermalNotify(host)
    sensor.read(0.0)
    sensor.read(1.0)
    assert library.registrations == 1
    library.state_status = 2
    with pytest.raises(Unavailable, match="status 2"):
        sensor.read(2.0)
    library.state_status = 0
    sensor.read(3.0)
    assert library.registrations == 2


def test_a_refused_registration_is_unavailable(host: Host, library: FakeDarwin) -> None:
    library.register_status = 1_000_000
    with pytest.raises(Unavailable, match="notify_register_check"):
        ThermalNotify(host).read(0.0)


def test_notifyutil_prints_key_and_level(host: Host) -> None:
    assert values(NotifyUtil(host)) == {"thermal_level": 2}


@pytest.mark.parametrize(
    "text", ["", "\n", "com.apple.system.thermalpressurelevel", "com.apple.system.thermalpressurelevel -1"]
)
def test_notifyutil_of_another_form_is_unavailable(text: str) -> None:
    with pytest.raises(Unavailable):
        parse_notifyutil(text)


@pytest.mark.parametrize(("state", "level"), [(0, 0), (1, 1), (2, 3), (3, 4)])
def test_the_coarser_states_become_the_lowest_level_they_may_mean(
    host: Host, library: FakeDarwin, state: int, level: int
) -> None:
    library.thermal_state = state
    assert values(ProcessInfo(host)) == {"thermal_level": level}


def test_an_unknown_state_is_unknown(host: Host, library: FakeDarwin) -> None:
    library.thermal_state = 4
    with pytest.raises(Unavailable, match="says 4"):
        ProcessInfo(host).read(0.0)


def test_a_runtime_without_the_class_is_unavailable(host: Host, library: FakeDarwin) -> None:
    library.objc_getClass = lambda name: None
    with pytest.raises(Unavailable, match="not in the Objective-C runtime"):
        ProcessInfo(host).read(0.0)


def test_a_full_speed_limit_is_nominal_and_a_lower_one_throttled() -> None:
    assert parse_pmset_therm(fixture("macos/pmset_therm_intel.txt")) == 0
    assert parse_pmset_therm(fixture("macos/pmset_therm_intel_throttled.txt")) == 2


@pytest.mark.parametrize("text", ["", fixture("macos/pmset_therm_apple_silicon.txt")])
def test_three_notes_are_no_information_and_not_nominal(text: str) -> None:
    with pytest.raises(Unavailable, match="no information"):
        parse_pmset_therm(text)


# Temperature and power


@pytest.mark.parametrize("name", ["macmon_pipe", "macmon_pipe_0_7"])
def test_macmon_tells_temperature_and_power_in_both_of_its_forms(name: str) -> None:
    assert parse_macmon(fixture(f"macos/{name}.json")) == {"celsius": 43.73614, "power_watts": 5.876533}


def test_a_temperature_of_zero_is_no_sensor_and_not_cold() -> None:
    line = '{"temp": {"cpu_temp_avg": 0.0, "gpu_temp_avg": 0.0}, "sys_power": 0.0, "all_power": 3.5}'
    assert parse_macmon(line) == {"power_watts": 3.5}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"temp": null}', '{"temp": {"cpu_temp_avg": null}}', "macmon: error"])
def test_macmon_of_another_form_is_unavailable(text: str) -> None:
    with pytest.raises(Unavailable, match="macmon printed"):
        parse_macmon(text)


def test_a_mac_without_macmon_has_no_temperature_and_that_is_no_failure(tmp_path: Path) -> None:
    with pytest.raises(Absent, match="not installed"):
        Macmon(darwin_host(tmp_path, answers={})).read(0.0)


def test_commands_are_called_by_absolute_path(tmp_path: Path) -> None:
    commands = Commands({name: fixture(file) for name, file in (("/usr/bin/notifyutil", "macos/notifyutil.txt"),)})
    for sensor in (SysctlCommand, VmStat, NotifyUtil, Pmset):
        try:
            sensor(Host(tmp_path, commands)).read(0.0)
        except Unavailable:
            continue
    assert len(commands.calls) == 4
    assert all(argv[0].startswith("/usr/") for argv in commands.calls)


# Processes


def test_the_physical_footprint_is_preferred_on_macos(host: Host) -> None:
    found = footprint(os.getpid(), "darwin", host)
    assert (found.value_bytes, found.source) == (5 * GIB, "phys_footprint")


def test_without_the_library_the_resident_size_remains(host: Host, library: FakeDarwin) -> None:
    library.absent.add("/usr/lib/libproc.dylib")
    assert footprint(os.getpid(), "darwin", host).source.startswith("rss")


# The same calls into real C functions: a wrong argument type, return type or offset shows here.


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("needs a C compiler")
    built = tmp_path_factory.mktemp("darwin") / "fake_darwin.so"
    source = FIXTURES / "macos" / "fake_darwin.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(built), str(source)], check=True)
    return ctypes.CDLL(str(built))


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (MemoryDarwin, {"memory_total_bytes": 48 * GIB, "memory_available_bytes": 12 * GIB}),
        (PressureDarwin, {"memory_pressure": 1}),
        (SwapDarwin, {"swap_used_bytes": 3 * GIB}),
        (ThermalNotify, {"thermal_level": 2}),
        (ProcessInfo, {"thermal_level": 3}),
    ],
)
def test_the_foreign_calls_have_darwins_signatures(
    compiled: ctypes.CDLL, tmp_path: Path, build: type, expected: dict[str, float]
) -> None:
    assert values(build(Host(tmp_path, load=lambda path: compiled))) == expected


def test_the_footprint_is_the_eighth_counter_of_the_struct(compiled: ctypes.CDLL, tmp_path: Path) -> None:
    assert footprint(1, "darwin", Host(tmp_path, load=lambda path: compiled)).value_bytes == 51 * GIB
