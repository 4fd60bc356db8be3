"""The file through which a proposal reaches the next run: ``<state>/proposals/<project>.json``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autotuner.hook.files import LARGEST_DECLARATION_BYTES, read_text, replace_text

PROPOSAL_VERSION = 1


@dataclass(frozen=True)
class Proposal:
    """An architecture for a project's next run."""

    study: str
    """The project, as the hook slugs the name given to ``attach``."""
    trial: int
    parameters: dict[str, Any]
    expected: dict[str, Any]
    """``peak_bytes`` that the memory forecast gives (null: unknown) and ``best_held_out_loss`` so far, to be beaten."""
    why: str
    proposed_unix: float
    version: int = PROPOSAL_VERSION


def proposal_path(state_directory: Path, project: str) -> Path:
    """Where the proposal of a project lies."""
    return state_directory / "proposals" / f"{project}.json"


def write(state_directory: Path, proposal: Proposal) -> Path:
    """Replace the project's proposal in one step; a reader sees the old one or the new one."""
    path = proposal_path(state_directory, proposal.study)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_text(path, json.dumps(asdict(proposal), indent=1, allow_nan=False))
    return path


def read(state_directory: Path, project: str) -> Proposal | None:
    """The proposal that lies there; None when there is none or it cannot be understood (it is then replaced)."""
    try:
        return Proposal(**json.loads(read_text(proposal_path(state_directory, project), LARGEST_DECLARATION_BYTES)))
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def withdraw(state_directory: Path, project: str) -> None:
    """Remove the project's proposal, if there is one."""
    proposal_path(state_directory, project).unlink(missing_ok=True)
