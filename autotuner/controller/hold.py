"""The do-nothing policy: the baseline of every comparison."""

from __future__ import annotations

from collections.abc import Sequence

from autotuner.controller.actions import HOLD
from autotuner.controller.policy import Choice
from autotuner.controller.window import RunWindow


class Hold:
    """Leaves every knob where the script put it."""

    name = "hold"

    def choose(self, observation: Sequence[float], mask: Sequence[bool], window: RunWindow) -> Choice:
        """Hold."""
        return Choice(HOLD, "hold")
