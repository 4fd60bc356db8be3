"""The actions a policy may wish: hold, or one knob one step along its ladder."""

from __future__ import annotations

from dataclasses import dataclass

from autotuner.knobs import KNOBS


@dataclass(frozen=True, slots=True)
class Action:
    """One row of the action table; ``step`` is -1, 0 or +1 ladder positions."""

    knob: str
    step: int

    @property
    def name(self) -> str:
        """``hold``, ``pace down``, ``pace up``."""
        if not self.step:
            return "hold"
        return f"{self.knob} {'down' if self.step < 0 else 'up'}"


HOLD = 0
ACTIONS: tuple[Action, ...] = (Action("", 0), *(Action(knob.name, step) for knob in KNOBS for step in (-1, 1)))
ACTION_COUNT = len(ACTIONS)
ACTION_NAMES: tuple[str, ...] = tuple(action.name for action in ACTIONS)
_INDEX = {(action.knob, action.step): index for index, action in enumerate(ACTIONS)}


def action_index(knob: str, step: int) -> int:
    """The index of moving ``knob`` by ``step`` (-1 or +1)."""
    return _INDEX[knob, step]
