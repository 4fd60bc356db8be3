"""Swap of macOS."""

from __future__ import annotations

import re
import struct

from autotuner.telemetry.host import Host
from autotuner.telemetry.sensor import Reading, Unavailable, checked
from autotuner.telemetry.sysctl_darwin import sysctl_bytes

SWAP = "vm.swapusage"

_XSW_USAGE = struct.Struct("<QQQ")  # struct xsw_usage: total, available, used, then page size and encrypted

_SUFFIXES = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


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


class SwapDarwin:
    """Swap in use."""

    name = "swap_sysctl"
    source = f"sysctl {SWAP}"

    def __init__(self, host: Host) -> None:
        self._host = host

    def read(self, now: float) -> tuple[Reading, ...]:
        """Swap in use."""
        return (checked("swap_used_bytes", parse_xsw_usage(sysctl_bytes(self._host, SWAP)), self.source),)
