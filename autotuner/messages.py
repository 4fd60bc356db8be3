"""What hook and daemon say to each other: typed, versioned records and their binary layouts.

Telemetry travels as fixed-size ring records (layouts here, file in ``hook/ring.py``); knob positions travel in the
knob page (``hook/page.py``); the declaration is ``run.json``. All integers are little-endian. Times are seconds of
``time.monotonic()``, which every process of one boot shares on Linux and macOS, unless a name says ``unix``.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass, field
from typing import Any

from autotuner.errors import DeclarationError, ProtocolError
from autotuner.knobs import KnobDeclaration, declare

PROTOCOL_VERSION = 2
MODES = ("observe", "advise", "act")
NAN = math.nan
LATEST_UNIX = 1e11
"""The year 5138: no clock of a calendar is asked for more."""
DEEPEST = 16
"""Objects and lists inside each other in a declaration."""

# Flags of a sample.
FLAG_NOT_FINITE = 1  # loss or gradient was NaN or infinite; the step was skipped
FLAG_OUT_OF_MEMORY = 2  # the framework reported out of memory and the script caught it
FLAG_FIRST_OF_SHAPE = 4  # first step with this shape: its duration includes a compile
FLAG_CHECKPOINT = 8  # a checkpoint was written during this step

# Kinds of ring records.
KIND_SAMPLE = 1
KIND_EVALUATION = 2
KIND_ACKNOWLEDGEMENT = 3
KIND_GOODBYE = 4


@dataclass(frozen=True, slots=True)
class Sample:
    """One optimizer step as the hook saw it. Unknown floats are NaN, unknown byte counts are 0."""

    step: int
    time: float
    loss: float
    images: int = 0
    """Images seen since the run began."""
    step_seconds: float = NAN
    """Wall time of the whole optimizer step, accumulation and pacing included."""
    active_bytes: int = 0
    cache_bytes: int = 0
    peak_bytes: int = 0
    """Framework memory; ``peak`` since the previous sample."""
    revision: int = 0
    """Knob revision in force."""
    stage: int = 0
    flags: int = 0

    LAYOUT = struct.Struct("<QddQdQQQIHH")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A measurement on fixed data and fixed noise, at full resolution: comparable over the whole run."""

    step: int
    time: float
    held_out_loss: float
    quality: float = NAN
    """Distance of few-step samples from the data (lower is better), by the metric that the declaration names."""
    quality_steps: int = 0
    seconds: float = NAN
    """Wall time the evaluation took."""
    stage: int = 0
    gap: float = NAN
    """Distance of the student in the steps of its stage over its teacher's in many: what the stage's gate reads."""

    LAYOUT = struct.Struct("<QdddIdId")


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """The script applied (or the hook refused) a knob revision at a safe point before ``step``."""

    revision: int
    step: int
    time: float
    refused: bool = False
    detail: int = 0
    """Why it was refused: a value of REFUSALS."""
    positions: tuple[int, ...] = ()
    """Ladder positions in force afterwards, in the order of the declaration."""

    LAYOUT = struct.Struct("<QQdBBH16b")


