"""Everything that the readers read, raw: what someone with a machine that we lack can send us."""

from __future__ import annotations

import os
import platform
import pwd
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotuner.telemetry.hazards import DARWIN_HAZARDS, Hazard
from autotuner.telemetry.host import Host
from autotuner.telemetry.process import footprint
from autotuner.telemetry.registry import Registry
from autotuner.telemetry.sensor import Sensor, Unavailable

RECORD_VERSION = 1

EXTRA_COMMANDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "darwin": (
        ("/usr/bin/sw_vers",),
        ("/usr/sbin/sysctl", "hw.model", "machdep.cpu.brand_string", "iogpu.wired_limit_mb"),
        ("/usr/bin/memory_pressure", "-Q"),
        ("/usr/sbin/ioreg", "-r", "-d", "1", "-w", "0", "-c", "IOAccelerator"),
    ),
}
"""Read by no sensor: which machine it is, what its own tool says of memory, and how often its GPU was reset."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Something beside sensors that is asked once: what is asked, and a call that answers in values of JSON.

    The call raises Unavailable with the reason; anything else that it raises is recorded as a defect.
    """

    source: str
    ask: Callable[[], Mapping[str, Any]]


def record(registry: Registry, probes: Mapping[str, Probe] | None = None) -> dict[str, Any]:
    """Ask every sensor of the registry's platform once, fallbacks too, and keep both what it read and what it made of it.

    So it does with the hazards of the platform, and with ``probes``. The result is JSON-able and holds no environment, no host
    name, no user name and no home directory.
    """
    raw: dict[str, str] = {}
    host = registry.host.recording(raw)
    now = time.monotonic()
    sensors = {row.sensor.name: row.sensor for chain in registry.table(host) for row in chain.rows}
    readings = {name: _ask(sensor, now) for name, sensor in sensors.items()}
    readings["process_footprint"] = _ask_footprint(registry.platform, host)
    readings |= {f"hazard_{name}": _ask_hazard(name, host) for name in _hazards_of(registry.platform)}
    readings |= {name: _answer(probe.source, probe.ask) for name, probe in (probes or {}).items()}
    for command in EXTRA_COMMANDS.get(registry.platform, ()):
        _try_output(host, command)
    document = {
        "record_version": RECORD_VERSION,
        "platform": registry.platform,
        "release": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "readings": readings,
        "raw": raw,
    }
    scrubbed: dict[str, Any] = _scrub(document, _private_words())
    return scrubbed


def _ask(sensor: Sensor, now: float) -> dict[str, Any]:
    return _answer(sensor.source, lambda: {reading.quantity: reading.value for reading in sensor.read(now)})


def _answer(source: str, ask: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    began = time.perf_counter()
    try:
        answer: dict[str, Any] = {"values": dict(ask())}
    except Unavailable as error:
        answer = {"unavailable": str(error)}
    except Exception as error:  # a recording of a defect is the most useful one
        answer = {"defect": f"{type(error).__name__}: {error}"}
    return {"source": source, "seconds": time.perf_counter() - began, **answer}


def _hazards_of(platform_name: str) -> tuple[str, ...]:
    return tuple(DARWIN_HAZARDS) if platform_name == "darwin" else ()


def _ask_hazard(name: str, host: Host) -> dict[str, Any]:
    def ask() -> dict[str, Any]:
        hazard: Hazard = DARWIN_HAZARDS[name](host)
        return {"grave": hazard.grave, "says": hazard.text}

    return _answer("hazards", ask)


def _ask_footprint(platform_name: str, host: Host) -> dict[str, Any]:
    try:
        found = footprint(os.getpid(), platform_name, host)
    except Unavailable as error:
        return {"unavailable": str(error)}
    return {"source": found.source, "values": {"footprint_bytes": found.value_bytes}}


def _try_output(host: Host, command: tuple[str, ...]) -> None:
    try:
        host.output(*command)
    except Unavailable:
        return  # the host kept the reason


def _private_words() -> dict[str, str]:
    """What to replace; the longest first, since a home directory ends in the user's name."""
    words = {str(Path.home()): "~", platform.node(): "HOST", platform.node().partition(".")[0]: "HOST"}
    try:
        user = pwd.getpwuid(os.getuid())
        words |= {user.pw_dir: "~", user.pw_name: "USER"}
    except KeyError:
        pass  # a uid without a name has no name to hide
    found = {word: cover for word, cover in words.items() if len(word) > 2 and word not in _PUBLIC_WORDS}
    return dict(sorted(found.items(), key=lambda pair: -len(pair[0])))


_LONG_ENOUGH = 5  # to be no part of another word by chance
_PUBLIC_WORDS = {"root", "localhost", "nobody"}


def _scrub(value: Any, words: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {_scrub(key, words): _scrub(item, words) for key, item in value.items()}
    if isinstance(value, list):
        return [_scrub(item, words) for item in value]
    if isinstance(value, str):
        for word, cover in words.items():
            # A short name is covered as a whole word only: a user may be called "max", as a file of control groups is.
            alone = len(word) < _LONG_ENOUGH
            value = re.sub(rf"(?<![\w.]){re.escape(word)}(?!\w)" if alone else re.escape(word), cover, value)
    return value
