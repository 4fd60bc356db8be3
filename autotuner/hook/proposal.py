"""The architecture that the search proposes for the next run of a name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotuner.hook.files import LARGEST_DECLARATION_BYTES, read_text, slug
from autotuner.hook.warning import warn

PROPOSAL_VERSION = 1


@dataclass(frozen=True, slots=True)
class Proposal:
    """One trial of the study: a value for every parameter of the script's search space."""

    trial: int
    parameters: dict[str, Any]

    def adopted(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """``model`` with the trial's number when it was built as proposed; as it is otherwise."""
        if any(model.get(name, value) != value for name, value in self.parameters.items()):
            return dict(model)
        return {**self.parameters, **model, "_trial": self.trial}


def proposal_path(state: Path, name: str) -> Path:
    """Where the proposal for the next run called ``name`` lies."""
    return state / "proposals" / f"{slug(name)}.json"


def read_proposal(path: Path, search_space: Mapping[str, Sequence[Any]]) -> Proposal | None:
    """The proposal in ``path``, or None; one that the script could not build is told by a warning and left out."""
    if not search_space:
        return None
    try:
        text = read_text(path, LARGEST_DECLARATION_BYTES)  # whose search space it has to fit into
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        warn(f"the proposal in {path} cannot be read: {error}")
        return None
    try:
        return parse_proposal(text, search_space)
    except (ValueError, RecursionError) as error:
        warn(f"the proposal in {path} is left out: {error}")
        return None


def parse_proposal(text: str, search_space: Mapping[str, Sequence[Any]]) -> Proposal:
    """Check a proposal against the script's own choices; raises ValueError. Values are the script's own objects."""
    document = json.loads(text)
    if not isinstance(document, dict) or document.get("version") != PROPOSAL_VERSION:
        raise ValueError(f"it is not an object of version {PROPOSAL_VERSION}")
    trial, parameters = document.get("trial"), document.get("parameters")
    if type(trial) is not int or not isinstance(parameters, dict):
        raise ValueError(f"trial {trial!r} or parameters {parameters!r} have the wrong type")
    if set(parameters) != set(search_space):
        raise ValueError(f"it has parameters {sorted(parameters)}; search_space has {sorted(search_space)}")
    return Proposal(trial, {name: _own(name, value, search_space[name]) for name, value in parameters.items()})


def _own(name: str, value: Any, choices: Sequence[Any]) -> Any:
    for choice in choices:
        if json.dumps(choice, sort_keys=True) == json.dumps(value, sort_keys=True):  # keeps 1, 1.0 and true apart
            return choice
    raise ValueError(f"{name} = {value!r}; search_space allows {list(choices)}")
