"""Readings scripted for an experiment: what a driver writes, what the daemon reads as ``injected``, and what a trainer feels.

Standard library only: the MLX trainer and the simulator import it too.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from autotuner.hook.files import LARGEST_NOTE_BYTES, read_text
from autotuner.telemetry.sensor import Reading, Unavailable, checked

INJECTED = "injected"
"""Source of every reading that was scripted."""

MAX_AGE_SECONDS = 10.0
"""A driver that has not written for so long is taken for dead."""

GPU_BOUND = 0.9  # share of a step that scales with the clock; assumed, as in heat.py
SWAP_SLOPE = 6.0
SWAP_MAX = 4.0


@dataclass(frozen=True, slots=True)
class InjectedState:
    """The machine as an experiment pretends it to be; None leaves a quantity to the real sensors."""

    time: float
    """``time.monotonic()`` of the writer."""
    thermal_level: int | None = None
    celsius: float | None = None
    frequency_ratio: float = 1.0
    """Clock over full clock: what heat has left of it."""
    memory_limit_bytes: int | None = None
    """Memory that the pretended machine has for the training."""
    memory_available_bytes: int | None = None
    memory_pressure: int | None = None
    note: str = ""

    def write(self, path: Path) -> None:
        """Replace the file at once: a reader sees the old state or the new one, never a part."""
        draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        draft.write_text(json.dumps(asdict(self), allow_nan=False), encoding="utf-8")
        os.replace(draft, path)

    @classmethod
    def read(cls, path: Path) -> InjectedState:
        """The state in the file, of whatever age; raises Unavailable if there is none, or none that can be read."""
        try:
            text = read_text(path, LARGEST_NOTE_BYTES)
        except OSError as error:
            raise Unavailable(f"no injected readings at {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise Unavailable(f"injected readings at {path} are not text") from None
        return parse_injected(text, str(path))

    def fresh(self, now: float) -> bool:
        """Whether the driver wrote it within the last ``MAX_AGE_SECONDS``."""
        return abs(now - self.time) <= MAX_AGE_SECONDS


_FIELDS = {field.name for field in fields(InjectedState)}
_BOUNDS = {
    "time": (-math.inf, math.inf),
    "thermal_level": (0, 4),
    "celsius": (-50, 150),
    "frequency_ratio": (0.01, 1.0),
    "memory_limit_bytes": (1, 2**50),
    "memory_available_bytes": (0, 2**50),
    "memory_pressure": (0, 2),
}
_WHOLE = {"thermal_level", "memory_limit_bytes", "memory_available_bytes", "memory_pressure"}
_REQUIRED = {"time", "frequency_ratio"}  # every other field may be null


def parse_injected(text: str, origin: str) -> InjectedState:
    """The state that ``text`` describes; raises Unavailable, naming field and allowed values, if it describes none."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unavailable(f"injected readings at {origin} are not JSON: {error}") from None
    if not isinstance(document, dict) or not set(document) <= _FIELDS or "time" not in document:
        raise Unavailable(f"injected readings at {origin}: expected an object of time and any of {sorted(_FIELDS)}")
    for name, (lower, upper) in _BOUNDS.items():
        _check(document, name, lower, upper, origin)
    if not isinstance(document.get("note", ""), str):
        raise Unavailable(f"injected readings at {origin}: note = {document['note']!r}; allowed is text")
    return InjectedState(**document)


def _check(document: dict[str, Any], name: str, lower: float, upper: float, origin: str) -> None:
    if name not in document or (document[name] is None and name not in _REQUIRED):
        return
    value = document[name]
    kinds = int if name in _WHOLE else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value) or not lower <= value <= upper:
        raise Unavailable(f"injected readings at {origin}: {name} = {value!r}; allowed is {lower} to {upper}")


def slowdown(state: InjectedState, used_bytes: float = 0.0) -> float:
    """Factor by which an experiment's trainer stretches its step.

    Heat: the part of a step that is bound by the clock takes 1/f as long. Memory: above the limit a step costs
    ``1 + 6 * (used / limit - 1)`` as much, at most 4 times; that penalty is constructed to stand for swapping, not measured.
    """
    factor = 1.0 - GPU_BOUND + GPU_BOUND / state.frequency_ratio
    limit = state.memory_limit_bytes
    if limit is not None and used_bytes > limit:
        factor *= min(SWAP_MAX, 1.0 + SWAP_SLOPE * (used_bytes / limit - 1.0))
    return factor


_QUANTITIES = {
    "memory_total_bytes": "memory_limit_bytes",
    "memory_available_bytes": "memory_available_bytes",
    "memory_pressure": "memory_pressure",
    "thermal_level": "thermal_level",
    "celsius": "celsius",
}


class Scripted:
    """The sensor for injected heat and memory; every reading's source is ``injected``."""

    name = "scripted"
    source = INJECTED

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, now: float) -> tuple[Reading, ...]:
        """The quantities that the driver set."""
        state = InjectedState.read(self._path)
        if not state.fresh(now):
            age = f"{now - state.time:.0f} s old; at most {MAX_AGE_SECONDS:.0f} s are allowed"
            raise Unavailable(f"injected readings at {self._path} are {age}")
        values = {quantity: getattr(state, field) for quantity, field in _QUANTITIES.items()}
        readings = tuple(checked(quantity, value, INJECTED) for quantity, value in values.items() if value is not None)
        if not readings:
            raise Unavailable(f"injected readings at {self._path} set nothing")
        return readings
