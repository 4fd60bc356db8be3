"""Packages that a Mac may have: fakes of the form that their documentation and wheels show. No Mac ran any of this."""

from __future__ import annotations

import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from autotuner.telemetry import energy_darwin, macmon_lib_darwin
from autotuner.telemetry.energy_darwin import EnergyDarwin, mean_watts
from autotuner.telemetry.host import Host
from autotuner.telemetry.macmon_lib_darwin import MacmonLib
from autotuner.telemetry.registry import Registry
from autotuner.telemetry.sensor import Absent, Sensor, Unavailable
from tests.suites.fake_machine import MODULES, FakeSampler, darwin_host, importer

ROOT = Path(__file__).parents[2]


def values(sensor: Sensor, now: float = 0.0) -> dict[str, float]:
    return {reading.quantity: reading.value for reading in sensor.read(now)}


def host(**modules: object) -> Host:
    return Host(load_module=importer(modules))


def metrics(cpu: float | None = 0.0, gpu: float | None = 0.0, board: float | None = 0.0, package: float | None = 0.0):
    power = SimpleNamespace(board=board, package=package)
    return SimpleNamespace(temperature=SimpleNamespace(cpu_average=cpu, gpu_average=gpu), power=power)


def test_macmon_lib_tells_the_hotter_processor_and_the_power_of_the_board() -> None:
    assert values(MacmonLib(host(**MODULES))) == {"celsius": 71.5, "power_watts": 31.25}


def test_its_sampler_is_opened_once() -> None:
    sensor, before = MacmonLib(host(**MODULES)), FakeSampler.opened
    for now in range(3):
        sensor.read(float(now))
    assert FakeSampler.opened == before + 1


@pytest.mark.parametrize(
    ("told", "understood"),
    [
        (metrics(0.0, 40.0, None, 12.0), {"celsius": 40.0, "power_watts": 12.0}),
        (metrics(None, None, 5.0), {"power_watts": 5.0}),
        (metrics(float("nan"), 50.0), {}),
        (metrics(), {}),
    ],
)
def test_what_it_does_not_tell_stays_missing(told: SimpleNamespace, understood: dict[str, float]) -> None:
    assert macmon_lib_darwin.understand(told) == understood


def test_a_machine_of_which_it_tells_nothing_is_unavailable() -> None:
    sampler = SimpleNamespace(metrics=metrics)
    with pytest.raises(Unavailable, match="no temperature and no power"):
        MacmonLib(host(macmon=SimpleNamespace(Sampler=lambda: sampler))).read(0.0)


def test_another_package_of_the_same_module_name_is_told_apart() -> None:
    with pytest.raises(Unavailable, match="not that of macmon-lib"):
        MacmonLib(host(macmon=SimpleNamespace(main=print))).read(0.0)


def test_another_form_of_its_metrics_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="without temperature and power"):
        macmon_lib_darwin.understand(SimpleNamespace(temp={}))


def test_a_sampler_that_breaks_is_opened_anew() -> None:
    opened: list[int] = []

    class Breaks:
        def metrics(self) -> SimpleNamespace:
            opened.append(1)
            if len(opened) == 1:
                raise RuntimeError("IOReport subscription is gone")
            return metrics(60.0)

    sensor = MacmonLib(host(macmon=SimpleNamespace(Sampler=Breaks)))
    with pytest.raises(Unavailable, match="subscription is gone"):
        sensor.read(0.0)
    assert values(sensor, 1.0) == {"celsius": 60.0}


def test_energy_becomes_power_between_two_readings() -> None:
    sensor = EnergyDarwin(host(**MODULES))
    with pytest.raises(Unavailable, match="two readings"):
        sensor.read(10.0)
    assert values(sensor, 12.0) == {"power_watts": 10.0}  # 20 J in 2 s
    assert values(sensor, 13.0) == {"power_watts": 20.0}


def test_readings_too_close_together_are_no_power_and_spoil_nothing() -> None:
    sensor = EnergyDarwin(host(**MODULES))
    with pytest.raises(Unavailable):
        sensor.read(10.0)
    with pytest.raises(Unavailable, match=r"at least 0\.1 s"):
        sensor.read(10.01)
    assert values(sensor, 14.0) == {"power_watts": 10.0}  # 40 J since the first reading


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ({"gpu_mj": 5.0}, {"gpu_mj": 4.0}, "began anew"),
        ({"gpu_mj": 5.0}, {"gpu_mj": 6.0, "ane_mj": 1.0}, "began anew"),
        ({"gpu_mj": 5.0}, {"gpu_mj": 5.0}, "stand still"),
    ],
)
def test_counters_that_tell_no_power_are_unavailable(before: dict[str, float], after: dict[str, float], why: str) -> None:
    with pytest.raises(Unavailable, match=why):
        mean_watts(before, after, 1.0)


def test_rails_that_a_chip_does_not_count_are_left_out_and_none_is_unavailable() -> None:
    assert energy_darwin.understand(SimpleNamespace(gpu_mj=3, cpu_total_mj=None)) == {"gpu_mj": 3.0}
    with pytest.raises(Unavailable, match="counts none"):
        energy_darwin.understand(SimpleNamespace())


@pytest.mark.parametrize("sensor", [MacmonLib, EnergyDarwin])
def test_a_package_that_is_not_installed_is_an_absence_and_one_that_cannot_load_a_failure(sensor: type[Sensor]) -> None:
    with pytest.raises(Absent, match="is not installed"):
        sensor(host()).read(0.0)  # type: ignore[call-arg]
    broken = ImportError("dlopen: incompatible architecture")
    with pytest.raises(Unavailable, match="incompatible architecture") as found:
        sensor(host(macmon=broken, zeus_apple_silicon=broken)).read(0.0)  # type: ignore[call-arg]
    assert not isinstance(found.value, Absent)


def test_a_mac_with_the_package_starts_no_macmon_and_one_with_energy_alone_has_power(tmp_path: Path) -> None:
    machine = Registry("darwin", host=darwin_host(tmp_path, modules=MODULES))
    machine.sample(0.0)
    assert {name: machine.readings[name].source for name in ("celsius", "power_watts")} == dict.fromkeys(
        ("celsius", "power_watts"), "macmon-lib"
    )
    energy = {name: MODULES[name] for name in ("zeus_apple_silicon",)}
    machine = Registry("darwin", host=darwin_host(tmp_path / "other", answers={}, modules=energy))
    for now in (0.0, 5.0):
        machine.sample(now)
    assert machine.readings["power_watts"].source == "zeus-apple-silicon"
    assert machine.readings["power_watts"].value == 4.0
    assert "celsius" not in machine.readings


def test_the_extra_names_both_packages_for_apple_silicon_only() -> None:
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["mac-sensors"]
    assert [line.partition(">")[0] for line in extra] == [macmon_lib_darwin.PACKAGE, energy_darwin.PACKAGE]
    assert all(line.endswith("; sys_platform == 'darwin' and platform_machine == 'arm64'") for line in extra)
