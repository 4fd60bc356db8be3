"""What the script sees of its knobs: plain values, and what a poll changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """A revision that a poll accepted: already in force in ``run.knobs``, to be acknowledged once the script follows it."""

    revision: int
    changed: dict[str, tuple[Any, Any]]
    """Old and new value of each knob that moved."""


class Knobs:
    """The values in force: ``knobs.micro_batch`` or ``knobs["micro_batch"]``. They change only inside ``poll`` or ``set``."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, float]) -> None:
        self._take(values)

    def _take(self, values: Mapping[str, float]) -> None:
        """Put ``values`` in force, all at once; for the run alone."""
        object.__setattr__(self, "_values", dict(values))

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"no knob {name!r}; attach() was given {sorted(self._values)}") from None

    def __getitem__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise KeyError(f"no knob {name!r}; attach() was given {sorted(self._values)}") from None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"knobs are read here; use run.set({name!r}, {value!r}) so that the daemon leaves it alone")

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Knobs({', '.join(f'{name}={value}' for name, value in self._values.items())})"

    def __reduce__(self) -> tuple[type[Knobs], tuple[dict[str, float]]]:
        return Knobs, (self._values,)