REFUSALS = {
    0: "",
    1: "outside the ladder",
    2: "shape budget spent",
    3: "joint limit on pixels",
    4: "knob is not tunable",
    5: "another rank does not follow",
}


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The run ended by itself. ``outcome`` indexes OUTCOMES."""

    time: float
    outcome: int = 0

    LAYOUT = struct.Struct("<dI")


OUTCOMES = ("finished", "interrupted", "failed")

Record = Sample | Evaluation | Acknowledgement | Goodbye


@dataclass(frozen=True)
class Declaration:
    """What a run says of itself: ``run.json``."""

    run_id: str
    name: str
    pid: int
    pid_start: float
    """Start time of the process in the platform's own unit: tells a reused pid apart."""
    created_unix: float
    knobs: tuple[KnobDeclaration, ...] = ()
    framework: str = ""
    budget_seconds: float | None = None
    budget_steps: int | None = None
    target: float | None = None
    """Held-out loss at which the script counts the run as good enough."""
    quality_metric: str = ""
    max_shapes: int = 8
    max_pixels: int | None = None
    """Upper bound of micro_batch x resolution^2, the script's own joint limit."""
    model: dict[str, Any] = field(default_factory=dict)
    """Architecture parameters as told to the search, e.g. width, depth."""
    search_space: dict[str, list[Any]] = field(default_factory=dict)
    """Architecture choices the script can build; the next proposal is drawn from it."""
    version: int = PROTOCOL_VERSION

    def to_json(self) -> str:
        """One JSON object, keys as the fields."""
        document = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "knobs"}
        document["knobs"] = [
            {"name": knob.name, "values": list(knob.values), "start": knob.values[knob.start], "effect": knob.effect}
            for knob in self.knobs
        ]
        return json.dumps(document, indent=1, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Declaration:
        """Parse and check; raises ProtocolError for damage or another version, DeclarationError for bad values."""
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"run.json is not JSON: {error}") from None
        if not isinstance(document, dict):
            raise ProtocolError(f"run.json holds {type(document).__name__}, expected an object")
        if document.get("version") != PROTOCOL_VERSION:
            raise ProtocolError(
                f"run.json has version {document.get('version')!r:.80}; this Autotuner speaks {PROTOCOL_VERSION}"
            )
        unknown = set(document) - set(cls.__dataclass_fields__)
        if unknown:
            raise ProtocolError(f"run.json has unknown fields {sorted(unknown)!s:.300}")
        try:
            knobs = tuple(declare(k["name"], k["start"], k["values"], k["effect"]) for k in document.pop("knobs", []))
            declaration = cls(knobs=knobs, **document)
        except (KeyError, TypeError) as error:
            raise ProtocolError(f"run.json is incomplete: {error!s:.300}") from None
        declaration.check()
        return declaration

    def check(self) -> None:
        """Raise DeclarationError unless every field has its type and every bounded field is within its bounds."""
        for name, declared in self.__dataclass_fields__.items():
            allowed = _ALLOWED.get(str(declared.type))
            if allowed and not (isinstance(getattr(self, name), allowed[0]) and _is_plain(getattr(self, name))):
                raise DeclarationError(f"{name} {getattr(self, name)!r:.80}; allowed is {allowed[1]}")
        names = [knob.name for knob in self.knobs]
        if len(names) != len(set(names)):
            raise DeclarationError(f"a knob is declared twice: {names}")
        if not isinstance(self.run_id, str) or not self.run_id or not set(self.run_id) <= _RUN_ID_CHARACTERS:
            raise DeclarationError(f"run id {self.run_id!r:.80}; allowed are letters, digits, '-', '_' and '.'")
        if self.budget_seconds is not None and not 0 < self.budget_seconds < 1e9:
            raise DeclarationError(f"budget_seconds {self.budget_seconds!r}; allowed is a positive number below 1e9")
        if not 0 <= self.pid < 2**31:
            raise DeclarationError(f"pid {self.pid!r}; allowed is 0 to {2**31 - 1}")
        if not 0 <= self.created_unix < LATEST_UNIX:
            raise DeclarationError(f"created_unix {self.created_unix!r}; allowed is 0 to {LATEST_UNIX:g}")
        if not 1 <= self.max_shapes <= 64:
            raise DeclarationError(f"max_shapes {self.max_shapes!r}; allowed is 1 to 64")

    def knob(self, name: str) -> KnobDeclaration | None:
        """The declared knob called ``name``, or None."""
        return next((knob for knob in self.knobs if knob.name == name), None)

    @property
    def start(self) -> tuple[int, ...]:
        """The ladder positions that the script starts with, in the order of ``knobs``."""
        return tuple(knob.start for knob in self.knobs)


_ALLOWED: dict[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "a string"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a finite number"),
    "int | None": ((int, type(None)), "a whole number or null"),
    "float | None": ((int, float, type(None)), "a finite number or null"),
    "dict[str, Any]": ((dict,), "an object"),
    "dict[str, list[Any]]": ((dict,), "an object"),
}
"""Annotation of a field to what it may hold."""


def _is_plain(value: object) -> bool:
    """Not a truth value, and nothing that JSON or a float cannot hold."""
    return not isinstance(value, bool) and _can_be_told(value, DEEPEST)


def _can_be_told(value: object, depth: int) -> bool:
    if isinstance(value, (dict, list, tuple)):
        inner = (*value, *value.values()) if isinstance(value, dict) else value
        return depth > 0 and all(_can_be_told(item, depth - 1) for item in inner)
    return not isinstance(value, (int, float)) or -1e300 < value < 1e300


_RUN_ID_CHARACTERS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


@dataclass(frozen=True, slots=True)
class MachineState:
    """What the sensors said of the machine, merged; None is missing, never invented."""

    time: float
    memory_total_bytes: int | None = None
    memory_available_bytes: int | None = None
    """What this machine can still give out without swapping."""
    memory_pressure: int | None = None
    """0 normal, 1 warn, 2 critical."""
    swap_used_bytes: int | None = None
    thermal_level: int | None = None
    """0 nominal, 1 moderate, 2 heavy, 3 trapping, 4 sleeping."""
    celsius: float | None = None
    injected: bool = False
    """Whether any value was scripted for an experiment instead of measured."""
