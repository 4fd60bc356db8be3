"""A run and a machine for the controller's tests; time is a number that the test turns."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from autotuner.controller.actions import action_index
from autotuner.controller.decision import Decision
from autotuner.controller.guard import GuardLimits
from autotuner.controller.hold import Hold
from autotuner.controller.loop import ControlLoop
from autotuner.controller.policy import Choice, Policy
from autotuner.knobs import KnobDeclaration, declare
from autotuner.messages import Acknowledgement, Declaration, MachineState, Sample

MEGABYTE = 1_000_000
KNOBS = (
    declare("resolution", 28, [16, 20, 28]),
    declare("micro_batch", 64, [8, 16, 32, 64]),
    declare("sampling_steps", 16, [4, 8, 16]),
    declare("distill", 0, [0, 1, 2]),
    declare("pace", 1.0, [0.5, 0.7, 0.85, 1.0]),
)


def a_declaration(knobs: tuple[KnobDeclaration, ...] = KNOBS, **fields: object) -> Declaration:
    values: dict[str, object] = {"budget_seconds": 120.0, **fields}
    return Declaration("run-1", "run", pid=1, pid_start=1.0, created_unix=0.0, knobs=knobs, **values)  # type: ignore[arg-type]


@dataclass
class Bench:
    """Drives one loop as the daemon would: samples in, decisions out, changes acknowledged at once."""

    loop: ControlLoop
    now: float = 1000.0
    step: int = 0
    used: int = 100 * MEGABYTE
    cache: int = 0
    loss: float = 1.0
    flags: int = 0
    state: MachineState = field(
        default_factory=lambda: MachineState(0.0, 4000 * MEGABYTE, 1000 * MEGABYTE, memory_pressure=0, thermal_level=0)
    )
    revision: int = 0

    def pass_interval(self, samples: int = 4) -> None:
        """One decision interval of training."""
        for _ in range(samples):
            self.now += self.loop.interval_seconds / samples
            self.step += 1
            images = 64 * self.step
            sample = Sample(
                self.step, self.now, self.loss, images, 0.1, self.used, self.cache, self.used, self.revision, 0, self.flags
            )
            self.loop.feed(sample)
        self.loop.machine(replace(self.state, time=self.now))

    def machine(self, **fields: object) -> None:
        """What the sensors will say from now on."""
        self.state = replace(self.state, **fields)  # type: ignore[arg-type]
        self.loop.machine(replace(self.state, time=self.now))

    def acknowledge(self, decision: Decision) -> None:
        """The script applies what was asked."""
        if decision.changes:
            self.revision += 1
            self.loop.feed(Acknowledgement(self.revision, self.step, self.now, positions=decision.positions))

    def turn(self) -> Decision:
        """An interval, a decision, its acknowledgement."""
        self.pass_interval()
        decision = self.loop.decide(self.now)
        self.acknowledge(decision)
        return decision

    def value(self, knob: str) -> float:
        """The value in force."""
        return self.loop.window.value(knob, -1.0)


def make_bench(policy: Policy | None = None, declaration: Declaration | None = None, **limits: object) -> Bench:
    return Bench(ControlLoop(declaration or a_declaration(), policy or Hold(), GuardLimits(**limits)))  # type: ignore[arg-type]


def refused(bench: Bench, knob: str, step: int) -> str:
    """What the guard says of one wish right now."""
    decision = bench.loop.act(Choice(action_index(knob, step), "policy"), bench.now)
    bench.acknowledge(decision)
    return decision.vetoed
