"""The lines that a client may send over the socket: one JSON object each, checked field by field against one table."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autotuner.hook.checkpoint import LONGEST_TEXT_BYTES
from autotuner.messages import OUTCOMES

LONGEST_LINE_BYTES = 65_536
LARGEST_WHOLE = 2**53
"""The largest whole number that every language reads from JSON without loss."""
LARGEST_NUMBER = 1e300
DEEPEST = 16
"""Objects and lists inside each other."""


class LineError(Exception):
    """A line that is not taken: ``field`` is its culprit, empty when it is the line as a whole."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class Field:
    """One field of a message: who checks it, in which words it is allowed, and what it is when it is left out."""

    allowed: Callable[[Any], bool]
    sentence: str
    default: Any = None
    required: bool = False


def _whole(low: int, high: int, default: Any = None, required: bool = False) -> Field:
    def allowed(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    return Field(allowed, f"a whole number from {low} to {high}", default, required)


def _number(low: float, high: float, required: bool = False) -> Field:
    def allowed(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high

    return Field(allowed, f"a number from {low:g} to {high:g}", None, required)


def _words(longest: int, default: str = "", required: bool = False) -> Field:
    def allowed(value: Any) -> bool:
        return isinstance(value, str) and len(value) <= longest and (not required or bool(value.strip()))

    return Field(allowed, f"a string of {int(required)} to {longest} characters", default, required)


def _truth() -> Field:
    return Field(lambda value: isinstance(value, bool), "true or false", False)


def _object(required: bool = False) -> Field:
    return Field(lambda value: isinstance(value, dict), "an object", {}, required)


def _lists() -> Field:
    def allowed(value: Any) -> bool:
        return isinstance(value, dict) and all(isinstance(item, list) and item for item in value.values())

    return Field(allowed, "an object of lists that are not empty", {})


_STEP = _whole(0, LARGEST_WHOLE, required=True)
_COUNT = _whole(0, LARGEST_WHOLE, default=0)
_ANY_NUMBER = _number(-LARGEST_NUMBER, LARGEST_NUMBER)
_SECONDS = _number(0, 1e9)

MESSAGES: dict[str, dict[str, Field]] = {
    "declare": {
        "name": _words(200, required=True),
        "knobs": _object(),
        "framework": _words(200),
        "budget_seconds": _number(1e-9, 999_999_999),
        "budget_steps": _whole(1, LARGEST_WHOLE),
        "target": _ANY_NUMBER,
        "quality_metric": _words(200),
        "model": _object(),
        "search_space": _lists(),
        "max_shapes": _whole(1, 64, default=8),
        "shape_dwell_steps": _whole(0, 1_000_000, default=10),
        "max_pixels": _whole(1, LARGEST_WHOLE),
        "can_save": _truth(),
        "can_restore": _truth(),
    },
    "resume": {"run": _words(200, required=True)},
    "report": {
        "step": _STEP,
        "loss": _ANY_NUMBER,
        "images": _COUNT,
        "step_seconds": _SECONDS,
        "active_bytes": _COUNT,
        "cache_bytes": _COUNT,
        "peak_bytes": _COUNT,
        "stage": _whole(0, 16, default=0),
        "not_finite": _truth(),
        "out_of_memory": _truth(),
        "first_of_shape": _truth(),
        "checkpoint": _truth(),
    },
    "evaluation": {
        "step": _STEP,
        "held_out_loss": _number(-LARGEST_NUMBER, LARGEST_NUMBER, required=True),
        "quality": _ANY_NUMBER,
        "quality_steps": _whole(0, 1_000_000, default=0),
        "seconds": _SECONDS,
        "stage": _whole(0, 16, default=0),
        "gap": _ANY_NUMBER,
    },
    "acknowledge": {"revision": _whole(1, LARGEST_WHOLE, required=True), "step": _STEP, "refused": _truth()},
    "set": {"step": _STEP, "values": _object(required=True)},
    "checkpoint": {
        "request": _whole(1, LARGEST_WHOLE, required=True),
        "step": _STEP,
        "path": _words(LONGEST_TEXT_BYTES),
        "failed": _words(LONGEST_TEXT_BYTES),
    },
    "end": {"outcome": Field(lambda value: value in OUTCOMES, ", ".join(OUTCOMES), "finished")},
}
"""Kind of a message to its fields; docs/protocol.md is tested to name them all."""

KNOB: dict[str, Field] = {
    "start": _number(-LARGEST_NUMBER, LARGEST_NUMBER, required=True),
    "values": Field(lambda value: isinstance(value, list), "a list of numbers", required=True),
    "effect": _words(20, "live"),
}


def parse(line: bytes) -> tuple[str, dict[str, Any]]:
    """The kind of a line and its fields, absent ones at their defaults; raises LineError."""
    document = read_object(line)
    kind = document.pop("type", None)
    if not isinstance(kind, str) or kind not in MESSAGES:
        raise LineError("type", f"type is {kind!r:.80}; allowed are {', '.join(MESSAGES)}")
    return kind, checked(MESSAGES[kind], document, kind)


def read_object(line: bytes) -> dict[str, Any]:
    """One JSON object that is neither deep nor ambiguous, its fields unchecked; raises LineError."""
    try:
        document = json.loads(line.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_no_twice)
    except (ValueError, RecursionError) as error:
        raise LineError("", f"the line is not JSON: {error}"[:300]) from None
    if not isinstance(document, dict):
        raise LineError("", f"the line holds {type(document).__name__}, expected an object")
    if not _is_flat(document):
        raise LineError("", f"the line nests deeper than {DEEPEST} objects and lists")
    return document


def checked(fields: dict[str, Field], document: Any, where: str) -> dict[str, Any]:
    """``document`` against ``fields``; null is the same as absent. Raises LineError."""
    if not isinstance(document, dict):
        raise LineError(where, f"{where} is {document!r:.80}; allowed is an object")
    for name in document:
        if name not in fields:
            raise LineError(name[:80], f"{where} has no field {name!r:.80}; it has {', '.join(fields)}")
    values = {}
    for name, field in fields.items():
        value = document.get(name)
        if value is None:
            if field.required:
                raise LineError(name, f"{where} needs {name}: {field.sentence}")
            value = field.default
        elif not _bounded(value) or not field.allowed(value):
            raise LineError(name, f"{name} is {value!r:.80}; allowed is {field.sentence}")
        values[name] = value
    return values


def _bounded(value: Any) -> bool:
    """Whether every number inside is one that a float holds; ``1e999`` reads as infinite."""
    if isinstance(value, dict):
        return all(_bounded(item) for item in value.values())
    if isinstance(value, list):
        return all(_bounded(item) for item in value)
    return not isinstance(value, (int, float)) or -LARGEST_NUMBER <= value <= LARGEST_NUMBER


def _is_flat(document: Any) -> bool:
    """Whether nothing lies deeper than DEEPEST; asked level by level, since what recurses can be overrun."""
    level = [document]
    for _ in range(DEEPEST):
        inner = (item.values() if isinstance(item, dict) else item for item in level)
        level = [value for values in inner for value in values if isinstance(value, (dict, list))]
    return not level


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a field is there twice")
    return document
