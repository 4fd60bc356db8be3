"""System values of macOS by name, straight from the C library."""

from __future__ import annotations

import ctypes

from autotuner.telemetry.host import Host
from autotuner.telemetry.sensor import Unavailable

LIBSYSTEM = "/usr/lib/libSystem.B.dylib"  # loads although the file exists in the shared cache only
_CAPACITY_BYTES = 256


def sysctl_bytes(host: Host, name: str) -> bytes:
    """The raw value; raises Unavailable where the name is unknown or forbidden."""
    call = host.load_library(LIBSYSTEM).sysctlbyname
    call.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t), ctypes.c_void_p, ctypes.c_size_t]
    call.restype = ctypes.c_int
    buffer = ctypes.create_string_buffer(_CAPACITY_BYTES)
    size = ctypes.c_size_t(_CAPACITY_BYTES)
    if call(name.encode(), buffer, ctypes.byref(size), None, 0) != 0:
        host.note(f"sysctl {name}", "refused")
        raise Unavailable(f"sysctl {name} is refused or unknown")
    raw = buffer.raw[: size.value]
    host.note(f"sysctl {name}", raw.hex())
    return raw


def sysctl_integer(host: Host, name: str) -> int:
    """An integer value of four or eight bytes; raises Unavailable for any other size."""
    raw = sysctl_bytes(host, name)
    if len(raw) not in (4, 8):
        raise Unavailable(f"sysctl {name} has {len(raw)} bytes; expected 4 or 8")
    return int.from_bytes(raw, "little", signed=True)
