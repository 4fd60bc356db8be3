"""Follows one training run while it goes: feeds the injected events, and shows steps, loss, knobs and decisions."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from autotuner.controller.memory import used_bytes
from autotuner.demo.injection import Injection
from autotuner.errors import AutotunerError
from autotuner.hook.ring import RingReader
from autotuner.journal.reader import Reader, journal_path
from autotuner.messages import Acknowledgement, Declaration, Evaluation, Sample

POLL_SECONDS = 0.5
LINE_SECONDS = 10.0
"""Between two status lines where the output is no terminal."""
WIDTH = 118


@dataclass
class Followed:
    """What is known of the run that is followed."""

    directory: Path
    declaration: Declaration
    ring: RingReader
    sample: Sample | None = None
    began: float | None = None
    held_out: float | None = None
    positions: tuple[int, ...] = ()
    decisions_shown: int = 0

    @property
    def elapsed(self) -> float:
        """Seconds of the run so far."""
        return self.sample.time - self.began if self.sample and self.began is not None else 0.0

    def value(self, knob: str, default: float) -> float:
        """The value of a knob in force."""
        for declared, position in zip(self.declaration.knobs, self.positions, strict=True):
            if declared.name == knob:
                return declared.values[position]
        return default

    def read(self) -> None:
        """Take the ring's new records."""
        for record in self.ring.read():
            if isinstance(record, Sample):
                self.sample = record
                self.began = record.time if self.began is None else self.began
            elif isinstance(record, Evaluation):
                self.held_out = record.held_out_loss
            elif isinstance(record, Acknowledgement) and not record.refused:
                self.positions = record.positions


def find_run(state: Path, known: set[str]) -> Followed | None:
    """The run directory that is not among ``known``; None while there is none that can be read."""
    for directory in sorted((state / "runs").glob("*")):
        if directory.name in known or not (directory / "run.json").exists():
            continue
        try:
            declaration = Declaration.from_json((directory / "run.json").read_text())
            return Followed(directory, declaration, RingReader(directory / "telemetry.ring"), positions=declaration.start)
        except (AutotunerError, OSError):
            return None
    return None


@dataclass
class Screen:
    """One status line that is redrawn on a terminal, or written now and then elsewhere; decisions stay above it."""

    out: TextIO = field(default_factory=lambda: sys.stdout)
    _written_at: float = float("-inf")
    _drawn: bool = False

    def say(self, line: str = "") -> None:
        """A line that stays."""
        if self._drawn:
            self.out.write("\r\033[K")
            self._drawn = False
        self.out.write(line + "\n")
        self.out.flush()

    def status(self, line: str, now: float) -> None:
        """The line that tells how it goes."""
        if self.out.isatty():
            self.out.write("\r\033[K" + line[:WIDTH])
            self._drawn = True
        elif now - self._written_at >= LINE_SECONDS:
            self.out.write(line + "\n")
            self._written_at = now
        self.out.flush()


def status_line(label: str, run: Followed, budget_seconds: float, injected: str) -> str:
    """``untouched  43 %  step 1234  loss 0.21 ...``."""
    sample = run.sample
    if sample is None:
        return f"{label:9s} starting"
    share = min(1.0, run.elapsed / budget_seconds)
    parts = [
        f"{label:9s} {share:4.0%}",
        f"step {sample.step}",
        f"loss {sample.loss:.3f}",
        f"held-out {run.held_out:.3f}" if run.held_out is not None else "held-out -",
        f"{sample.step_seconds * 1000:.0f} ms/step",
        f"{run.value('resolution', 0):g} px",
        f"batch of {run.value('micro_batch', 0):g}",
        f"pace {run.value('pace', 1):g}",
        f"stage {sample.stage}",
        f"{used_bytes(sample) / 1e6:.0f} MB",
    ]
    return "  ".join(parts) + (f"  [injected: {injected}]" if injected else "")


def show_decisions(screen: Screen, run: Followed, state: Path) -> None:
    """Print the changes that the journal holds and that were not shown yet."""
    try:
        with Reader(journal_path(state)) as reader:
            changes = reader.changes(run.declaration.run_id)
    except AutotunerError:
        return
    for change in changes[run.decisions_shown :]:
        screen.say(f"  {'':9s} {change.what}, because {change.why}  [{change.policy}]")
    run.decisions_shown = max(run.decisions_shown, len(changes))


def inject(injection: Injection, path: Path, run: Followed, now: float, seconds: float) -> str:
    """Step the script of events by ``seconds`` and say what it injects."""
    used = used_bytes(run.sample) if run.sample else 0
    injection.learn(run.elapsed, used)
    state = injection.step(now, run.elapsed, seconds, used, run.value("pace", 1.0))
    state.write(path)
    return state.note


def follow(
    label: str,
    state: Path,
    run: Followed,
    budget_seconds: float,
    injection: Injection | None,
    injected_file: Path,
    screen: Screen,
    running: Callable[[], bool],
) -> None:
    """Feed and show one run until its process ends."""
    before = time.monotonic()
    while running():
        now = time.monotonic()
        run.read()
        note = inject(injection, injected_file, run, now, now - before) if injection else ""
        before = now
        show_decisions(screen, run, state)
        screen.status(status_line(label, run, budget_seconds, note), now)
        time.sleep(POLL_SECONDS)
    run.read()
    show_decisions(screen, run, state)
