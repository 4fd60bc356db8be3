"""Memory, its pressure and swap of macOS: by sysctl, and by the commands that print the same."""

from __future__ import annotations

import re
import struct

from autotuner.telemetry.host import Host
from autotuner.telemetry.sensor import Reading, Unavailable, checked
from autotuner.telemetry.sysctl_darwin import sysctl_bytes, sysctl_integer

TOTAL = "hw.memsize"
FREE_PERCENT = "kern.memorystatus_level"
PRESSURE = "kern.memorystatus_vm_pressure_level"
SWAP = "vm.swapusage"

PRESSURE_LEVELS = {1: 0, 2: 1, 4: 2}
"""The kernel's dispatch values: 1 normal, 2 warn, 4 critical. Any other is unknown, not normal."""

LATCHED_ABOVE_PERCENT = 40
"""The kernel's level can stay up for minutes after memory was given back: with so much free, it counts one level less."""

SYSCTL_COMMAND = ("/usr/sbin/sysctl", TOTAL, FREE_PERCENT, PRESSURE, SWAP)
VM_STAT_COMMAND = ("/usr/bin/vm_stat",)

_XSW_USAGE = struct.Struct("<QQQ")  # struct xsw_usage: total, available, used, then page size and encrypted
_SUFFIXES = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def available_bytes(total_bytes: int, free_percent: int) -> int:
    """What the kernel's free percentage means in bytes; 0 and more than 100 are invalid."""
    if not 0 < free_percent <= 100:
        raise Unavailable(f"sysctl {FREE_PERCENT} says {free_percent}; possible is 1 to 100")
    return total_bytes * free_percent // 100


def pressure_of(dispatch: int, free_percent: int | None) -> int:
    """0 normal, 1 warn, 2 critical, one less where the level is plainly latched; raises Unavailable for an unknown value."""
    if dispatch not in PRESSURE_LEVELS:
        raise Unavailable(f"sysctl {PRESSURE} says {dispatch}; known are {sorted(PRESSURE_LEVELS)}")
    level = PRESSURE_LEVELS[dispatch]
    latched = free_percent is not None and LATCHED_ABOVE_PERCENT < free_percent <= 100
    return max(0, level - 1) if latched else level


def parse_xsw_usage(raw: bytes) -> int:
    """Swap in use, from the binary struct."""
    if len(raw) < _XSW_USAGE.size:
        raise Unavailable(f"sysctl {SWAP} has {len(raw)} bytes; expected at least {_XSW_USAGE.size}")
    used: int = _XSW_USAGE.unpack_from(raw)[2]
    return used


def parse_swapusage(text: str) -> int:
    """Swap in use, from the printed form; some languages print a decimal comma."""
    found = re.search(r"used\s*=\s*([\d.,]+)([KMGT])", text)
    if found is None:
        raise Unavailable(f"no used amount in {text[:80]!r}")
    return int(float(found[1].replace(",", ".")) * _SUFFIXES[found[2]])


def parse_sysctl(text: str) -> dict[str, str]:
    """Values by name, from lines like ``hw.memsize: 17179869184``."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}


def parse_vm_stat(text: str) -> int:
    """Available bytes: free, speculative and inactive pages of the size that the header names."""
    size = re.search(r"page size of (\d+) bytes", text)
    rows = {name: int(count) for name, count in re.findall(r'^"?([^":\n]+)"?:\s+(\d+)\.?$', text, re.MULTILINE)}
    pages = [rows.get(f"Pages {kind}") for kind in ("free", "speculative", "inactive")]
    counts = [count for count in pages if count is not None]
    if size is None or len(counts) < len(pages):
        raise Unavailable("vm_stat lacks the page size, or free, speculative or inactive pages")
    return int(size[1]) * sum(counts)


class MemoryDarwin:
    """Total memory, and what the kernel's own free percentage leaves of it."""

    name = "memory_sysctl"
    source = f"sysctl {FREE_PERCENT}"

    def __init__(self, host: Host) -> None:
        self._host = host

    def read(self, now: float) -> tuple[Reading, ...]:
        """Total and available memory."""
        total = sysctl_integer(self._host, TOTAL)
        available = available_bytes(total, sysctl_integer(self._host, FREE_PERCENT))
        return (checked("memory_total_bytes", total, self.source), checked("memory_available_bytes", available, self.source))


class PressureDarwin:
    """The kernel's memory pressure level, corrected where it is latched."""

    name = "pressure_sysctl"
    source = f"sysctl {PRESSURE}"

    def __init__(self, host: Host) -> None:
        self._host = host

    def read(self, now: float) -> tuple[Reading, ...]:
        """The pressure level."""
        try:
            free_percent: int | None = sysctl_integer(self._host, FREE_PERCENT)
        except Unavailable:
            free_percent = None
        level = pressure_of(sysctl_integer(self._host, PRESSURE), free_percent)
        return (checked("memory_pressure", level, self.source),)


class SwapDarwin:
    """Swap in use."""

    name = "swap_sysctl"
    source = f"sysctl {SWAP}"

    def __init__(self, host: Host) -> None:
        self._host = host

    def read(self, now: float) -> tuple[Reading, ...]:
        """Swap in use."""
        return (checked("swap_used_bytes", parse_xsw_usage(sysctl_bytes(self._host, SWAP)), self.source),)


class SysctlCommand:
    """The same values as printed by the sysctl command, where the library does not answer."""

    name = "sysctl_command"
    source = SYSCTL_COMMAND[0]

    def __init__(self, host: Host) -> None:
        self._host = host

    def read(self, now: float) -> tuple[Reading, ...]:
        """Whatever of memory, pressure and swap was printed and is valid."""
        values = parse_sysctl(self._host.output(*SYSCTL_COMMAND))
        total, percent, dispatch = (_whole(values.get(name, "")) for name in (TOTAL, FREE_PERCENT, PRESSURE))
        readings = []
        if total is not None:
            readings.append(checked("memory_total_bytes", total, self.source))
        if total is not None and percent is not None and 0 < percent <= 100:
            readings.append(checked("memory_available_bytes", available_bytes(total, percent), self.source))
        if dispatch in PRESSURE_LEVELS:
            readings.append(checked("memory_pressure", pressure_of(dispatch, percent), self.source))
        if SWAP in values:
            readings.append(checked("swap_used_bytes", parse_swapusage(values[SWAP]), self.source))
        if not readings:
            raise Unavailable(f"{self.source} printed none of {', '.join(SYSCTL_COMMAND[1:])}")
        return tuple(readings)


class VmStat:
    """Available memory by counting pages, where the kernel's percentage is missing."""

    name = "memory_vm_stat"
    source = VM_STAT_COMMAND[0]

    def __init__(self, host: Host) -> None:
        self._host = host

    def read(self, now: float) -> tuple[Reading, ...]:
        """Available memory."""
        return (checked("memory_available_bytes", parse_vm_stat(self._host.output(*VM_STAT_COMMAND)), self.source),)


def _whole(text: str) -> int | None:
    return int(text) if text.isdigit() else None
