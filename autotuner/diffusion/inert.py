"""The hook's run that does nothing: what the trainer talks to when nobody attached one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Hook(Protocol):
    """The part of ``autotuner.hook.Run`` that the trainer uses."""

    @property
    def guided(self) -> bool:
        """Whether a live daemon owns the knobs."""

    def poll(self) -> Any:
        """New knob values, or None."""

    def acknowledge(self, step: int) -> None:
        """The polled values hold from ``step`` on."""

    def set(self, name: str, value: float) -> None:
        """The script changed a knob itself."""

    def on_save(self, callback: Callable[[Any], object]) -> None:
        """What to do when people ask for a checkpoint."""

    def on_restore(self, callback: Callable[[Any], object]) -> None:
        """What to do when people ask to go back to one."""

    def report(self, step: int, loss: float, **fields: Any) -> Any:
        """One optimizer step."""

    def evaluation(self, step: int, held_out_loss: float, **fields: Any) -> None:
        """One measurement on fixed data."""


class NoRun:
    """Keeps every promise of Hook by doing nothing."""

    guided = False

    def __enter__(self) -> NoRun:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def poll(self) -> None:
        """Nothing ever changes."""

    def acknowledge(self, step: int) -> None:
        """Nobody is told."""

    def set(self, name: str, value: float) -> None:
        """Nobody is told."""

    def on_save(self, callback: Callable[[Any], object]) -> None:
        """Nobody ever asks."""

    def on_restore(self, callback: Callable[[Any], object]) -> None:
        """Nobody ever asks."""

    def report(self, step: int, loss: float, **fields: Any) -> None:
        """Nobody is told."""

    def evaluation(self, step: int, held_out_loss: float, **fields: Any) -> None:
        """Nobody is told."""

    def close(self, outcome: str = "finished") -> None:
        """Nobody is told."""
