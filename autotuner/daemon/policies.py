"""From a policy's name to a policy that can decide; an artefact that does not fit falls back to the rules, and says so."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from autotuner.controller.forecast import Forecast
from autotuner.controller.hold import Hold
from autotuner.controller.policy import Policy
from autotuner.controller.rules import Rules
from autotuner.errors import ArtefactError, ConfigurationError
from autotuner.hook.files import LARGEST_NOTE_BYTES, read_text

_BUILT_IN: dict[str, Callable[[], Policy]] = {"hold": Hold, "rules": Rules, "forecast": Forecast}
_SHIPPED = {"default": ("default",), "learned": ("learned", "default")}
"""Names that mean one of the artefacts that come with the product: the first of these directories that exists."""


@dataclass(frozen=True)
class ResolvedPolicy:
    """The policy in use, and why it is not the one that was asked for (empty when it is)."""

    policy: Policy
    problem: str = ""


def shipped_artefacts() -> Path | None:
    """Where the shipped artefacts are, found without importing the recipes' package; None when it is not installed."""
    found = importlib.util.find_spec("autotuner_policies")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(next(iter(found.submodule_search_locations))) / "artifacts"


def resolve_policy(name: str, artefacts: Path | None) -> ResolvedPolicy:
    """The policy called ``name``: a built-in one, a shipped artefact, or the path of an artefact's directory.

    Raises ConfigurationError for a name that is none of these.
    """
    if name in _BUILT_IN:
        return ResolvedPolicy(_BUILT_IN[name]())
    if name in _SHIPPED:
        return _shipped(name, artefacts)
    path = Path(name).expanduser()
    if not path.is_dir():
        known = ", ".join(sorted({*_BUILT_IN, *_SHIPPED}))
        raise ConfigurationError(f"policy {name!r} is no artefact directory and no known name; known: {known}")
    return _load(path, name)


def _shipped(name: str, artefacts: Path | None) -> ResolvedPolicy:
    if artefacts is None:
        return ResolvedPolicy(Rules(), f"policy {name!r}: no artefacts are installed; the rules decide")
    directories = [artefacts / directory for directory in _SHIPPED[name]]
    directory = next((found for found in directories if found.is_dir()), None)
    if directory is None:
        return ResolvedPolicy(Rules(), f"policy {name!r}: this build ships no such artefact; the rules decide")
    # Who won when the artefact was judged may be another policy.
    winner = _winner(directory / "card.json") if name == "default" else ""
    return ResolvedPolicy(_BUILT_IN[winner]()) if winner in _BUILT_IN else _load(directory, name)


def _winner(card: Path) -> str:
    """The policy that the card names as the default; empty when it names none or is unreadable, which loading then tells."""
    try:
        return str(json.loads(read_text(card, LARGEST_NOTE_BYTES)).get("default", ""))
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""


def _load(directory: Path, name: str) -> ResolvedPolicy:
    try:
        from autotuner.controller.learned import Learned  # needs safetensors, which the bare hook has not

        return ResolvedPolicy(Learned.load(directory))
    except ArtefactError as error:
        return ResolvedPolicy(Rules(), f"policy {name!r} is refused, the rules decide: {error}")
    except ImportError as error:
        return ResolvedPolicy(Rules(), f"policy {name!r} needs {error.name}, the rules decide")
