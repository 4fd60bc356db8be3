"""A training run played by hand: the hook's real files, written at times that the test chooses."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from autotuner.hook.page import PageReader, create_page
from autotuner.hook.process import process_start
from autotuner.hook.ring import RingWriter
from autotuner.knobs import declare
from autotuner.messages import Acknowledgement, Declaration, Evaluation, Goodbye, MachineState

KNOBS = (declare("micro_batch", 32, [8, 16, 32, 64]), declare("pace", 1.0, [0.5, 0.75, 1.0]))
GIB = 2**30


class FakeRun:
    """Answers knob revisions like a script would, when told to."""

    def __init__(
        self, state: Path, run_id: str = "cats-1", knobs=KNOBS, pid: int | None = None, capacity: int = 4096, **fields
    ):
        pid = os.getpid() if pid is None else pid
        self.declaration = Declaration(
            run_id, run_id.split("-")[0], pid, process_start(pid) or 0.0, 1000.0, knobs, budget_seconds=600.0
        )
        self.directory = state / "runs" / run_id
        self.directory.mkdir(parents=True)
        self.ring = RingWriter(self.directory / "telemetry.ring", capacity=capacity)
        create_page(self.directory / "knobs.page", self.declaration.start, 0.0)
        self.page = PageReader(self.directory / "knobs.page")
        self.positions = self.declaration.start
        self.revision = 0
        self.step = 0
        self.declare(self.declaration)

    def declare(self, declaration: Declaration) -> None:
        self.declaration = declaration
        (self.directory / "run.json").write_text(declaration.to_json())

    def sample(self, time: float, loss: float = 0.5, memory: int = GIB, flags: int = 0) -> None:
        self.step += 1
        self.ring.sample(self.step, time, loss, self.step * 32, 0.1, memory, 0, memory, self.revision, 0, flags)

    def train(self, start: float, end: float, every: float = 0.5, **fields) -> None:
        """Samples from ``start`` to ``end``, both included."""
        for i in range(int((end - start) / every) + 1):
            self.sample(start + i * every, **fields)

    def evaluate(self, time: float, held_out_loss: float) -> None:
        self.ring.evaluation(Evaluation(self.step, time, held_out_loss))

    def asked(self):
        """The newest revision on the page that this script has not answered."""
        revision = self.page.revision()
        return revision if revision is not None and revision.number > self.revision else None

    def acknowledge(self, time: float) -> None:
        asked = self.asked()
        assert asked is not None, "nothing was asked"
        self.revision, self.positions = asked.number, asked.positions
        self.ring.acknowledgement(Acknowledgement(self.revision, self.step, time, positions=self.positions))

    def refuse(self, time: float, detail: int = 2) -> None:
        asked = self.asked()
        assert asked is not None, "nothing was asked"
        self.revision = asked.number
        self.ring.acknowledgement(Acknowledgement(self.revision, self.step, time, True, detail, self.positions))

    def set(self, positions: tuple[int, ...], time: float) -> None:
        """The script moves its own knobs."""
        self.positions = positions
        self.ring.acknowledgement(Acknowledgement(self.revision, self.step, time, positions=positions))

    def goodbye(self, time: float, outcome: int = 0) -> None:
        self.ring.goodbye(Goodbye(time, outcome))


class FakeMachine:
    """A machine with plenty of memory, until the test says otherwise."""

    def __init__(self, **state) -> None:
        self.state = MachineState(0.0, 32 * GIB, 16 * GIB, 0, 0, 0)
        self.state = replace(self.state, **state)

    def sample(self, now: float) -> MachineState:
        return replace(self.state, time=now)

    def statuses(self, now: float) -> tuple:
        return ()
