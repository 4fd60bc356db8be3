"""What a control loop decided, in the words that journal, metrics, log and ``explain`` share."""

from __future__ import annotations

from dataclasses import dataclass

from autotuner.knobs import find


@dataclass(frozen=True, slots=True)
class Change:
    """One knob moved along its ladder."""

    knob: str
    from_position: int
    to_position: int
    from_value: float
    to_value: float
    reason: str
    """A row of ``reasons.REASONS``."""

    @property
    def what(self) -> str:
        """``micro_batch 64 to 32``."""
        knob = find(self.knob)
        return f"{self.knob} {knob.shown(self.from_value)} to {knob.shown(self.to_value)}"

    @property
    def direction(self) -> str:
        """``down`` or ``up``."""
        return "down" if self.to_position < self.from_position else "up"


@dataclass(frozen=True, slots=True)
class Decision:
    """One pass of observe, policy and guard for one run."""

    time: float
    action: int
    """What the policy wished (see ``actions``); the guard may have turned it into no change."""
    changes: tuple[Change, ...]
    positions: tuple[int, ...]
    """Ladder positions asked for afterwards, in the order of the declaration."""
    reason: str
    what: str
    why: str
    policy: str
    mask: tuple[bool, ...]
    observation: tuple[float, ...]
    vetoed: str = ""
    """Reason for which the guard refused the policy's wish; empty when it did not."""
    predicted_bytes: float | None = None
    """Framework memory that the run's own model expects afterwards."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What an acknowledged change did: medians of the intervals before and after it."""

    revision: int
    knob: str
    images_per_second_before: float
    images_per_second_after: float
    peak_bytes_before: float
    peak_bytes_after: float
