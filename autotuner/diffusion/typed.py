"""Whether plain values are what a record's annotations say: Python itself does not ask."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Any

from autotuner.errors import ConfigurationError

NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    dict: "a table",
    tuple: "a list of whole numbers",
    types.NoneType: "nothing",
}
"""What an error calls the kinds of values that settings have."""


def check(values: Mapping[str, Any], record: type, where: str = "") -> None:
    """Refuse keys that the dataclass ``record`` has no field for, and values that are not of their field's type.

    ``where`` stands before the key in the ConfigurationError, which says what is allowed.
    """
    known = {field.name: _hints(record)[field.name] for field in fields(record)}
    for name, value in values.items():
        if name not in known:
            raise ConfigurationError(f"{where}{name} is unknown; allowed: {', '.join(known)}")
        if not is_a(value, known[name]):
            raise ConfigurationError(f"{where}{name} {value!r}; allowed is {named(known[name])}")


def is_a(value: Any, kind: Any) -> bool:
    """Whether ``value`` is what the annotation says; a whole number passes for a float, True and False for no number."""
    if isinstance(kind, types.UnionType):
        return any(is_a(value, each) for each in typing.get_args(kind))
    origin = typing.get_origin(kind) or kind
    if origin is tuple:
        return isinstance(value, tuple) and all(is_a(item, typing.get_args(kind)[0]) for item in value)
    if isinstance(value, bool):
        return origin is bool
    return isinstance(value, int | float if origin is float else origin)


def named(kind: Any) -> str:
    """The annotation in words."""
    if isinstance(kind, types.UnionType):
        return " or ".join(named(each) for each in typing.get_args(kind))
    return NAMES[typing.get_origin(kind) or kind]


@lru_cache(maxsize=16)
def _hints(record: type) -> dict[str, Any]:
    return typing.get_type_hints(record)
