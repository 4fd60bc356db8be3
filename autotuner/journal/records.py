"""One dataclass a table: the fields are the columns, their types the column types (see ``schema``)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, TypeVar

from autotuner.errors import JournalError
from autotuner.messages import Declaration

CHANGE_STATES = ("intended", "delivered", "acknowledged", "refused", "observed", "lost")
"""A change's life; ``refused`` by the hook and ``lost`` (never reached the script) are the two bad ends."""


Kind = TypeVar("Kind", dict[str, Any], list[Any])


def _parsed(text: str, kind: type[Kind]) -> Kind:
    """A column that holds JSON; raises JournalError when it does not."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, kind):
        raise JournalError(f"the journal holds {text!r:.80} where a JSON {kind.__name__} is expected")
    return value


def _numbers(values: list[Any]) -> list[float]:
    if not all(isinstance(value, (int, float)) for value in values):
        raise JournalError(f"the journal holds {values!r:.80} where numbers are expected")
    return values


@dataclass(frozen=True)
class RunRecord:
    """One training run, live or ended."""

    run_id: str
    name: str
    framework: str
    model: str
    """``model_key`` of the declaration: runs that share it share their quarantine."""
    declaration_json: str
    created_unix: float
    discovered_unix: float
    policy: str = ""
    mode: str = ""
    ended_unix: float | None = None
    outcome: str = ""
    """``finished``, ``interrupted``, ``failed``, ``killed``, ``vanished``, ``lost``; empty while it is live."""
    step: int = 0
    images: int = 0
    loss: float | None = None
    final_held_out_loss: float | None = None
    best_held_out_loss: float | None = None
    final_quality: float | None = None
    peak_bytes: int = 0
    """Highest framework memory (peak plus cache) of any sample."""
    memory_available_bytes: int | None = None
    """What the machine could give when the run was discovered: with it, ``peak_bytes`` says how close the run came."""
    last_values_json: str = "[]"
    """Knob values in force at the last sample, in the order of the declaration."""
    not_finite_steps: int = 0
    lost_records: int = 0
    arm: str = ""
    """``treated`` or ``held_out`` (left at the script's own values), drawn when the run was discovered; empty is neither."""
    served_policy: str = ""
    """The daemon's policy then, with the beginning of its artefact's hash: what the two arms compare."""
    own_mode: str = ""
    """A person's mode for this run (``autotuner mode``); empty follows the machine's."""
    mode_why: str = ""
    """Why ``mode`` is not the machine's; empty when it is."""

    @property
    def declaration(self) -> Declaration:
        """The parsed ``run.json``."""
        return Declaration.from_json(self.declaration_json)

    @property
    def live(self) -> bool:
        """Whether it has not ended."""
        return self.ended_unix is None

    @property
    def trial(self) -> int | None:
        """The search's trial that this run took, if any."""
        model = _parsed(self.declaration_json, dict).get("model", {})
        trial = model.get("_trial") if isinstance(model, dict) else None
        return trial if isinstance(trial, int) else None

    @property
    def last_values(self) -> dict[str, float]:
        """Knob values in force at the last sample."""
        try:
            names = [str(knob["name"]) for knob in _parsed(self.declaration_json, dict)["knobs"]]
        except (KeyError, TypeError):
            raise JournalError(f"run {self.run_id!r:.80}: its declaration names no knobs") from None
        return dict(zip(names, _numbers(_parsed(self.last_values_json, list)), strict=False))


@dataclass(frozen=True)
class ChangeRecord:
    """One knob's way from intent to measured effect."""

    run_id: str
    revision: int
    knob: str
    from_position: int
    to_position: int
    from_value: float
    to_value: float
    reason: str
    what: str
    why: str
    policy: str
    intended_unix: float
    asked_positions_json: str = "[]"
    """The whole vector that the revision asked for: what a restarted daemon compares with the page."""
    predicted_bytes: float | None = None
    state: str = "intended"
    delivered_unix: float | None = None
    acknowledged_unix: float | None = None
    observed_unix: float | None = None
    step: int | None = None
    """The step before which the script applied it."""
    refusal: str = ""
    images_per_second_before: float | None = None
    images_per_second_after: float | None = None
    peak_bytes_before: float | None = None
    peak_bytes_after: float | None = None
    change_id: int | None = None


@dataclass(frozen=True)
class DecisionRecord:
    """One pass of observe, policy and guard, hold included."""

    run_id: str
    time_unix: float
    mode: str
    action: int
    reason: str
    what: str
    why: str
    policy: str
    vetoed: str = ""
    changed: int = 0
    """How many knobs it moved (0 for hold)."""
    predicted_bytes: float | None = None
    positions_json: str = "[]"
    mask: str = ""
    """One character an action: 1 is allowed."""
    observation_json: str = "[]"
    observation_version: int = 0
    """What the observation's numbers mean; 0 is unknown."""
    decision_id: int | None = None


@dataclass(frozen=True)
class TelemetryRecord:
    """One run at one tick; only ticks with a new sample are kept."""

    run_id: str
    time_unix: float
    step: int
    images: int
    loss: float | None
    step_seconds: float | None
    images_per_second: float | None
    active_bytes: int
    cache_bytes: int
    peak_bytes: int
    predicted_bytes: float | None
    revision: int
    stage: int
    values_json: str = "[]"
    """Knob values in force, in the order of the declaration."""

    @property
    def values(self) -> tuple[float, ...]:
        """Knob values in force, in the order of the declaration."""
        return tuple(_numbers(_parsed(self.values_json, list)))


@dataclass(frozen=True)
class MachineRecord:
    """The machine at one tick with a live run; None is missing."""

    time_unix: float
    memory_total_bytes: int | None = None
    memory_available_bytes: int | None = None
    memory_pressure: int | None = None
    swap_used_bytes: int | None = None
    thermal_level: int | None = None
    celsius: float | None = None
    injected: int = 0
    """1 when any value was scripted for an experiment instead of measured."""


@dataclass(frozen=True)
class EvaluationRecord:
    """A measurement on fixed data at full resolution; None is unknown."""

    run_id: str
    time_unix: float
    step: int
    held_out_loss: float | None
    quality: float | None
    quality_steps: int
    seconds: float | None
    stage: int
    gap: float | None


@dataclass(frozen=True)
class PinRecord:
    """A knob that the daemon leaves alone in one run."""

    run_id: str
    knob: str
    value: float | None
    """The value to hold it at; None leaves it where it is."""
    origin: str
    """``you`` (command line) or ``script`` (the training script moved it itself)."""
    time_unix: float


@dataclass(frozen=True)
class QuarantineRecord:
    """Knob values at which a model died or ran out of memory: never asked for again."""

    model: str
    values_json: str
    """``{"micro_batch": 64.0, ...}``: values, so that they survive another ladder."""
    run_id: str
    why: str
    time_unix: float

    @property
    def values(self) -> dict[str, float]:
        """Knob values by name."""
        values = _parsed(self.values_json, dict)
        return dict(zip(values, _numbers(list(values.values())), strict=True))


@dataclass(frozen=True)
class AdviceRecord:
    """A change that mode ``advise`` recommends instead of making it."""

    advice_id: str
    run_id: str
    knob: str
    what: str
    why: str
    first_unix: float
    last_unix: float
    from_value: float | None = None
    to_value: float | None = None
    """None in advice of before these were kept, which cannot be accepted."""


REQUESTS = ("accept", "undo", "save", "restore")


@dataclass(frozen=True)
class RequestRecord:
    """What a person asks the daemon to do once, by the command line, and its answer."""

    kind: str
    """One of REQUESTS."""
    run_id: str
    subject: str
    """The advice of ``accept``, the checkpoint of ``save`` (once it is written) and ``restore``; empty for ``undo``."""
    asked_unix: float
    answered_unix: float | None = None
    done: int = 0
    """1 when it was done; with an answer and 0 it was refused."""
    answer: str = ""
    request_id: int | None = None


@dataclass(frozen=True)
class ModeRecord:
    """The daemon took another mode than it was configured with."""

    time_unix: float
    mode: str
    served_policy: str
    """The policy that lost, as in ``RunRecord.served_policy``."""
    why: str


@dataclass(frozen=True)
class ComparisonRecord:
    """A block of ended runs, held-out ones against treated ones; a run is in one block at most."""

    time_unix: float
    served_policy: str
    version: int
    """What ``advantage`` means (``daemon.gain.SCORE_VERSION``)."""
    treated: int
    held_out: int
    advantage: float | None
    """From -1 (treated runs are always sooner) to 1 (held-out ones are); None when nothing could be compared."""
    run_ids_json: str
    comparison_id: int | None = None

    @property
    def run_ids(self) -> tuple[str, ...]:
        """The block's runs."""
        return tuple(map(str, _parsed(self.run_ids_json, list)))


def model_key(declaration: Declaration) -> str:
    """What identifies a model across runs: framework and architecture; the run's name when it tells no architecture."""
    model = {name: value for name, value in declaration.model.items() if not name.startswith("_")}
    identity = [declaration.framework, model or declaration.name]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
