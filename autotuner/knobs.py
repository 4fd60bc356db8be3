"""The table of knobs: what may be changed in a running training, within which bounds, and what it loads."""

from __future__ import annotations

from dataclasses import dataclass

from autotuner.errors import DeclarationError

EFFECTS = ("live", "boundary", "epoch", "restart", "none")
"""When a change takes effect; a ``restart`` knob is moved between runs only, a ``none`` knob never."""

MAX_LADDER = 16
"""Most values that one ladder may have."""


@dataclass(frozen=True)
class Knob:
    """One row of the table. Positions on a ladder ascend in load: down always means less work or memory."""

    name: str
    unit: str
    lower: float
    upper: float
    integer: bool
    shape: bool
    """A new value makes new tensor shapes: it costs a compile trace and memory that is not given back."""
    dwell_intervals: int
    """Fewest decision intervals between two changes of this knob."""
    sentence: str

    def shown(self, value: float) -> str:
        """``value`` as people read it: ``64 MiB``, ``0.85``, ``28``."""
        return f"{value / 2**20:g} MiB" if self.unit == "bytes" else f"{value:g}"


KNOBS: tuple[Knob, ...] = (
    Knob("resolution", "pixels", 4, 4096, True, True, 1, "edge length of the training images"),
    Knob("micro_batch", "images", 1, 65536, True, True, 2, "images a forward pass; accumulation keeps the effective batch"),
    Knob("sampling_steps", "steps", 1, 1000, True, False, 1, "solver steps of previews and sample evaluations"),
    Knob("distill", "stage", 0, 16, True, False, 4, "distillation stage; 0 trains the teacher"),
    Knob("pace", "ratio", 0.5, 1.0, False, False, 1, "share of the time that the trainer computes"),
    Knob("cache_limit", "bytes", 0, 2**50, True, False, 2, "memory that the framework may keep for reuse"),
    Knob("lr_scale", "ratio", 0.25, 2.0, False, False, 4, "multiplies the script's own learning-rate schedule"),
    Knob("timestep_density", "index", 0, 15, True, False, 6, "which named density draws the noise levels"),
)
"""The order is part of the observation and action versions: append, never reorder."""

KNOB_NAMES: tuple[str, ...] = tuple(knob.name for knob in KNOBS)
_BY_NAME = {knob.name: knob for knob in KNOBS}


def find(name: str) -> Knob:
    """The row called ``name``; raises DeclarationError with the known names."""
    try:
        return _BY_NAME[name]
    except KeyError:
        raise DeclarationError(f"unknown knob {name!r:.80}; known knobs: {', '.join(KNOB_NAMES)}") from None


@dataclass(frozen=True)
class KnobDeclaration:
    """A knob as one run offers it: its ladder (ascending), where the script starts, and when a change takes effect."""

    name: str
    values: tuple[float, ...]
    start: int
    effect: str = "live"

    @property
    def tunable(self) -> bool:
        """Whether the daemon may move it while the run lives."""
        return self.effect not in ("restart", "none") and len(self.values) > 1


def declare(name: str, start: float, values: tuple[float, ...] | list[float], effect: str = "live") -> KnobDeclaration:
    """Check one knob against the table and return its declaration.

    ``values`` may come in any order and are sorted; ``start`` must be one of them.
    Raises DeclarationError, naming the value, what is allowed and the knob.
    """
    knob = find(name)
    ladder = tuple(sorted(set(values)))
    if not ladder:
        raise DeclarationError(f"knob {name!r}: the ladder is empty; give at least one value in {knob.unit}")
    if len(ladder) > MAX_LADDER:
        raise DeclarationError(f"knob {name!r}: {len(ladder)} values; at most {MAX_LADDER} are allowed")
    for value in ladder:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not knob.lower <= value <= knob.upper or (knob.integer and value != int(value)):
            kind = "a whole number" if knob.integer else "a number"
            raise DeclarationError(
                f"knob {name!r}: value {value!r:.80}; allowed is {kind} from {knob.lower} to {knob.upper} {knob.unit}"
            )
    if start not in ladder:
        raise DeclarationError(f"knob {name!r}: starts at {start!r:.80}, which is not on its ladder {list(ladder)}")
    if effect not in EFFECTS:
        raise DeclarationError(f"knob {name!r}: effect {effect!r:.80}; allowed: {', '.join(EFFECTS)}")
    return KnobDeclaration(name, ladder, ladder.index(start), effect)
