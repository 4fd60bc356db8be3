"""Heat of macOS: the Darwin notification key by library or command, then NSProcessInfo, then pmset."""

from __future__ import annotations

import ctypes
import re
from typing import Any

from autotuner.telemetry.host import Host
from autotuner.telemetry.sensor import Reading, Unavailable, checked
from autotuner.telemetry.sysctl_darwin import LIBSYSTEM

THERMAL_KEY = "com.apple.system.thermalpressurelevel"
"""On macOS its state is 0 nominal, 1 moderate, 2 heavy, 3 trapping, 4 sleeping; iOS counts 0, 10, 20 and on."""

NOTIFYUTIL = "/usr/bin/notifyutil"
PMSET_COMMAND = ("/usr/bin/pmset", "-g", "therm")
LIBOBJC = "/usr/lib/libobjc.A.dylib"
FOUNDATION = "/System/Library/Frameworks/Foundation.framework/Foundation"

PROCESS_INFO_LEVELS = {0: 0, 1: 1, 2: 3, 3: 4}
"""NSProcessInfo: nominal, fair, serious, critical. Fair covers moderate and heavy: the lower one is what we know."""

_THROTTLED = 2  # pmset tells only that the clock is limited, which is what heavy means


def parse_notifyutil(text: str) -> int:
    """The state, from ``<key> <number>``."""
    words = text.split()
    if not words or not words[-1].isdigit():
        raise Unavailable(f"notifyutil printed {text[:80]!r}; expected a key and its state")
    return int(words[-1])


def parse_pmset_therm(text: str) -> int:
    """Throttled or not, from the speed limit in percent; notes alone are no information, not nominal."""
    found = re.search(r"^\s*CPU_Speed_Limit\s*=\s*(\d+)\s*$", text, re.MULTILINE)
    if found is None:
        raise Unavailable("pmset reports no CPU_Speed_Limit: no information about heat")
    return _THROTTLED if int(found[1]) < 100 else 0


class ThermalNotify:
    """The thermal pressure level by notify(3): registered once, then microseconds a reading, no privileges."""

    name = "thermal_notify"
    source = f"notify {THERMAL_KEY}"

    def __init__(self, host: Host, key: str = THERMAL_KEY) -> None:
        """``key`` may name a private key that ``notifyutil`` can set, to try the reader without heating anything."""
        self._host = host
        self._key = key
        self._library: Any = None
        self._token: ctypes.c_int | None = None

    def read(self, now: float) -> tuple[Reading, ...]:
        """The thermal level."""
        if self._token is None:
            self._register()
        state = ctypes.c_uint64()
        status = self._library.notify_get_state(self._token, ctypes.byref(state))
        if status != 0:
            self._token = None
            raise Unavailable(f"notify_get_state of {self._key} failed with status {status}")
        self._host.note(self.source, str(state.value))
        return (checked("thermal_level", state.value, self.source),)

    def _register(self) -> None:
        library = self._host.load_library(LIBSYSTEM)
        library.notify_register_check.argtypes = [ctypes.c_char_p, ctypes.POINTER(ctypes.c_int)]
        library.notify_register_check.restype = ctypes.c_uint32
        library.notify_get_state.argtypes = [ctypes.c_int, ctypes.POINTER(ctypes.c_uint64)]
        library.notify_get_state.restype = ctypes.c_uint32
        token = ctypes.c_int()
        status = library.notify_register_check(self._key.encode(), ctypes.byref(token))
        if status != 0:
            raise Unavailable(f"notify_register_check of {self._key} failed with status {status}")
        self._library, self._token = library, token


class NotifyUtil:
    """The same state as printed by notifyutil."""

    name = "thermal_notifyutil"
    source = NOTIFYUTIL

    def __init__(self, host: Host) -> None:
        self._host = host

    def read(self, now: float) -> tuple[Reading, ...]:
        """The thermal level."""
        return (checked("thermal_level", parse_notifyutil(self._host.output(NOTIFYUTIL, "-g", THERMAL_KEY)), self.source),)


class ProcessInfo:
    """NSProcessInfo.thermalState through the Objective-C runtime: public, but coarser."""

    name = "thermal_process_info"
    source = "NSProcessInfo.thermalState"

    def __init__(self, host: Host) -> None:
        self._host = host

    def read(self, now: float) -> tuple[Reading, ...]:
        """The thermal level, as far as four states tell it."""
        state = self._state()
        self._host.note(self.source, str(state))
        if state not in PROCESS_INFO_LEVELS:
            raise Unavailable(f"{self.source} says {state}; known are {sorted(PROCESS_INFO_LEVELS)}")
        return (checked("thermal_level", PROCESS_INFO_LEVELS[state], self.source),)

    def _state(self) -> int:
        self._host.load_library(FOUNDATION)  # brings the class into the runtime
        objc = self._host.load_library(LIBOBJC)
        for lookup in (objc.objc_getClass, objc.sel_registerName):
            lookup.argtypes, lookup.restype = [ctypes.c_char_p], ctypes.c_void_p
        # Both messages return a pointer-sized integer in the same register; c_size_t keeps a state of 0 apart from None.
        objc.objc_msgSend.argtypes, objc.objc_msgSend.restype = [ctypes.c_void_p, ctypes.c_void_p], ctypes.c_size_t
        cls = objc.objc_getClass(b"NSProcessInfo")
        info = objc.objc_msgSend(cls, objc.sel_registerName(b"processInfo")) if cls else 0
        if not info:
            raise Unavailable("NSProcessInfo is not in the Objective-C runtime")
        return int(objc.objc_msgSend(info, objc.sel_registerName(b"thermalState")))


class Pmset:
    """The speed limit that Intel Macs report."""

    name = "thermal_pmset"
    source = " ".join(PMSET_COMMAND)

    def __init__(self, host: Host) -> None:
        self._host = host

    def read(self, now: float) -> tuple[Reading, ...]:
        """The thermal level: throttled or not."""
        return (checked("thermal_level", parse_pmset_therm(self._host.output(*PMSET_COMMAND)), self.source),)
