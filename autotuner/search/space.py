"""A run's search space, checked, as Optuna distributions."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from autotuner.errors import DeclarationError

MAX_CHOICES = 64
"""Most values that one parameter may have."""

Parameters = dict[str, Any]


@dataclass(frozen=True)
class Space:
    """The choices that a script can build, by parameter name; every combination is allowed."""

    choices: Mapping[str, tuple[Any, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters in the order in which the script gave them."""
        return tuple(self.choices)

    @property
    def size(self) -> int:
        """How many combinations there are."""
        return math.prod(len(values) for values in self.choices.values())

    @property
    def digest(self) -> str:
        """Tells two spaces apart: results of one are told to another only where they fit."""
        canonical = {name: sorted(json.dumps(value) for value in values) for name, values in self.choices.items()}
        return hashlib.sha256(json.dumps(canonical, sort_keys=True).encode()).hexdigest()[:6]

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """One Optuna distribution for each parameter."""
        return {name: _distribution(values) for name, values in self.choices.items()}

    def combinations(self) -> Iterator[Parameters]:
        """Every combination, in a fixed order."""
        for values in itertools.product(*self.choices.values()):
            yield dict(zip(self.choices, values, strict=True))

    def fit(self, model: Mapping[str, Any]) -> Parameters | None:
        """The part of ``model`` that the space names, as this space writes it; None when any value is not a choice."""
        found: Parameters = {}
        for name, values in self.choices.items():
            match = [value for value in values if name in model and _same(value, model[name])]
            if not match:
                return None
            found[name] = match[0]
        return found


def check(declared: Mapping[str, Sequence[Any]]) -> Space:
    """Read a declaration's ``search_space``; raises DeclarationError naming parameter, value and what is allowed."""
    if not declared:
        raise DeclarationError("search space is empty; give at least one parameter with its choices")
    return Space({name: _choices(name, values) for name, values in declared.items()})


def _choices(name: str, values: Sequence[Any]) -> tuple[Any, ...]:
    if not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
        raise DeclarationError(f"search space: parameter name {name!r}; allowed is an identifier that does not begin with '_'")
    if not isinstance(values, (list, tuple)) or not 1 <= len(values) <= MAX_CHOICES:
        raise DeclarationError(f"search space: {name} = {values!r}; allowed is a list of 1 to {MAX_CHOICES} choices")
    for value in values:
        if not isinstance(value, (str, int, float)) or (isinstance(value, float) and not math.isfinite(value)):
            raise DeclarationError(
                f"search space: {name} has the choice {value!r}; allowed are text, finite numbers, true and false"
            )
    if any(_same(one, other) for one, other in itertools.combinations(values, 2)):
        raise DeclarationError(f"search space: {name} = {list(values)!r} has a choice twice")
    return tuple(values)


def _same(one: Any, other: Any) -> bool:
    """Equality that keeps True apart from 1, which Python does not."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _distribution(values: tuple[Any, ...]) -> BaseDistribution:
    """Evenly spaced whole numbers keep their order and distance; anything else is a set of choices."""
    if len(values) > 2 and all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        ladder = sorted(values)
        steps = {high - low for low, high in itertools.pairwise(ladder)}
        if len(steps) == 1:
            return IntDistribution(ladder[0], ladder[-1], step=steps.pop())
    return CategoricalDistribution(values)
