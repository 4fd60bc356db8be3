"""What every sensor keeps, whatever it reads: a sensor gets these tests by being listed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from autotuner.telemetry.host import Host
from autotuner.telemetry.sensor import QUANTITIES, Reading, Sensor, Unavailable, checked

Build = Callable[[Host], Sensor]


class SensorSuite:
    """Inherit, and provide the fixtures ``sensor`` (on a machine that has it) and ``deaf`` (on one that has nothing)."""

    def test_readings_are_quantities_of_the_table_within_their_bounds(self, sensor: Sensor) -> None:
        readings = self._second_reading(sensor)
        assert readings
        for reading in readings:
            assert checked(reading.quantity, reading.value, reading.source) == reading

    def test_no_quantity_is_told_twice_in_one_reading(self, sensor: Sensor) -> None:
        quantities = [reading.quantity for reading in self._second_reading(sensor)]
        assert len(quantities) == len(set(quantities))
        assert set(quantities) <= {row.name for row in QUANTITIES}

    def test_a_reading_names_its_source(self, sensor: Sensor) -> None:
        assert all(reading.source for reading in self._second_reading(sensor))
        assert sensor.source

    def test_the_name_can_stand_in_a_metric(self, sensor: Sensor) -> None:
        assert sensor.name.replace("_", "").isalnum()
        assert sensor.name == sensor.name.lower()

    def test_a_machine_that_has_nothing_is_unavailable_with_a_reason(self, deaf: Sensor) -> None:
        with pytest.raises(Unavailable) as found:
            deaf.read(1.0)
        assert len(str(found.value)) > 10

    def test_a_failure_is_no_end(self, deaf: Sensor) -> None:
        for now in (1.0, 2.0):
            with pytest.raises(Unavailable):
                deaf.read(now)

    @staticmethod
    def _second_reading(sensor: Sensor) -> tuple[Reading, ...]:
        """Counters need two readings to tell anything."""
        try:
            return sensor.read(10.0)
        except Unavailable:
            return sensor.read(11.0)


def empty_host(root: Path) -> Host:
    """A machine without files, commands and libraries."""

    def no_command(argv: tuple[str, ...]) -> str:
        raise Unavailable(f"{argv[0]}: No such file or directory")

    def no_library(path: str) -> object:
        raise OSError(path)

    return Host(root, no_command, no_library)
