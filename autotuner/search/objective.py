"""What the search compares: the final held-out loss at full resolution and equal budget, within the machine's memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autotuner.errors import DeclarationError
from autotuner.hook.files import slug
from autotuner.search.space import Space, check

TRIAL_KEY = "_trial"
"""Key of a declaration's ``model`` under which the hook notes the trial whose proposal the run took."""


@dataclass(frozen=True)
class StudiedRun:
    """What the search needs to know of one run, live or ended. None is unknown."""

    run_id: str
    name: str
    created_unix: float
    outcome: str = ""
    """Empty while the run lives; only ``finished`` counts as a result."""
    held_out_loss: float | None = None
    """The last one, at full resolution."""
    model: Mapping[str, Any] = field(default_factory=dict)
    search_space: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    budget_seconds: float | None = None
    budget_steps: int | None = None
    peak_bytes: int = 0
    room_bytes: int | None = None
    """What this machine could give the run: what was available and what the run itself held."""
    injected: bool = False
    """Whether heat or memory were scripted during the run."""

    @property
    def trial(self) -> int | None:
        """The trial whose proposal this run took, if any."""
        number = self.model.get(TRIAL_KEY)
        return number if isinstance(number, int) and not isinstance(number, bool) else None

    @property
    def budget(self) -> str:
        """The budget in words that fit a name, as ``150s``; empty when none was declared."""
        if self.budget_seconds is not None:
            return f"{self.budget_seconds:g}s"
        return f"{self.budget_steps}steps" if self.budget_steps is not None else ""


@dataclass(frozen=True)
class StudyKey:
    """Runs are compared within one project, one space of choices and one budget, never across."""

    project: str
    budget: str
    space: Space

    @property
    def name(self) -> str:
        """The study's name in the study file, as ``fashion@150s-3f2a9c``."""
        return f"{self.project}@{self.budget}-{self.space.digest}"


def key_of(run: StudiedRun) -> StudyKey:
    """The study that a run belongs to; raises DeclarationError with the reason when it belongs to none."""
    space = check(run.search_space)
    if not run.budget:
        raise DeclarationError(f"run {run.run_id} declares no budget; only runs of equal budget can be compared")
    return StudyKey(slug(run.name), run.budget, space)


_ENDS = {"failed": "failed", "vanished": "lost its files", "lost": "lost its connection"}


@dataclass(frozen=True)
class Result:
    """What is told of an ended run: a value to minimise, or why there is none."""

    value: float | None
    constraints: Mapping[str, float]
    """Zero or less is feasible."""
    reason: str = ""


def result_of(run: StudiedRun) -> Result:
    """Judge one ended run."""
    constraints = _constraints(run)
    if run.outcome != "finished":
        return Result(None, constraints, f"the run {_ENDS.get(run.outcome, f'was {run.outcome}')}")
    if run.held_out_loss is None:
        return Result(None, constraints, "no held-out loss was reported")
    if not math.isfinite(run.held_out_loss):
        return Result(None, constraints, f"the held-out loss is {run.held_out_loss}")
    return Result(run.held_out_loss, constraints)


def _constraints(run: StudiedRun) -> dict[str, float]:
    """``memory``: the share by which the peak went over what the machine had."""
    if not run.peak_bytes or not run.room_bytes:
        return {}
    return {"memory": run.peak_bytes / run.room_bytes - 1.0}
