"""From the decisions of a finished run to an episode: one row a decision."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from autotuner.controller.actions import ACTION_COUNT, HOLD, action_index
from autotuner.controller.observation import FEATURES, OBSERVATION_VERSION
from autotuner.journal import ChangeRecord, DecisionRecord, Reader
from autotuner.knobs import KNOB_NAMES
from autotuner.replay.past import Past
from autotuner.replay.terms import TERMS, Terms

NOT_IN_TABLE = -1
"""``asked_action`` of a change that is no single step of one knob (an emergency, a person's pin)."""
UNDECLARED = -1
"""Position of a knob that the run does not have."""
NOT_A_POLICY = ("guard", "you")
EFFECTS = ("images_per_second_before", "images_per_second_after", "peak_bytes_before", "peak_bytes_after")
COLUMNS: tuple[str, ...] = (
    "run", "time_unix", "observation", "mask", "action", "asked_action", "positions", "asked_positions", "decided_by",
    "reason", "vetoed", "propensity", *EFFECTS, *TERMS,
)  # fmt: skip


@dataclass
class Episode:
    """One run. ``columns`` has a list a name of COLUMNS, a row a decision, oldest first.

    ``action`` is the policy's wish, ``asked_action`` what the script was really asked after guard, mode and delivery;
    ``positions`` were acknowledged at the decision (KNOB_NAMES order). ``propensity`` is 1 where a policy decided, since
    every policy is deterministic by contract, and NaN where guard or a person did. Terms cover the time to the next decision.
    """

    about: dict[str, Any]
    columns: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in COLUMNS})
    refused: dict[int, int] = field(default_factory=dict)
    """Decisions left out by observation version (0 is unknown)."""

    @property
    def decisions(self) -> int:
        """How many rows."""
        return len(self.columns["run"])


def read_episode(journal: Reader, past: Past) -> Episode:
    """The episode of a finished run; rows of another observation version are counted in ``refused`` and left out."""
    run, terms = past.run, Terms(past)
    evaluations = past.evaluations
    episode = Episode(
        {
            "run_id": run.run_id, "name": run.name, "policy": run.policy, "served_policy": run.served_policy, "arm": run.arm,
            "mode": run.mode, "outcome": run.outcome, "knobs": {k.name: list(k.values) for k in past.declaration.knobs},
            "budget_seconds": past.declaration.budget_seconds, "target": past.declaration.target,
            "first_held_out_loss": evaluations[0].held_out_loss if evaluations else None,
            "best_held_out_loss": min((e.held_out_loss for e in evaluations), default=None),
            "ring": math.isfinite(past.ring_from),
        }
    )  # fmt: skip
    decisions = journal.decisions(run.run_id)
    changes: dict[float, list[ChangeRecord]] = defaultdict(list)
    for change in journal.changes(run.run_id):
        if change.delivered_unix is not None:
            changes[change.intended_unix].append(change)
    held = _Held(past)
    for i, decision in enumerate(decisions):
        end = decisions[i + 1].time_unix if i + 1 < len(decisions) else past.end
        observation = json.loads(decision.observation_json)
        sound = len(observation) == len(FEATURES) and len(decision.mask) == ACTION_COUNT
        if decision.observation_version != OBSERVATION_VERSION or not sound:
            version = decision.observation_version
            episode.refused[version] = episode.refused.get(version, 0) + 1
            continue
        asked = changes.get(decision.time_unix, [])
        row: dict[str, Any] = {
            "observation": observation,
            "mask": [character == "1" for character in decision.mask],
            **_asked(past, held.at(decision.time_unix), asked),
            **_effect(asked),
            **terms.of(decision.time_unix, end, len(asked)),
        }
        _append(episode, decision, row)
    return episode


def _append(episode: Episode, decision: DecisionRecord, row: dict[str, Any]) -> None:
    row |= {
        "run": 0, "time_unix": decision.time_unix, "action": decision.action, "decided_by": decision.policy,
        "reason": decision.reason, "vetoed": decision.vetoed,
        "propensity": math.nan if decision.policy in NOT_A_POLICY else 1.0,
    }  # fmt: skip
    for name in COLUMNS:
        episode.columns[name].append(row[name])


class _Held:
    """The positions in force at growing times, as the run acknowledged them."""

    def __init__(self, past: Past) -> None:
        self._held = past.declaration.start
        self._coming = iter(
            [(r.time, tuple(r.positions)) for r in past.records if hasattr(r, "positions") and not getattr(r, "refused", False)]
        )
        self._next = next(self._coming, None)

    def at(self, time: float) -> tuple[int, ...]:
        while self._next is not None and self._next[0] <= time:
            if len(self._next[1]) == len(self._held):
                self._held = self._next[1]
            self._next = next(self._coming, None)
        return self._held


def _asked(past: Past, held: tuple[int, ...], changes: Sequence[ChangeRecord]) -> dict[str, Any]:
    names = [knob.name for knob in past.declaration.knobs]
    asked = dict(zip(names, held, strict=True)) | {change.knob: change.to_position for change in changes}
    return {
        "positions": _in_table_order(dict(zip(names, held, strict=True))),
        "asked_positions": _in_table_order(asked),
        "asked_action": _action(changes),
    }


def _in_table_order(positions: dict[str, int]) -> list[int]:
    return [positions.get(name, UNDECLARED) for name in KNOB_NAMES]


def _action(changes: Sequence[ChangeRecord]) -> int:
    if not changes:
        return HOLD
    step = changes[0].to_position - changes[0].from_position
    return action_index(changes[0].knob, step) if len(changes) == 1 and abs(step) == 1 else NOT_IN_TABLE


def _effect(changes: Sequence[ChangeRecord]) -> dict[str, float]:
    """The measured effect; that of several knobs at once is measured once, and told of the first."""
    values = {name: getattr(changes[0], name) if changes else None for name in EFFECTS}
    return {name: math.nan if value is None else value for name, value in values.items()}
