"""When a distillation stage has been learned: a pure verdict over what was measured since it began."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from autotuner.errors import ConfigurationError


@dataclass(frozen=True)
class Gate:
    """Bounds on the gap: the student's distance in its own steps over its teacher's in many, both with the same noise."""

    advance: float = 1.05
    """The stage is learned when the gap was no larger than this ``window`` times in a row."""
    window: int = 2
    fall_back: float = 1.6
    """The stage is out of reach when the gap was larger than this ``patience`` times in a row and does not fall."""
    patience: int = 6
    falling: float = 0.03
    """Least relative fall of the gap over ``patience`` measurements that still counts as learning."""

    def __post_init__(self) -> None:
        if not 1 <= self.advance < self.fall_back or self.window < 1 or self.patience < 2:
            raise ConfigurationError(
                f"gate {self}; allowed are 1 <= advance < fall_back, a window of 1 or more and a patience of 2 or more"
            )


class Verdict(NamedTuple):
    """What to do with the stage."""

    move: int
    """1 advance, 0 hold, -1 fall back."""
    why: str


def judge(gate: Gate, gaps: Sequence[float]) -> Verdict:
    """The verdict on a stage from its gaps so far, oldest first; without any it holds."""
    last = gaps[-gate.window :]
    if len(last) == gate.window and max(last) <= gate.advance:
        return Verdict(1, f"gap {last[-1]:.2f}, at most {gate.advance:.2f} for {gate.window} measurements")
    long = gaps[-gate.patience :]
    if len(long) == gate.patience and min(long) > gate.fall_back and long[-1] > (1 - gate.falling) * long[0]:
        return Verdict(-1, f"gap {long[-1]:.2f}, above {gate.fall_back:.2f} and not falling for {gate.patience} measurements")
    return Verdict(0, f"gap {gaps[-1]:.2f}" if gaps else "not measured yet")
