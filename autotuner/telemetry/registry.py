"""The sensors of each platform in their order of fallback, and the runner that merges them into one machine state."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from autotuner.messages import MachineState
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
from autotuner.telemetry.scripted import Scripted
from autotuner.telemetry.sensor import Reading
from autotuner.telemetry.slot import PATIENCE_SECONDS, Row, SensorStatus, Slot
from autotuner.telemetry.swap_darwin import SwapDarwin
from autotuner.telemetry.sysctl_command_darwin import SysctlCommand
from autotuner.telemetry.thermal_notify_darwin import ThermalNotify
from autotuner.telemetry.thermal_notifyutil_darwin import NotifyUtil
from autotuner.telemetry.thermal_pmset_darwin import Pmset
from autotuner.telemetry.thermal_process_info_darwin import ProcessInfo
from autotuner.telemetry.thermal_zones_linux import ThermalZones
from autotuner.telemetry.throttle_counters_linux import ThrottleCounters
from autotuner.telemetry.vm_stat_darwin import VmStat

COMMAND_SECONDS = 5.0
"""A sensor that starts a process is asked no more often than this."""

SLOW_COMMAND_SECONDS = 15.0
"""Nor one whose process needs a while to measure than this."""


@dataclass(frozen=True, slots=True)
class Chain:
    """Sensors that tell the same: the first healthy one is believed, the next is asked for what is still missing."""

    quantities: tuple[str, ...]
    rows: tuple[Row, ...]


TIGHTEST: dict[str, Callable[..., Reading]] = {
    "memory_total_bytes": min,
    "memory_available_bytes": min,
    "memory_pressure": max,
    "swap_used_bytes": max,
    "thermal_level": max,
    "celsius": max,
    "power_watts": max,
}
"""What counts where two chains tell the same quantity: the worse news."""

_MEMORY = ("memory_total_bytes", "memory_available_bytes")


def linux_chains(host: Host) -> tuple[Chain, ...]:
    """The table of Linux."""
    return (
        Chain((*_MEMORY, "swap_used_bytes"), (Row(MemoryLinux(host)), Row(MemoryPsutil()))),
        Chain(_MEMORY, (Row(CgroupLinux(host)),)),
        Chain(("memory_pressure",), (Row(PressureLinux(host)),)),
        Chain(("celsius", "thermal_level"), (Row(ThermalZones(host)),)),
        Chain(("celsius", "power_watts"), (Row(HardwareMonitors(host)),)),
        Chain(("thermal_level",), (Row(ThrottleCounters(host)),)),
    )


def darwin_chains(host: Host) -> tuple[Chain, ...]:
    """The table of macOS."""
    command, psutil = Row(SysctlCommand(host), COMMAND_SECONDS), Row(MemoryPsutil())
    return (
        Chain(_MEMORY, (Row(MemoryDarwin(host)), command, Row(VmStat(host), COMMAND_SECONDS), psutil)),
        Chain(("memory_pressure",), (Row(PressureDarwin(host)), command)),
        Chain(("swap_used_bytes",), (Row(SwapDarwin(host)), command, psutil)),
        Chain(
            ("thermal_level",),
            (
                Row(ThermalNotify(host)),
                Row(NotifyUtil(host), COMMAND_SECONDS),
                Row(ProcessInfo(host)),
                Row(Pmset(host), COMMAND_SECONDS),
            ),
        ),
        Chain(
            ("celsius", "power_watts"),
            (
                Row(MacmonLib(host), COMMAND_SECONDS),
                Row(Macmon(host), SLOW_COMMAND_SECONDS),
                Row(EnergyDarwin(host), COMMAND_SECONDS),
            ),
        ),
    )


def other_chains(host: Host) -> tuple[Chain, ...]:
    """The table of every other platform."""
    return (Chain((*_MEMORY, "swap_used_bytes"), (Row(MemoryPsutil()),)),)


PLATFORMS: dict[str, Callable[[Host], tuple[Chain, ...]]] = {"linux": linux_chains, "darwin": darwin_chains}


class Registry:
    """Samples the sensors of one platform; it never raises, and says of each sensor why it is silent.

    Not thread-safe: one thread samples. ``injected`` names the file of an experiment; what it sets wins over what is
    measured, for as long as its driver lives.
    """

    def __init__(
        self,
        platform: str = sys.platform,
        injected: Path | None = None,
        root: Path = Path("/"),
        host: Host | None = None,
        chains: tuple[Chain, ...] | None = None,
        clock: Callable[[], float] = time.perf_counter,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """``host``, ``chains`` and ``clock`` (for durations alone) replace the real ones; patience is for each sensor."""
        self.platform = platform
        self.host = host or Host(root)
        self.table = PLATFORMS.get(platform, other_chains)
        self.chains = self.table(self.host) if chains is None else chains
        self._slots = {id(row.sensor): Slot(row, patience_seconds) for chain in self.chains for row in chain.rows}
        self._injected = Slot(Row(Scripted(injected), backs_off=False), patience_seconds) if injected else None
        self._clock = clock
        self._sampled_at = -math.inf
        self.readings: dict[str, Reading] = {}
        """What the last sample believed, by quantity, with its source."""

    def sample(self, now: float) -> MachineState:
        """The machine at this moment: the tightest of what is measured, overruled by what is injected."""
        self._sampled_at = now
        merged: dict[str, Reading] = {}
        for chain in self.chains:
            for reading in self._first_healthy(chain, now):
                other = merged.get(reading.quantity, reading)
                merged[reading.quantity] = TIGHTEST[reading.quantity](other, reading, key=_value)
        scripted = self._injected.consult(now, self._clock) if self._injected else ()
        merged.update({reading.quantity: reading for reading in scripted})
        self.readings = merged
        return _machine_state(now, merged, injected=bool(scripted))

    def _first_healthy(self, chain: Chain, now: float) -> Iterable[Reading]:
        found: dict[str, Reading] = {}
        for row in chain.rows:
            for reading in self._slots[id(row.sensor)].consult(now, self._clock):
                if reading.quantity in chain.quantities:
                    found.setdefault(reading.quantity, reading)
            if len(found) == len(chain.quantities):
                break
        return found.values()

    def statuses(self, now: float) -> tuple[SensorStatus, ...]:
        """Every sensor that the last sample asked; not a fallback that was not needed, nor what this machine has not."""
        return tuple(slot.status(now) for slot in self._asked() if not slot.absent)

    def absences(self) -> dict[str, str]:
        """What this machine has not: the reason by the sensor's name."""
        return {slot.row.sensor.name: slot.reason for slot in self._asked() if slot.absent}

    def _asked(self) -> list[Slot]:
        slots = [*self._slots.values(), *([self._injected] if self._injected else [])]
        return [slot for slot in slots if slot.asked_at == self._sampled_at]


def _value(reading: Reading) -> float:
    return reading.value


def _machine_state(now: float, readings: dict[str, Reading], injected: bool) -> MachineState:
    def whole(quantity: str) -> int | None:
        return int(readings[quantity].value) if quantity in readings else None

    total, available = whole("memory_total_bytes"), whole("memory_available_bytes")
    if total is not None and available is not None:
        available = min(available, total)  # an injected limit may be below what the real machine has free
    return MachineState(
        time=now,
        memory_total_bytes=total,
        memory_available_bytes=available,
        memory_pressure=whole("memory_pressure"),
        swap_used_bytes=whole("swap_used_bytes"),
        thermal_level=whole("thermal_level"),
        celsius=readings["celsius"].value if "celsius" in readings else None,
        injected=injected,
    )
