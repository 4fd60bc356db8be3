"""Heat of macOS by the Darwin notification key, through the C library."""

from __future__ import annotations

import ctypes
from typing import Any

from autotuner.telemetry.host import Host
from autotuner.telemetry.sensor import Reading, Unavailable, checked
from autotuner.telemetry.sysctl_darwin import LIBSYSTEM

THERMAL_KEY = "com.apple.system.thermalpressurelevel"
"""On macOS its state is 0 nominal, 1 moderate, 2 heavy, 3 trapping, 4 sleeping; iOS counts 0, 10, 20 and on."""


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
