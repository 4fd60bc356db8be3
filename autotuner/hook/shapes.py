"""The tensor shapes that a run may use: each new one costs a compile, and memory that neither MLX nor MPS gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from autotuner.hook.warning import warn

Cell = tuple[float, float]
"""Resolution and micro-batch, the two knobs that make a shape; 0 for one that the run does not name."""


def cell(values: Mapping[str, float]) -> Cell:
    """The cell of the shape ladder that these knob values mean."""
    return (values.get("resolution", 0), values.get("micro_batch", 0))


class ShapeLadder:
    """At most ``max_shapes`` cells in a run, none for fewer than ``dwell_steps`` steps unless the next one needs less memory.

    ``clear_cache`` is called after every switch, before the first step in the new shape: the buffers of the old one are of no
    use to it. What it raises is told once, and it is not called again.
    """

    def __init__(self, max_shapes: int, dwell_steps: int = 0, clear_cache: Callable[[], object] | None = None) -> None:
        self.used: set[Cell] = set()
        self._max_shapes = max_shapes
        self._dwell_steps = dwell_steps
        self._clear_cache = clear_cache
        self._at: Cell | None = None
        self._switched_at_step: int | None = None

    def allows(self, asked: Cell) -> bool:
        """Whether the run has used this cell, or has one left for it."""
        return asked in self.used or len(self.used) < self._max_shapes

    def must_wait(self, asked: Cell, step: int) -> bool:
        """Whether the cell in force was taken too few steps before ``step``."""
        if self._switched_at_step is None or asked == self._at or (self._at is not None and _smaller(asked, self._at)):
            return False
        return 0 <= step - self._switched_at_step < self._dwell_steps

    def take(self, taken: Cell, step: int) -> None:
        """``taken`` holds after ``step``."""
        self.used.add(taken)
        before, self._at = self._at, taken
        if before is None or before == taken:
            return
        self._switched_at_step = step
        try:
            if self._clear_cache is not None:
                self._clear_cache()
        except Exception as error:  # the script's own function: never into training
            self._clear_cache = None
            warn(f"attach(clear_cache=...) raised and is not called again: {type(error).__name__}: {error}")


def _smaller(one: Cell, other: Cell) -> bool:
    """Fewer pixels in a forward pass; a knob that the run does not name is the same in both."""
    return _pixels(one) < _pixels(other)


def _pixels(shape: Cell) -> float:
    resolution, micro_batch = shape
    return (resolution or 1.0) ** 2 * (micro_batch or 1.0)
