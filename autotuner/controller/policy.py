"""The contract that every policy keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from autotuner.controller.window import RunWindow


@dataclass(frozen=True, slots=True)
class Choice:
    """A policy's wish: an index into ``actions.ACTIONS``, a reason, and numbers for the sentence that explains it."""

    action: int
    reason: str
    detail: str = ""


class Policy(Protocol):
    """Maps an observation, and the bounded history that it was taken from, to a wish.

    ``choose`` must be deterministic, keep no state between calls, read nothing but its arguments, change none of them, and
    return an action whose mask is true. Action 0 (hold) is always legal. One policy object serves many runs.
    """

    name: str

    def choose(self, observation: Sequence[float], mask: Sequence[bool], window: RunWindow) -> Choice:
        """The wish for one observation (``observation.FEATURES``) under one mask (``actions.ACTIONS``) in one run's window."""
