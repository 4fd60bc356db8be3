"""When a distillation stage has been learned: a pure verdict over what was measured since it began."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from autotuner.errors import ConfigurationError

MEASURES = ("frechet", "paired")


@dataclass(frozen=True)
class Gate:
    """Bounds on the gap between a student in its own steps and its teacher, both from the same noise."""

    measure: str = "frechet"
    """``frechet``: distance of the student's samples over that of its teacher's in many steps. ``paired``: the student's error
    against its teacher's exact paths over that of the teacher itself, sampled by the same rule in twice the steps: what
    progressive distillation promises, at a hundredth of the cost; for objectives that stay on the paths."""
    advance: float = 1.05
    """The stage is learned when the gap was no larger than this ``window`` times in a row."""
    window: int = 2
    fall_back: float = 1.6
    """The stage is out of reach when the gap was larger than this ``patience`` times in a row and does not fall."""
    patience: int = 6
    falling: float = 0.03
    """Least relative fall of the gap over ``patience`` measurements that still counts as learning."""

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise ConfigurationError(f"gate measures {self.measure!r}; allowed: {', '.join(MEASURES)}")
        if not 0 < self.advance < self.fall_back or self.window < 1 or self.patience < 2:
            raise ConfigurationError(
                f"gate {self}; allowed are 0 < advance < fall_back, a window of 1 or more and a patience of 2 or more"
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
