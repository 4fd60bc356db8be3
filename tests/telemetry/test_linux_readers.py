"""Linux: parsers over captured text, and readers over trees of files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotuner.telemetry.cgroup_linux import CgroupLinux, parse_limit, parse_membership
from autotuner.telemetry.hardware_monitors_linux import HardwareMonitors
from autotuner.telemetry.host import Host
from autotuner.telemetry.memory_linux import MemoryLinux, parse_meminfo
from autotuner.telemetry.pressure_linux import PressureLinux, parse_pressure, pressure_of
from autotuner.telemetry.sensor import Absent, Sensor, Unavailable
from autotuner.telemetry.thermal_zones_linux import ThermalZones, level_of, parse_millicelsius
from autotuner.telemetry.throttle_counters_linux import ThrottleCounters
from tests.suites.fake_machine import fixture, tree

GIB = 2**30
V2 = "sys/fs/cgroup"
V1 = "sys/fs/cgroup/memory"


def values(sensor: Sensor, now: float = 0.0) -> dict[str, float]:
    return {reading.quantity: reading.value for reading in sensor.read(now)}


# Memory


def test_a_captured_meminfo_is_read_in_bytes() -> None:
    amounts = parse_meminfo(fixture("linux/meminfo.txt"))
    assert amounts["MemTotal"] == 24684096 * 1024
    assert amounts["HugePages_Total"] == 0
    assert amounts["Hugepagesize"] == 2048 * 1024


def test_swap_in_use_is_what_is_not_free(tmp_path: Path) -> None:
    text = "MemTotal: 100 kB\nMemAvailable: 40 kB\nSwapTotal: 50 kB\nSwapFree: 20 kB\n"
    found = values(MemoryLinux(Host(tree(tmp_path, {"proc/meminfo": text}))))
    assert found == {"memory_total_bytes": 102400, "memory_available_bytes": 40960, "swap_used_bytes": 30720}


def test_a_kernel_without_swap_rows_says_nothing_of_swap(tmp_path: Path) -> None:
    text = "MemTotal: 100 kB\nMemAvailable: 40 kB\n"
    assert "swap_used_bytes" not in values(MemoryLinux(Host(tree(tmp_path, {"proc/meminfo": text}))))


@pytest.mark.parametrize("text", ["", "MemTotal: 100 kB\n", "MemAvailable: 1 kB\n", "MemTotal: lots\nMemAvailable: 4 kB\n"])
def test_available_memory_is_never_guessed(tmp_path: Path, text: str) -> None:
    with pytest.raises(Unavailable, match="MemTotal or MemAvailable"):
        MemoryLinux(Host(tree(tmp_path, {"proc/meminfo": text}))).read(0.0)


# Pressure


def test_captured_pressure_of_an_idle_machine_is_normal() -> None:
    averages = parse_pressure(fixture("linux/pressure_memory.txt"))
    assert pressure_of(averages["some"], averages["full"]) == 0


def test_a_stalling_machine_is_critical() -> None:
    averages = parse_pressure(fixture("linux/pressure_memory_stalled.txt"))
    assert averages == {"some": 34.61, "full": 21.40}
    assert pressure_of(averages["some"], averages["full"]) == 2


@pytest.mark.parametrize(
    ("some", "full", "level"), [(9.9, 0.9, 0), (10.0, 0.0, 1), (2.0, 1.0, 1), (9.0, 9.9, 1), (50.0, 9.9, 1), (10.0, 10.0, 2)]
)
def test_pressure_follows_its_thresholds(some: float, full: float, level: int) -> None:
    assert pressure_of(some, full) == level


@pytest.mark.parametrize(
    "text", ["", "some avg10=x\nfull avg10=1\n", "some avg10=1.0\n", "some avg10=nan\nfull avg10=0\n", "\n\n"]
)
def test_pressure_of_another_form_is_unavailable(text: str) -> None:
    with pytest.raises(Unavailable):
        parse_pressure(text)


def test_a_kernel_without_stall_information_is_no_failure(tmp_path: Path) -> None:
    with pytest.raises(Absent):
        PressureLinux(Host(tmp_path)).read(0.0)


# Control groups


def v2_group(directory: str, limit: str, current: int, high: str = "max", stat: str = "") -> dict[str, str]:
    files = {"memory.max": limit, "memory.high": high, "memory.current": str(current), "memory.stat": stat}
    return {f"{V2}{directory}/{name}": content + "\n" for name, content in files.items()}


def v1_group(directory: str, limit: int, usage: int, mount: str = V1) -> dict[str, str]:
    return {
        f"{mount}{directory}/memory.limit_in_bytes": f"{limit}\n",
        f"{mount}{directory}/memory.usage_in_bytes": f"{usage}\n",
    }


def cgroup(root: Path, membership: str, *groups: dict[str, str]) -> CgroupLinux:
    tree(root, {"proc/self/cgroup": fixture(f"linux/{membership}.txt")})
    for group in groups:
        tree(root, group)
    return CgroupLinux(Host(root))


def test_a_version_2_limit_is_read(tmp_path: Path) -> None:
    sensor = cgroup(tmp_path, "cgroup_v2", v2_group("/user.slice/training.scope", str(8 * GIB), 3 * GIB))
    assert values(sensor) == {"memory_total_bytes": 8 * GIB, "memory_available_bytes": 5 * GIB}


def test_the_tighter_of_max_and_high_counts(tmp_path: Path) -> None:
    sensor = cgroup(tmp_path, "cgroup_v2", v2_group("/user.slice/training.scope", str(8 * GIB), GIB, high=str(6 * GIB)))
    assert values(sensor)["memory_available_bytes"] == 5 * GIB


def test_a_group_above_may_be_the_tighter_one(tmp_path: Path) -> None:
    inner = v2_group("/user.slice/training.scope", str(8 * GIB), GIB)
    outer = v2_group("/user.slice", str(10 * GIB), 9 * GIB)
    found = values(cgroup(tmp_path, "cgroup_v2", inner, outer))
    assert found == {"memory_total_bytes": 8 * GIB, "memory_available_bytes": GIB}


def test_page_cache_that_is_given_back_first_does_not_count_as_used(tmp_path: Path) -> None:
    stat = f"anon 1\ninactive_file {2 * GIB}\nactive_file 5"
    sensor = cgroup(tmp_path, "cgroup_v2", v2_group("/user.slice/training.scope", str(8 * GIB), 3 * GIB, stat=stat))
    assert values(sensor)["memory_available_bytes"] == 7 * GIB


def test_max_everywhere_is_no_limit(tmp_path: Path) -> None:
    with pytest.raises(Absent, match="no control group limits memory"):
        cgroup(tmp_path, "cgroup_v2", v2_group("/user.slice/training.scope", "max", GIB)).read(0.0)


def test_more_in_use_than_allowed_leaves_nothing_and_not_less(tmp_path: Path) -> None:
    sensor = cgroup(tmp_path, "cgroup_v2", v2_group("/user.slice/training.scope", str(GIB), 2 * GIB))
    assert values(sensor)["memory_available_bytes"] == 0


def test_a_version_1_limit_is_read_where_controllers_are_mounted_together(tmp_path: Path) -> None:
    sensor = cgroup(tmp_path, "cgroup_v1", v1_group("/jobs/training", 4 * GIB, GIB))
    assert values(sensor) == {"memory_total_bytes": 4 * GIB, "memory_available_bytes": 3 * GIB}


def test_the_huge_number_of_version_1_is_no_limit(tmp_path: Path) -> None:
    with pytest.raises(Absent):
        cgroup(tmp_path, "cgroup_v1", v1_group("/jobs/training", 9223372036854771712, GIB)).read(0.0)


def test_a_hybrid_machine_is_limited_by_version_1(tmp_path: Path) -> None:
    sensor = cgroup(tmp_path, "cgroup_hybrid", v1_group("/jobs/training", 4 * GIB, GIB), {f"{V2}/unified/cgroup.procs": ""})
    assert values(sensor)["memory_total_bytes"] == 4 * GIB


def test_a_container_sees_its_own_limit_at_the_top_of_its_mount(tmp_path: Path) -> None:
    sensor = cgroup(tmp_path, "cgroup_v1", v1_group("", 2 * GIB, GIB))
    assert values(sensor)["memory_total_bytes"] == 2 * GIB


@pytest.mark.parametrize("membership", ["cgroup_v2", "cgroup_v1", "cgroup_hybrid"])
def test_a_machine_without_memory_files_has_no_limit(tmp_path: Path, membership: str) -> None:
    with pytest.raises(Absent):
        cgroup(tmp_path, membership).read(0.0)


def test_a_limit_without_a_usage_is_not_half_used(tmp_path: Path) -> None:
    with pytest.raises(Absent):
        cgroup(tmp_path, "cgroup_v2", {f"{V2}/user.slice/training.scope/memory.max": f"{GIB}\n"}).read(0.0)


def test_the_group_of_another_process_can_be_asked(tmp_path: Path) -> None:
    tree(tmp_path, {"proc/4711/cgroup": "0::/trainer\n"} | v2_group("/trainer", str(GIB), 0))
    assert values(CgroupLinux(Host(tmp_path), "4711"))["memory_total_bytes"] == GIB


@pytest.mark.parametrize(
    ("text", "limit"), [("max", None), ("", None), ("-1", None), ("9223372036854771712", None), ("5\n", 5)]
)
def test_a_limit_is_a_number_below_the_absurd(text: str, limit: int | None) -> None:
    assert parse_limit(text) == limit


@given(st.text())
def test_any_membership_text_is_parsed(text: str) -> None:
    assert all(isinstance(path, str) for _, path in parse_membership(text))


# Heat


@pytest.mark.parametrize(
    ("celsius", "level"), [(20, 0), (79.9, 0), (80, 1), (84.9, 1), (85, 2), (94.9, 2), (95, 3), (99.9, 3), (100, 4), (140, 4)]
)
def test_trip_points_tell_the_level(celsius: float, level: int) -> None:
    assert level_of(celsius, {"passive": 85.0, "critical": 100.0, "active": 50.0}) == level


def test_a_hot_trip_point_is_trapping() -> None:
    assert level_of(90.0, {"hot": 90.0, "critical": 105.0}) == 3
    assert level_of(86.0, {"hot": 90.0, "critical": 105.0}) == 1


def test_fans_alone_tell_no_level() -> None:
    assert level_of(99.0, {"active": 50.0}) is None
    assert level_of(99.0, {}) is None


@pytest.mark.parametrize("text", ["", "warm", "0", "-274000", "255000", "150000"])
def test_temperatures_that_no_chip_has_are_left_out(text: str) -> None:
    assert math.isnan(parse_millicelsius(text))


def zone(number: int, temp: str, **trips: int) -> dict[str, str]:
    base = f"sys/class/thermal/thermal_zone{number}"
    files = {f"{base}/temp": temp, f"{base}/type": "zone"}
    for index, (kind, millicelsius) in enumerate(trips.items()):
        files |= {f"{base}/trip_point_{index}_type": f"{kind}\n", f"{base}/trip_point_{index}_temp": f"{millicelsius}\n"}
    return files


def test_the_worst_zone_counts_even_if_another_is_hotter(tmp_path: Path) -> None:
    tree(tmp_path, zone(0, "91000\n", critical=120000) | zone(1, "46000\n", passive=45000, critical=60000))
    assert values(ThermalZones(Host(tmp_path))) == {"celsius": 91.0, "thermal_level": 2}


def test_zones_without_trip_points_tell_only_the_temperature(tmp_path: Path) -> None:
    tree(tmp_path, zone(0, "50000\n") | zone(1, "0\n", passive=40000))
    assert values(ThermalZones(Host(tmp_path))) == {"celsius": 50.0}


def test_an_unset_trip_point_is_no_trip_point(tmp_path: Path) -> None:
    tree(tmp_path, zone(0, "50000\n", passive=-274000, critical=0))
    assert values(ThermalZones(Host(tmp_path))) == {"celsius": 50.0}


def counters(root: Path, *counts: int) -> ThrottleCounters:
    for number, count in enumerate(counts):
        tree(root, {f"sys/devices/system/cpu/cpu{number}/thermal_throttle/core_throttle_count": f"{count}\n"})
    return ThrottleCounters(Host(root))


def test_a_rising_throttle_counter_is_heavy_heat_for_ten_seconds(tmp_path: Path) -> None:
    sensor = counters(tmp_path, 5, 7)
    with pytest.raises(Unavailable, match="two readings"):
        sensor.read(0.0)
    assert values(sensor, 1.0) == {"thermal_level": 0}
    counters(tmp_path, 5, 8)
    assert values(sensor, 2.0) == {"thermal_level": 2}
    assert values(sensor, 11.9) == {"thermal_level": 2}
    assert values(sensor, 12.0) == {"thermal_level": 0}


def test_counts_from_before_our_time_are_no_heat(tmp_path: Path) -> None:
    sensor = counters(tmp_path, 4000)
    with pytest.raises(Unavailable):
        sensor.read(0.0)
    assert values(sensor, 1.0) == {"thermal_level": 0}


def test_only_processors_count_as_hardware_monitors(tmp_path: Path) -> None:
    base = "sys/class/hwmon"
    files = {
        f"{base}/hwmon0/name": "nvme\n",
        f"{base}/hwmon0/temp1_input": "80000\n",
        f"{base}/hwmon1/name": "k10temp\n",
        f"{base}/hwmon1/temp1_input": "66000\n",
        f"{base}/hwmon2/name": "amdgpu\n",
        f"{base}/hwmon2/temp1_input": "71000\n",
        f"{base}/hwmon2/power1_average": "120000000\n",
    }
    assert values(HardwareMonitors(Host(tree(tmp_path, files)))) == {"celsius": 71.0, "power_watts": 120.0}
