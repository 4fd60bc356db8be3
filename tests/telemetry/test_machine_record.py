"""The recording that somebody with another machine sends us."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autotuner.telemetry import record as record_module
from autotuner.telemetry.host import Host
from autotuner.telemetry.record import record
from autotuner.telemetry.registry import Registry
from tests.suites.fake_machine import Commands, FakeDarwin, darwin_host, linux_tree, tree


def test_a_recording_of_a_mac_holds_every_sensor_raw_and_read(tmp_path: Path) -> None:
    registry = Registry("darwin", host=darwin_host(tmp_path))
    document = record(registry)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    served = {row.sensor.name for chain in registry.chains for row in chain.rows}
    hazards = {"hazard_display", "hazard_power_mode", "hazard_power_source", "hazard_wired_limit"}
    assert set(document["readings"]) == served | {"process_footprint"} | hazards
    assert document["readings"]["thermal_notifyutil"]["values"] == {"thermal_level": 2}
    assert document["raw"]["sysctl kern.memorystatus_level"] == "1e000000"
    assert document["raw"]["/usr/bin/vm_stat"].startswith("Mach Virtual Memory Statistics")
    assert document["raw"]["/usr/bin/sw_vers"].startswith("unavailable")
    assert document["readings"]["process_footprint"]["source"] == "phys_footprint"


def test_a_recording_of_linux_holds_the_files(tmp_path: Path) -> None:
    document = record(Registry("linux", root=linux_tree(tmp_path)))
    assert document["raw"]["/proc/meminfo"].startswith("MemTotal")
    assert document["readings"]["thermal_zones"]["values"]["celsius"] == 61.0
    assert "two readings" in document["readings"]["throttle_counters"]["unavailable"]


def test_a_defect_is_recorded_and_stops_nothing(tmp_path: Path) -> None:
    library = FakeDarwin()
    library.objc_msgSend = lambda receiver, selector: {}["no such selector"]
    document = record(Registry("darwin", host=darwin_host(tmp_path, library)))
    assert document["readings"]["thermal_process_info"]["defect"].startswith("KeyError")
    assert document["readings"]["thermal_notify"]["values"] == {"thermal_level": 0}


def test_a_recording_leaves_the_registry_as_it_was(tmp_path: Path) -> None:
    commands = Commands({})
    registry = Registry("darwin", host=Host(tmp_path, commands, FakeDarwin().load))
    record(registry)
    asked = len(commands.calls)
    assert registry.sample(0.0).thermal_level == 0
    assert len(commands.calls) == asked


def test_names_of_user_host_and_home_are_covered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = {"/home/greta": "~", "gretas-mac": "HOST", "greta": "USER"}
    monkeypatch.setattr(record_module, "_private_words", lambda: words)
    tree(tmp_path, {"proc/self/cgroup": "0::/greta.slice/of-gretas-mac/home/greta/x\n"})
    text = json.dumps(record(Registry("linux", root=tmp_path)))
    assert "greta" not in text
    assert "USER.slice/of-HOST~/x" in text


def test_short_and_common_names_do_not_spoil_the_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_module.platform, "node", lambda: "vm")
    assert not {"vm", "root", "localhost"} & set(record_module._private_words())


def test_a_user_called_like_a_value_covers_words_and_not_names_of_files() -> None:
    covered = record_module._scrub({"memory.max": "max", "x": ["/Users/max/a", 3, None]}, {"max": "USER"})
    assert covered == {"memory.max": "USER", "x": ["/Users/USER/a", 3, None]}


def test_the_environment_is_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "s3cr3t-value")
    assert "s3cr3t-value" not in json.dumps(record(Registry("linux", root=linux_tree(tmp_path))))
