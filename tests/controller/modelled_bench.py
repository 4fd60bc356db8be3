"""A bench whose run has a cost law, a learning curve and evaluations, so that a forecast has something to find."""

from __future__ import annotations

from dataclasses import dataclass, replace

from controller_bench import KNOBS, MEGABYTE, Bench, a_declaration

from autotuner.controller.decision import Decision
from autotuner.controller.loop import ControlLoop
from autotuner.controller.policy import Policy
from autotuner.knobs import KnobDeclaration
from autotuner.messages import Evaluation, Sample

EVERY = 3
"""Intervals between two evaluations."""


@dataclass
class Modelled(Bench):
    """Steps of 64 images: seconds = passes * pass_seconds + pixels * pixel_seconds, over pace and ``speed``."""

    pass_seconds: float = 0.02
    pixel_seconds: float = 2e-6
    image_bytes: float = 3.0 * MEGABYTE
    preview_step_seconds: float = 0.0
    exponent: float = 0.4
    speed: float = 1.0
    gap: float = float("nan")
    turns: int = 0

    def step_seconds(self) -> float:
        micro_batch, resolution = self.loop.window.value("micro_batch", 64.0), self.loop.window.value("resolution", 28.0)
        cool = 64 / micro_batch * self.pass_seconds + 64 * resolution**2 * self.pixel_seconds
        return cool / self.loop.window.value("pace", 1.0) / self.speed

    def pass_interval(self, samples: int = 4) -> None:
        window = self.loop.window
        seconds = self.step_seconds()
        micro_batch, resolution = window.value("micro_batch", 64.0), window.value("resolution", 28.0)
        self.used = int(50 * MEGABYTE + self.image_bytes * micro_batch * (resolution / 28) ** 2)
        for _ in range(samples):
            self.now += self.loop.interval_seconds / samples
            self.step += max(1, round(self.loop.interval_seconds / samples / seconds))
            images = 64 * self.step
            self.loop.feed(
                Sample(self.step, self.now, self.loss, images, seconds, self.used, 0, self.used, self.revision, 0, self.flags)
            )
        self.loop.machine(replace(self.state, time=self.now))
        self.turns += 1
        if self.turns % EVERY == 0:
            stage = int(window.value("distill", 0.0))
            took = 0.01 + self.preview_step_seconds * window.value("sampling_steps", 0.0)
            held_out = self.step**-self.exponent
            self.loop.feed(Evaluation(self.step, self.now, held_out, seconds=took, stage=stage, gap=self.gap))

    def turns_until(self, knob: str, value: float, most: int) -> int:
        """Turns until ``knob`` stands at ``value``; ``most`` + 1 when it does not."""
        for count in range(1, most + 1):
            self.turn()
            if self.value(knob) == value:
                return count
        return most + 1

    def all_turns(self, count: int) -> list[Decision]:
        return [self.turn() for _ in range(count)]


def modelled(
    policy: Policy, knobs: tuple[KnobDeclaration, ...] = KNOBS, budget_seconds: float = 120.0, **fields: object
) -> Modelled:
    declaration = a_declaration(knobs, budget_seconds=budget_seconds)
    return Modelled(ControlLoop(declaration, policy), **fields)  # type: ignore[arg-type]
