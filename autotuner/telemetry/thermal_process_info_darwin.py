"""Heat of macOS by NSProcessInfo, through the Objective-C runtime."""

from __future__ import annotations

import ctypes

from autotuner.telemetry.host import Host
from autotuner.telemetry.sensor import Reading, Unavailable, checked

LIBOBJC = "/usr/lib/libobjc.A.dylib"

FOUNDATION = "/System/Library/Frameworks/Foundation.framework/Foundation"

PROCESS_INFO_LEVELS = {0: 0, 1: 1, 2: 3, 3: 4}
"""NSProcessInfo: nominal, fair, serious, critical. Fair covers moderate and heavy: the lower one is what we know."""


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
