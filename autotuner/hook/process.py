"""What identifies a process: its number, and when it started."""

from __future__ import annotations

import os
import struct
import sys
import time
from collections.abc import Callable
from typing import TypeVar

Raw = TypeVar("Raw")

_PROC_PIDTBSDINFO = 3
_BSDINFO_BYTES = 136
_BSDINFO_START = struct.Struct("<QQ")  # pbi_start_tvsec and pbi_start_tvusec, the last two fields
_BSDINFO_START_OFFSET = 120


def process_start(
    pid: int,
    *,
    platform: str = sys.platform,
    read_stat: Callable[[int], str] | None = None,
    pid_info: Callable[[int], bytes] | None = None,
    run_ps: Callable[[int], str] | None = None,
) -> float | None:
    """When ``pid`` started, in the platform's own unit, or None when there is no such process.

    Linux counts clock ticks since boot, macOS seconds since 1970; only equality means something.
    """
    if platform == "linux":
        return _parsed(parse_stat, read_stat or _read_stat, pid)
    start = _parsed(parse_bsdinfo, pid_info or _pid_info, pid) if platform == "darwin" else None
    return start if start is not None else _parsed(parse_ps, run_ps or _run_ps, pid)


def parse_stat(text: str) -> float:
    """Field 22 of ``/proc/<pid>/stat``; the command in field 2 may hold spaces and parentheses."""
    state, *fields = text[text.rindex(")") + 1 :].split()
    return _alive(state, float(fields[18]))


def parse_bsdinfo(data: bytes) -> float:
    """Start time in ``struct proc_bsdinfo``."""
    seconds, microseconds = _BSDINFO_START.unpack_from(data, _BSDINFO_START_OFFSET)
    return float(seconds + microseconds * 1e-6)


def parse_ps(text: str) -> float:
    """Start time as ``ps -o stat= -o lstart=`` prints it in the C locale, e.g. ``S+  Sat Nov 22 19:40:01 2025``."""
    state, _, start = text.strip().partition(" ")
    return _alive(state, time.mktime(time.strptime(start.strip(), "%a %b %d %H:%M:%S %Y")))


def _alive(state: str, start: float) -> float:
    """``start``, unless the process has ended and only waits to be collected."""
    if state[:1] in ("Z", "X"):
        raise ProcessLookupError(f"the process has ended: state {state}")
    return start


def _parsed(parse: Callable[[Raw], float], read: Callable[[int], Raw], pid: int) -> float | None:
    try:
        return parse(read(pid))
    except (OSError, ValueError, IndexError, AttributeError, struct.error):
        return None


def _read_stat(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return file.read()


def _pid_info(pid: int) -> bytes:
    import ctypes  # costly, and needed on macOS alone

    library = ctypes.CDLL("/usr/lib/libproc.dylib", use_errno=True)
    buffer = ctypes.create_string_buffer(_BSDINFO_BYTES)
    if library.proc_pidinfo(pid, _PROC_PIDTBSDINFO, ctypes.c_uint64(0), buffer, _BSDINFO_BYTES) != _BSDINFO_BYTES:
        raise ProcessLookupError(ctypes.get_errno(), f"proc_pidinfo({pid})")
    return buffer.raw


def _run_ps(pid: int) -> str:
    import subprocess  # costly, and the last resort

    environment = {**os.environ, "LC_ALL": "C"}
    command = ["/bin/ps", "-o", "stat=", "-o", "lstart=", "-p", str(pid)]
    try:
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=5, check=True).stdout
    except subprocess.SubprocessError as error:
        raise ProcessLookupError(f"ps does not know process {pid}: {error}") from None
