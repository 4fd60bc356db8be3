"""The knob values in force, changed only between two optimizer steps, with a record of every change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from autotuner.errors import DeclarationError
from autotuner.knobs import KnobDeclaration


@dataclass(frozen=True, slots=True)
class KnobChange:
    """One change, as result.json keeps it."""

    step: int
    """First optimizer step under the new value."""
    seconds: float
    knob: str
    old: float
    new: float
    by: str
    """``daemon``, ``plan`` or ``script``."""


class LiveKnobs:
    """Current value of each declared knob."""

    def __init__(self, declarations: Mapping[str, KnobDeclaration]) -> None:
        self._declarations = dict(declarations)
        self._values = {name: knob.values[knob.start] for name, knob in declarations.items()}
        self.changes: list[KnobChange] = []

    def __getitem__(self, name: str) -> float:
        return self._values[name]

    def whole(self, name: str) -> int:
        """The value of an integer knob."""
        return int(self._values[name])

    def change(self, name: str, value: float, step: int, seconds: float, by: str) -> bool:
        """Put ``value`` in force; returns whether anything changed. Raises DeclarationError off the ladder."""
        if name not in self._declarations:
            raise DeclarationError(f"knob {name!r} is not offered; offered: {', '.join(self._declarations)}")
        ladder = self._declarations[name].values
        if value not in ladder:
            raise DeclarationError(f"knob {name!r}: value {value!r}; its ladder is {list(ladder)}")
        old = self._values[name]
        if value == old:
            return False
        self._values[name] = value
        self.changes.append(KnobChange(step, seconds, name, old, value, by))
        return True

    def to_dict(self) -> dict[str, Any]:
        """The values, for a checkpoint."""
        return dict(self._values)

    def restore(self, values: Mapping[str, float], changes: list[dict[str, Any]]) -> None:
        """Values and history of a checkpoint; values that left the ladder are dropped."""
        for name, value in values.items():
            if name in self._declarations and value in self._declarations[name].values:
                self._values[name] = value
        self.changes = [KnobChange(**change) for change in changes]

    def history(self) -> list[dict[str, Any]]:
        """Every change as plain values."""
        return [asdict(change) for change in self.changes]
