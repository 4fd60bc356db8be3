"""What was seen at a decision, and what other policies would have wished then: from the journal, also of a live run."""

from __future__ import annotations

import bisect
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from autotuner.controller.actions import ACTION_COUNT, ACTION_NAMES
from autotuner.controller.observation import FEATURES, OBSERVATION_VERSION
from autotuner.controller.policy import Policy
from autotuner.controller.window import RunWindow
from autotuner.journal import DecisionRecord, MachineRecord, Reader, TelemetryRecord
from autotuner.replay.past import Past
from autotuner.replay.shadow import Feed, interval_of

Row = TypeVar("Row", TelemetryRecord, MachineRecord)

LATEST_SECONDS = 120.0
"""A machine reading that is older at the decision is not told."""


@dataclass(frozen=True)
class Seen:
    """Run and machine at one decision, in their own units; None is unknown."""

    step: int | None
    loss: float | None
    images_per_second: float | None
    peak_bytes: int | None
    available_bytes: int | None
    memory_pressure: int | None
    thermal_level: int | None
    budget_used: float | None
    rate_against_shape: float | None
    """Images a second against the best at this shape and stage, pauses for pace reckoned out; 1 is as fast as ever."""


def seen(journal: Reader, run_id: str, decisions: Sequence[DecisionRecord]) -> dict[float, Seen]:
    """What the journal says of run and machine at each decision, by the decision's time. Raises JournalError."""
    if not decisions:
        return {}
    since = min(decision.time_unix for decision in decisions) - LATEST_SECONDS
    telemetry = journal.telemetry(run_id, since_unix=since)
    machine = journal.machine(since, max(decision.time_unix for decision in decisions))
    return {decision.time_unix: _seen(decision, telemetry, machine) for decision in decisions}


def _seen(decision: DecisionRecord, telemetry: Sequence[TelemetryRecord], machine: Sequence[MachineRecord]) -> Seen:
    run, host = _before(telemetry, decision.time_unix), _before(machine, decision.time_unix)
    features = _features(decision)
    return Seen(
        run.step if run else None, run.loss if run else None, run.images_per_second if run else None,
        (run.peak_bytes or None) if run else None, host.memory_available_bytes if host else None,
        host.memory_pressure if host else None, host.thermal_level if host else None,
        features["budget_used"] if features.get("budget_known") else None,
        features["rate_against_shape"] if features.get("rate_known") else None,
    )  # fmt: skip


def _before(rows: Sequence[Row], time: float) -> Row | None:
    at = bisect.bisect_right([row.time_unix for row in rows], time) - 1
    return rows[at] if at >= 0 and time - rows[at].time_unix <= LATEST_SECONDS else None


def _features(decision: DecisionRecord) -> Mapping[str, float]:
    """The observation by name; nothing when it is of another version."""
    values = json.loads(decision.observation_json)
    sound = decision.observation_version == OBSERVATION_VERSION and len(values) == len(FEATURES)
    return dict(zip(FEATURES, values, strict=True)) if sound else {}


def wishes(
    past: Past, decisions: Sequence[DecisionRecord], wanted: Collection[float], policies: Sequence[Policy]
) -> Iterator[tuple[float, dict[str, str]]]:
    """Time of each decision in ``wanted`` and what each policy would have wished there, as an action's name.

    ``decisions`` are all that the run has had, oldest first: the window is rebuilt along them, as ``shadow`` does it.
    """
    window = RunWindow(past.declaration, interval_of(past, [decision.time_unix for decision in decisions]))
    feed = Feed(past, window)
    for decision in decisions:
        feed.until(decision.time_unix)
        window.close(decision.time_unix)
        if decision.time_unix not in wanted or not _features(decision) or len(decision.mask) != ACTION_COUNT:
            continue
        observation = tuple(json.loads(decision.observation_json))
        mask = tuple(character == "1" for character in decision.mask)
        choices = {policy.name: policy.choose(observation, mask, window).action for policy in policies}
        yield decision.time_unix, {name: ACTION_NAMES[action] for name, action in choices.items()}
