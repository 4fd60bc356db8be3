"""Runs without Autotuner: the script follows its own plan, and nobody guards it. What every promise is measured against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from autotuner_envs.rewards import Costs, potential, reward
from autotuner_envs.scenario import Scenario
from autotuner_envs.schedules import Outcome, crossing, outcome_of
from autotuner_envs.simulator import Simulator

SLICES = 240
"""Of the budget: as many as a guarded run of sixty decisions has."""

Script = Callable[[Simulator], dict[str, float]]
"""What the script wants its knobs to stand at now, by name; what it does not name stays, what it does not have is ignored."""


@dataclass(frozen=True)
class Static:
    """The same values from the first step to the last. Without any it is the script as its user wrote it."""

    values: tuple[tuple[str, float], ...] = ()

    def __call__(self, simulator: Simulator) -> dict[str, float]:
        """Always the same."""
        return dict(self.values)


@dataclass(frozen=True)
class Planned:
    """A schedule written down before the run: coarse first, students at shares of the budget, everything else fixed."""

    coarse_until: float = 0.0
    distill_from: tuple[float, ...] = (0.70, 0.85)
    fixed: tuple[tuple[str, float], ...] = (("sampling_steps", 4.0),)

    def __call__(self, simulator: Simulator) -> dict[str, float]:
        """The plan at the budget used."""
        used = simulator.elapsed / simulator.scenario.budget_seconds
        wanted = {"distill": float(sum(used >= start for start in self.distill_from)), **dict(self.fixed)}
        if self.coarse_until:
            wanted["resolution"] = 0.0 if used < self.coarse_until else float(simulator.scenario.full_resolution)
        return wanted


class Halving:
    """Halves the micro-batch whenever memory has run out, and never grows it again, as trainers that catch the error do."""

    def __init__(self) -> None:
        self._seen = 0
        self._micro_batch = 0.0

    def __call__(self, simulator: Simulator) -> dict[str, float]:
        """A smaller micro-batch once for every time that memory ran out since."""
        self._micro_batch = self._micro_batch or simulator.value("micro_batch")
        if simulator.state.out_of_memory > self._seen:
            self._seen = simulator.state.out_of_memory
            self._micro_batch /= 2
        return {"micro_batch": self._micro_batch}


def _positions(simulator: Simulator, wanted: dict[str, float]) -> tuple[int, ...]:
    """The nearest ladder positions to what is wanted."""
    positions = list(simulator.positions)
    for i, knob in enumerate(simulator.scenario.declaration.knobs):
        if knob.name in wanted:
            value = wanted[knob.name]
            positions[i] = min(range(len(knob.values)), key=lambda p: abs(knob.values[p] - value))
    return tuple(positions)


def play_alone(scenario: Scenario, script: Script) -> Outcome:
    """One run of ``scenario`` by its script alone: no observation, no guard, no emergency."""
    simulator = Simulator(scenario)
    before, totals = potential(simulator), dict.fromkeys(reward(potential(simulator), potential(simulator), _NOTHING, 1.0), 0.0)
    pressure = heat = 0.0
    changes, reached = 0, None
    while not simulator.ended:
        then, loss, was = simulator.elapsed, simulator.held_out_loss(), simulator.positions
        asked = _positions(simulator, script(simulator))
        moved = sum(a != b for a, b in zip(asked, was, strict=True))
        progress = simulator.advance(asked, scenario.budget_seconds / SLICES)
        after = potential(simulator)
        costs = Costs(
            then, progress.seconds, progress.pressure_seconds, progress.heat_seconds, progress.out_of_memory,
            simulator.state.killed, moved,
        )  # fmt: skip
        for name, term in reward(before, after, costs, scenario.budget_seconds).items():
            totals[name] += term
        before, changes = after, changes + moved
        pressure += progress.pressure_seconds
        heat += progress.heat_seconds
        if reached is None and simulator.held_out_loss() <= scenario.target:
            reached = crossing(then, loss, simulator.elapsed, simulator.held_out_loss(), scenario.target)
    return outcome_of(simulator, totals, reached, pressure, heat, changes)


_NOTHING = Costs(0.0, 0.0, 0.0, 0.0, 0, killed=False, changes=0)
