"""The script's own bounds, checked again in the hook whatever the daemon asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autotuner.hook.shapes import ShapeLadder, cell
from autotuner.knobs import KnobDeclaration, find
from autotuner.messages import REFUSALS

_CODES = {sentence: code for code, sentence in REFUSALS.items()}
ALLOWED = _CODES[""]
OUTSIDE_LADDER = _CODES["outside the ladder"]
SHAPE_BUDGET_SPENT = _CODES["shape budget spent"]
JOINT_LIMIT = _CODES["joint limit on pixels"]
NOT_TUNABLE = _CODES["knob is not tunable"]
RANK_MISSING = _CODES["another rank does not follow"]

Values = Mapping[str, float]


class Bounds:
    """What one run allows: its ladders, its tensor shapes, and a number of pixels in one forward pass."""

    def __init__(self, knobs: tuple[KnobDeclaration, ...], fixed: Values, shapes: ShapeLadder, max_pixels: int | None) -> None:
        """``fixed`` holds the values of knobs that are not offered."""
        self.knobs = knobs
        self._fixed = fixed
        self._shapes = shapes
        self._max_pixels = max_pixels

    def values(self, positions: Sequence[int]) -> dict[str, float]:
        """The plain value of every knob, offered or not; whole numbers are ints."""
        values = dict(self._fixed)
        for knob, position in zip(self.knobs, positions, strict=True):
            value = knob.values[position]
            values[knob.name] = int(value) if find(knob.name).integer else float(value)
        return values

    def refusal(self, asked: Sequence[int], in_force: Sequence[int]) -> int:
        """Why ``asked`` must not follow ``in_force``: a key of REFUSALS, 0 when it may."""
        if not self._on_ladders(asked):
            return OUTSIDE_LADDER
        if any(new != old and not knob.tunable for knob, new, old in zip(self.knobs, asked, in_force, strict=True)):
            return NOT_TUNABLE
        new, old = self.values(asked), self.values(in_force)
        if not self.has_shape(asked):
            return SHAPE_BUDGET_SPENT
        if self._max_pixels is not None and _pixels(new) > max(self._max_pixels, _pixels(old)):
            return JOINT_LIMIT
        return ALLOWED

    def has_shape(self, positions: Sequence[int]) -> bool:
        """Whether the run knows the shape of ``positions``, or has room for it."""
        return self._shapes.allows(cell(self.values(positions)))

    def must_wait(self, positions: Sequence[int], step: int) -> bool:
        """Whether the shape in force is too young at ``step`` to be left for that of ``positions``."""
        return self._shapes.must_wait(cell(self.values(positions)), step)

    def use(self, positions: Sequence[int], step: int) -> None:
        """``positions`` are in force after ``step``."""
        self._shapes.take(cell(self.values(positions)), step)

    def _on_ladders(self, positions: Sequence[int]) -> bool:
        return len(positions) == len(self.knobs) and all(
            0 <= position < len(knob.values) for knob, position in zip(self.knobs, positions, strict=True)
        )


def _pixels(values: Values) -> float:
    return values.get("micro_batch", 0) * values.get("resolution", 0) ** 2
