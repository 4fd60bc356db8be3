"""What ends trainings on a Mac besides memory and heat, over fakes and constructed outputs. No Mac ran any of this."""

from pathlib import Path

import pytest

from autotuner.telemetry.hazards import Hazard, hazards, is_low_power, parse_source, temporary_directory
from autotuner.telemetry.host import Host
from autotuner.telemetry.sensor import Unavailable
from tests.suites.fake_machine import FakeDarwin, fixture

GIB = 2**30


class FakeMac(FakeDarwin):
    """With a display as well."""

    def __init__(self, display=7, asleep=False, wired_mib=0):
        super().__init__()
        self.sysctls["iogpu.wired_limit_mb"] = wired_mib.to_bytes(4, "little")
        self.CGMainDisplayID = lambda: display
        self.CGDisplayIsAsleep = lambda which: int(asleep and which == display)


def found(library, settings="pmset_settings.txt", source="pmset_batt_ac.txt"):
    answers = {("-g",): settings, ("-g", "batt"): source}
    host = Host(run=lambda argv: fixture(f"macos/{answers[argv[1:]]}"), load=lambda _: library)
    return {hazard.subject: hazard for hazard in hazards(host, "darwin", Path("/tmp"))}


def test_a_mac_that_is_plugged_in_with_its_display_off_has_nothing_to_fear():
    assert not [hazard for hazard in found(FakeMac(asleep=True)).values() if hazard.grave]


def test_a_mac_without_a_display_has_none_that_is_on():
    assert not found(FakeMac(display=0))["display"].grave


@pytest.mark.parametrize(
    ("mac", "settings", "source", "subject", "said"),
    [
        (FakeMac(), "pmset_settings.txt", "pmset_batt_ac.txt", "display", "`pmset displaysleepnow`"),
        (
            FakeMac(asleep=True),
            "pmset_settings_low_power.txt",
            "pmset_batt_ac.txt",
            "power mode",
            "`sudo pmset -a lowpowermode 0`",
        ),
        (FakeMac(asleep=True), "pmset_settings.txt", "pmset_batt_battery.txt", "power source", "plug it in"),
        (FakeMac(asleep=True, wired_mib=14 * 1024), "pmset_settings.txt", "pmset_batt_ac.txt", "wired limit", "leaves 2.0 GiB"),
    ],
)
def test_each_hazard_is_told_alone_and_with_what_to_do(mac, settings, source, subject, said):
    grave = [hazard for hazard in found(mac, settings, source).values() if hazard.grave]
    assert [hazard.subject for hazard in grave] == [subject]
    assert said in grave[0].text


def test_a_raised_limit_that_leaves_enough_is_named_without_a_warning():
    mac = FakeMac(asleep=True, wired_mib=7 * 1024)
    assert found(mac)["wired limit"] == Hazard(
        "wired limit", False, "raised to 7168 MiB, which leaves 9.0 GiB to everything else"
    )


def test_what_cannot_be_read_is_said_and_warns_of_nothing():
    def absent(_):
        raise OSError("no such library")

    def refuses(argv):
        raise Unavailable("pmset: No such file or directory")

    checks = hazards(Host(run=refuses, load=absent), "darwin", Path("/tmp"))
    assert [hazard.subject for hazard in checks] == ["display", "power mode", "power source", "wired limit", "TMPDIR"]
    assert not any(hazard.grave for hazard in checks)
    assert all(hazard.text.startswith("not known: ") for hazard in checks[:-1])


def test_other_systems_are_asked_only_for_their_temporary_directory():
    assert [hazard.subject for hazard in hazards(Host(), "linux", Path("/tmp"))] == ["TMPDIR"]


def test_a_path_in_which_no_socket_fits_is_warned_of(tmp_path):
    longest = 104 - 32 - 1
    path = Path("/") / ("x" * (longest - 1))
    assert "No such file" in temporary_directory(path, 104).text
    assert "no data loader can open its socket: export TMPDIR=/tmp" in temporary_directory(Path(f"{path}y"), 104).text
    assert not temporary_directory(Path("/tmp"), 104).grave


def test_low_power_has_two_names_and_another_text_is_no_answer():
    assert is_low_power(" displaysleep 10\n powermode            1\n")
    assert not is_low_power(" displaysleep 10\n powermode            2\n")
    with pytest.raises(Unavailable, match="expected its list of settings"):
        is_low_power("usage: pmset")
    with pytest.raises(Unavailable, match="AC Power"):
        parse_source("")
