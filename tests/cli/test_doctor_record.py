"""What ``doctor --record`` keeps is what docs/needs-a-mac.md lists, and the other way round."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from autotuner.cli import doctor_record
from autotuner.cli.doctor_record import PROBES, socket_peer, write_record
from autotuner.telemetry.record import EXTRA_COMMANDS, Probe, record
from autotuner.telemetry.registry import Registry
from autotuner.telemetry.sensor import Absent, Unavailable
from tests.suites.fake_machine import MODULES, FakeDarwin, darwin_host, fixture

NEEDS_A_MAC = (Path(__file__).parents[2] / "docs" / "needs-a-mac.md").read_text()


def first_column(heading: str) -> list[str]:
    """The names in backquotes of the table below a line of the page."""
    rows = NEEDS_A_MAC[NEEDS_A_MAC.index(heading) :].split("| --- |", 1)[1].split("\n\n")[0].splitlines()[1:]
    return [found[1] for row in rows if (found := re.match(r"\| `([^`]+)` \|", row))]


def quick_probes() -> dict[str, Probe]:
    """The probes by name, without their children."""
    return {name: Probe(probe.source, dict) for name, probe in PROBES.items()}


def recorded(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    host = darwin_host(tmp_path, modules=MODULES, **changes)
    return record(Registry("darwin", host=host), quick_probes())


def test_every_row_of_the_page_is_recorded_and_everything_recorded_has_a_row(tmp_path: Path) -> None:
    rows = first_column("## Readers")
    assert len(rows) > 20
    assert len(set(rows)) == len(rows)
    assert set(rows) == set(recorded(tmp_path)["readings"])


def test_every_raw_output_is_listed_and_kept(tmp_path: Path) -> None:
    rows = first_column("Beside those, the file keeps")
    assert rows == [" ".join(command) for command in EXTRA_COMMANDS["darwin"]]
    assert set(rows) <= set(recorded(tmp_path)["raw"])


def test_hazards_are_recorded_raw_and_read(tmp_path: Path) -> None:
    library = FakeDarwin()
    library.integer("iogpu.wired_limit_mb", 14 * 1024)
    document = recorded(tmp_path, library=library, answers={"/usr/bin/pmset": fixture("macos/pmset_batt_battery.txt")})
    readings = document["readings"]
    assert readings["hazard_display"]["values"]["grave"] is True
    assert readings["hazard_power_source"]["values"]["grave"] is True
    assert "leaves 2.0 GiB" in readings["hazard_wired_limit"]["values"]["says"]
    assert "unavailable" in readings["hazard_power_mode"]  # the fake answers one text to every pmset
    assert document["raw"]["CGMainDisplayID, CGDisplayIsAsleep"] == "7 False"
    assert "Battery Power" in document["raw"]["/usr/bin/pmset -g batt"]


def test_the_optional_packages_are_recorded(tmp_path: Path) -> None:
    document = recorded(tmp_path)
    assert document["readings"]["power_macmon_lib"]["values"] == {"celsius": 71.5, "power_watts": 31.25}
    assert "two readings" in document["readings"]["power_zeus"]["unavailable"]
    assert json.loads(document["raw"]["zeus-apple-silicon"].replace("'", '"'))["gpu_mj"] == 14000


def test_the_kernel_names_us_at_the_other_end_of_our_socket() -> None:
    assert socket_peer() == {"pid_is_ours": True, "uid_is_ours": True}


def test_a_probe_that_fails_is_recorded_with_its_reason(tmp_path: Path) -> None:
    def refuses() -> dict[str, Any]:
        raise Unavailable("not on this machine")

    def breaks() -> dict[str, Any]:
        raise KeyError("device")

    registry = Registry("darwin", host=darwin_host(tmp_path))
    readings = record(registry, {"one": Probe("a", refuses), "two": Probe("b", breaks)})["readings"]
    assert readings["one"]["unavailable"] == "not on this machine"
    assert readings["two"]["defect"] == "KeyError: 'device'"


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        ("import no_such_framework", Absent, "No module named 'no_such_framework'"),
        ("raise SystemExit('Metal is not here')", Unavailable, "Metal is not here"),
        ("import os; os._exit(9)", Unavailable, "ended with code 9"),
    ],
)
def test_a_framework_that_fails_in_its_child_is_told_by_its_last_words(code: str, kind: type[Unavailable], said: str) -> None:
    with pytest.raises(Unavailable, match=said) as found:
        doctor_record._in_a_child(code, "no_such_framework")()
    assert type(found.value) is kind


def test_a_child_answers_in_json_on_its_last_line() -> None:
    code = "print('a warning'); print('{\"version\": \"1\"}')"
    assert doctor_record._in_a_child(code, "json")() == {"version": "1"}


def test_the_file_is_json_and_names_the_machine_it_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_record, "PROBES", quick_probes())
    write_record(tmp_path / "mac.json", Registry("darwin", host=darwin_host(tmp_path)))
    document = json.loads((tmp_path / "mac.json").read_text())
    assert document["platform"] == "darwin"
    assert set(PROBES) <= set(document["readings"])
