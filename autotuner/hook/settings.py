"""The arguments of ``attach`` besides the knobs, checked one by one: a bad one is told and replaced by its default."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from autotuner.hook.attach import SHAPE_DWELL_STEPS
from autotuner.hook.warning import warn


@dataclass(frozen=True, slots=True)
class _Setting:
    allowed: Callable[[Any], bool]
    sentence: str
    default: Any


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_steps(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 1_000_000


def _is_json_object(value: Any) -> bool:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return False
    try:
        json.dumps(dict(value), allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _is_search_space(value: Any) -> bool:
    return _is_json_object(value) and all(isinstance(choices, (list, tuple)) and choices for choices in value.values())


_SETTINGS: dict[str, _Setting] = {
    "framework": _Setting(lambda value: isinstance(value, str), "a string", ""),
    "quality_metric": _Setting(lambda value: isinstance(value, str), "a string", ""),
    "budget_seconds": _Setting(lambda value: _is_number(value) and 0 < value < 1e9, "a positive number below 1e9", None),
    "budget_steps": _Setting(_is_count, "a positive whole number", None),
    "target": _Setting(_is_number, "a finite number", None),
    "max_shapes": _Setting(lambda value: _is_count(value) and value <= 64, "a whole number from 1 to 64", 8),
    "shape_dwell_steps": _Setting(_is_steps, "a whole number from 0 to 1000000", SHAPE_DWELL_STEPS),
    "clear_cache": _Setting(callable, "a function without arguments", None),
    "max_pixels": _Setting(_is_count, "a positive whole number", None),
    "model": _Setting(_is_json_object, "a dict that JSON can hold", {}),
    "search_space": _Setting(_is_search_space, "a dict of non-empty lists that JSON can hold", {}),
}


def checked_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting with a value that the declaration can hold; None means its default."""
    return {name: _checked(name, _SETTINGS[name], value) for name, value in given.items()}


def _checked(name: str, setting: _Setting, value: Any) -> Any:
    if value is None:
        return setting.default
    if not setting.allowed(value):
        warn(f"attach({name}={value!r}): allowed is {setting.sentence}; taken as {setting.default!r}")
        return setting.default
    return dict(value) if isinstance(value, Mapping) else value
