"""Memory of one process, and whether it is still the process that it was."""

from __future__ import annotations

import ctypes
import struct
import sys
from dataclasses import dataclass

from autotuner.hook.process import process_start
from autotuner.telemetry.host import Host
from autotuner.telemetry.sensor import Unavailable

LIBPROC = "/usr/lib/libproc.dylib"
_RUSAGE_INFO_V0 = 0
_RUSAGE_BYTES = 512  # more than any version of the struct so far: the kernel writes what V0 has
_FOOTPRINT = struct.Struct("<Q")
_FOOTPRINT_OFFSET = 72  # after a uuid of 16 bytes, the eighth counter: ri_phys_footprint


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory that would come back if the process ended."""

    value_bytes: int
    source: str


def footprint(pid: int, platform: str = sys.platform, host: Host | None = None) -> Footprint:
    """Memory of a process; on macOS the physical footprint, since Metal's memory is in no resident size.

    Raises Unavailable when the process is gone or belongs to somebody else.
    """
    if platform == "darwin":
        try:
            return Footprint(physical_footprint(pid, host or Host()), "phys_footprint")
        except Unavailable:
            pass
    return resident(pid)


def physical_footprint(pid: int, host: Host) -> int:
    """``ri_phys_footprint`` of a process of one's own; raises Unavailable."""
    call = host.load_library(LIBPROC).proc_pid_rusage
    call.argtypes, call.restype = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p], ctypes.c_int
    buffer = ctypes.create_string_buffer(_RUSAGE_BYTES)
    if call(pid, _RUSAGE_INFO_V0, buffer) != 0:
        raise Unavailable(f"proc_pid_rusage of process {pid} is refused")
    host.note("proc_pid_rusage of the recorder", buffer.raw[:96].hex())
    footprint_bytes: int = _FOOTPRINT.unpack_from(buffer.raw, _FOOTPRINT_OFFSET)[0]
    if not footprint_bytes:
        raise Unavailable(f"proc_pid_rusage of process {pid} says nothing")
    return footprint_bytes


def resident(pid: int) -> Footprint:
    """Resident memory less what is shared, where that is known; raises Unavailable."""
    try:
        import psutil
    except ImportError:
        raise Unavailable("psutil is not installed") from None
    try:
        memory = psutil.Process(pid).memory_info()
    except (psutil.Error, OSError, RuntimeError) as error:
        raise Unavailable(f"process {pid}: {error}") from None
    shared = getattr(memory, "shared", 0)
    return Footprint(max(0, memory.rss - shared), "rss - shared" if shared else "rss")


def is_running(pid: int, pid_start: float) -> bool:
    """Whether the process that started at ``pid_start`` (see ``Declaration``) still runs: a reused pid does not count."""
    return process_start(pid) == pid_start
