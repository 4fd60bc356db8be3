"""Heat of macOS by the same key, as the command notifyutil prints it."""

from __future__ import annotations

from autotuner.telemetry.host import Host
from autotuner.telemetry.sensor import Reading, Unavailable, checked
from autotuner.telemetry.thermal_notify_darwin import THERMAL_KEY

NOTIFYUTIL = "/usr/bin/notifyutil"


def parse_notifyutil(text: str) -> int:
    """The state, from ``<key> <number>``."""
    words = text.split()
    if not words or not words[-1].isdigit():
        raise Unavailable(f"notifyutil printed {text[:80]!r}; expected a key and its state")
    return int(words[-1])


class NotifyUtil:
    """The same state as printed by notifyutil."""

    name = "thermal_notifyutil"
    source = NOTIFYUTIL

    def __init__(self, host: Host) -> None:
        self._host = host

    def read(self, now: float) -> tuple[Reading, ...]:
        """The thermal level."""
        return (checked("thermal_level", parse_notifyutil(self._host.output(NOTIFYUTIL, "-g", THERMAL_KEY)), self.source),)
