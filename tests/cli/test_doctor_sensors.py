"""What ``autotuner doctor`` says of sensors: what is known and by whom, what is not, and what that costs."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotuner.cli.doctor_sensors import KNOWN, findings
from autotuner.cli.finding import Finding
from autotuner.telemetry.host import Host
from autotuner.telemetry.registry import Registry
from autotuner.telemetry.sensor import QUANTITIES
from tests.suites.fake_machine import MODULES, FakeDarwin, darwin_host, linux_tree
from tests.suites.sensor_suite import empty_host


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now, self.slept = 100.0, []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def said(platform: str, host: Host, time: Time | None = None) -> dict[str, Finding]:
    time = time or Time()
    found = list(findings(Registry(platform, host=host), lambda: time.now, time.sleep))
    assert len({finding.subject for finding in found}) == len(found)
    return {finding.subject: finding for finding in found}


def test_every_quantity_has_a_row_with_a_cost() -> None:
    assert {row.quantity for row in KNOWN} == {quantity.name for quantity in QUANTITIES}
    assert all(row.cost for row in KNOWN)


def test_what_is_known_is_told_with_its_value_and_its_source(tmp_path: Path) -> None:
    found = said("linux", Host(linux_tree(tmp_path)))
    assert found["available memory"] == Finding("OK", "available memory", "7 GiB, by cgroup")
    assert found["heat level"].text == "nominal, by /sys/class/thermal"
    assert found["temperature"].text == "63 °C, by /sys/class/hwmon"
    assert found["power"].text == "18.5 W, by /sys/class/hwmon"
    assert {finding.level for finding in found.values()} == {"OK"}


def test_counters_that_need_two_readings_get_them_before_anything_is_said(tmp_path: Path) -> None:
    time = Time()
    assert said("linux", Host(linux_tree(tmp_path)), time)["sensor throttle_counters"].level == "OK"
    assert time.slept == [2.0]


def test_a_machine_whose_sensors_all_answer_is_asked_once(tmp_path: Path) -> None:
    time = Time()
    said("darwin", darwin_host(tmp_path, modules=MODULES), time)
    assert time.slept == []


def test_what_nobody_tells_is_told_with_its_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psutil", None)
    found = said("linux", empty_host(tmp_path))
    levels = {row.subject: found[row.subject].level for row in KNOWN}
    assert levels == {
        "available memory": "FAIL", "total memory": "WARN", "memory pressure": "WARN", "swap in use": "WARN",
        "heat level": "WARN", "temperature": "NONE", "power": "NONE",
    }  # fmt: skip
    for row in KNOWN:
        assert found[row.subject].text == f"no sensor tells it, so {row.cost}"
    assert found["sensor memory_psutil"] == Finding("WARN", "sensor memory_psutil", "psutil is not installed")


def test_what_a_machine_has_not_is_no_fault_and_has_its_reason(tmp_path: Path) -> None:
    found = said("linux", Host(tmp_path))
    assert found["sensor pressure_psi"] == Finding(
        "NONE", "sensor pressure_psi", "this kernel has no pressure stall information"
    )
    assert found["sensor thermal_zones"].level == "NONE"


def test_a_mac_without_the_optional_packages_hears_what_brings_them(tmp_path: Path) -> None:
    found = said("darwin", darwin_host(tmp_path, answers={}))
    assert found["temperature"].text.endswith(": pip install 'diffusion-autotuner[mac-sensors]'")
    assert found["sensor power_zeus"] == Finding("NONE", "sensor power_zeus", "zeus-apple-silicon is not installed")


def test_a_fallback_is_named_beside_the_sensor_that_failed(tmp_path: Path) -> None:
    library = FakeDarwin()
    library.register_status = 7
    found = said("darwin", darwin_host(tmp_path, library, modules=MODULES))
    assert found["heat level"].text == "heavy, by /usr/bin/notifyutil"
    assert found["sensor thermal_notify"].level == "WARN"
    assert "failed with status 7" in found["sensor thermal_notify"].text
