"""A training command as a child process: why it ended, and with which knobs it should go on. Deciding is apart from doing."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from autotuner.adapters.out_of_memory import GPU_WATCHDOG, out_of_memory
from autotuner.errors import AutotunerError
from autotuner.hook.files import declaration_at
from autotuner.hook.ring import RingReader
from autotuner.knobs import KnobDeclaration
from autotuner.messages import Acknowledgement

RESUMABLE = ("memory", "killed", "watchdog", "crash")
"""After these ends, other knobs may lead elsewhere; an exception of the script's own would come again."""
_GRANDCHILD = re.compile(r"died with <Signals\.\w+: (\d+)>|exitcode\s*: -(\d+)")
_EXCEPTION = re.compile(r"^(?P<name>[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Warning)): ?(?P<text>.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a command ended: a kind, and the sentence for people."""

    kind: str
    """``finished``, ``stopped`` by a person, ``memory``, ``killed``, ``watchdog``, ``crash`` or ``exception``."""
    sentence: str


@dataclass(frozen=True, slots=True)
class Remains:
    """What the files of a dead run say: the knobs that it offered, and their values at the end."""

    knobs: tuple[KnobDeclaration, ...] = ()
    positions: tuple[int, ...] = ()
    name: str = ""
    changes: int = 0
    """How many times the knobs moved."""

    @property
    def moved(self) -> str:
        """``micro_batch 32 to 8, pace 1 to 0.7``: from the start to the end; empty when all are where they began."""
        rows = zip(self.knobs, self.positions, strict=True)
        ways = (f"{knob.name} {knob.values[knob.start]:g} to {knob.values[at]:g}" for knob, at in rows if at != knob.start)
        return ", ".join(ways)

    @property
    def values(self) -> dict[str, float]:
        """Knob values in force at the end."""
        return {knob.name: knob.values[position] for knob, position in zip(self.knobs, self.positions, strict=True)}


def cause_of(code: int, said: str) -> Cause:
    """Why a command ended that returned ``code`` (negative: a signal) and whose last words on stderr were ``said``."""
    if code == 0:
        return Cause("finished", "it finished")
    number = -code if code < 0 else code - 128 if 128 < code < 160 else _of_grandchild(said)
    if number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        return Cause("stopped", f"it was stopped by {_name(number)}")
    who = out_of_memory(said)
    if who:
        return Cause("memory", f"{who} ran out of memory")
    if re.search(GPU_WATCHDOG, said):
        return Cause("watchdog", "macOS ended its GPU work, which kept the display waiting too long")
    if number == signal.SIGKILL:
        return Cause("killed", "it was killed by SIGKILL, which the system sends when memory runs out")
    if number:
        return Cause("crash", f"it was ended by {_name(number)}")
    found = list(_EXCEPTION.finditer(said))
    last = f": {found[-1]['name']}: {found[-1]['text']}".rstrip(": ") if found else ""
    return Cause("exception", f"it ended with code {code}{last}")


def _of_grandchild(said: str) -> int:
    """The signal that ended the script below ``accelerate launch`` or ``torchrun``, which themselves end with 1; 0 for none."""
    found = _GRANDCHILD.findall(said)
    return int(found[-1][0] or found[-1][1]) if found else 0


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def read_remains(directory: Path | None) -> Remains:
    """The knobs of a run in its directory; none when there is no run, or it cannot be read."""
    if directory is None:
        return Remains()
    try:
        declaration = declaration_at(directory / "run.json")
        ring = RingReader(directory / "telemetry.ring")
        try:
            answers = [record for record in ring.read() if isinstance(record, Acknowledgement)]
        finally:
            ring.close()
    except (OSError, AutotunerError):
        return Remains()
    positions = answers[-1].positions[: len(declaration.knobs)] if answers else declaration.start
    changes = sum(not answer.refused for answer in answers)
    return Remains(declaration.knobs, tuple(positions), declaration.name, changes)


def safer(cause: Cause, remains: Remains) -> dict[str, float] | None:
    """Knob values for the next attempt: the micro-batch a step lower where its size may be to blame; None when it cannot be.

    What the failed attempt had is never tried again: its values are the upper end from then on.
    """
    values = remains.values
    if cause.kind == "crash":
        return values
    micro_batch = next((knob for knob in remains.knobs if knob.name == "micro_batch" and knob.tunable), None)
    if micro_batch is None:
        return None
    lower = [value for value in micro_batch.values if value <= values["micro_batch"] / 2]
    return {**values, "micro_batch": lower[-1]} if lower else None


def shown(values: Mapping[str, float]) -> str:
    """``micro_batch 4, pace 0.85``."""
    return ", ".join(f"{name} {value:g}" for name, value in values.items()) or "the script's own values"
