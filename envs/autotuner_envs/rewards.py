"""The reward of one decision interval, term by term; every term comes from what the simulated run did."""

from __future__ import annotations

import math
from dataclasses import dataclass

from autotuner_envs.simulator import Simulator


@dataclass(frozen=True)
class Weights:
    """How much each term counts; the budget's length is 1."""

    progress: float = 2.0
    """For the held-out loss, on a logarithmic scale: 1 is the way from the first loss to the target."""
    waiting: float = 4.0
    """For the logarithm of the time above the target, which the score counts. At half of it a policy that was late for
    the target gave it up for a student, whose quality counts as much."""
    quality: float = 1.0
    """For the quality at the target steps: 1 is a distance BETTER times that of the undistilled teacher at the target loss."""
    pressure: float = 2.0
    """For every share of the budget under critical memory pressure."""
    heat: float = 0.3
    """For every share of the budget at a heavy heat level: small, because throttling already costs progress."""
    out_of_memory: float = 0.05
    """For every slice of an interval in which memory ran out."""
    killed: float = 4.0
    change: float = 0.01
    """For every knob moved, besides the compile time that the simulator charges."""


WEIGHTS = Weights()
BETTER = 0.7
WAIT_FROM = 1 / 60
"""Share of the budget that is added to both ends of a wait, so that the first seconds do not weigh without bound."""
BEYOND = 1.5
"""Progress beyond the target still counts, up to this multiple of the way."""


@dataclass(frozen=True, slots=True)
class Potential:
    """Where a run stands. Differences of it are the shaped reward, so a detour that is paid back earns nothing."""

    progress: float
    """Share of the way to the target loss. What an evaluation at full resolution would show now, transient included:
    a phase at low resolution is paid when full resolution is back, not before."""
    quality: float


def potential(simulator: Simulator) -> Potential:
    """The potential of the run's present state."""
    scenario = simulator.scenario
    first = scenario.curve.held_out_loss(0.0, 0.0, 0.0, 0.0)
    way = math.log(first / simulator.held_out_loss()) / math.log(first / scenario.target)
    undistilled = scenario.distillation.undistilled(scenario.target)
    quality = math.log(simulator.quality() / undistilled) / math.log(BETTER)
    return Potential(min(way, BEYOND), min(max(quality, -BEYOND), BEYOND))


@dataclass(frozen=True, slots=True)
class Costs:
    """What one interval cost besides time well spent."""

    elapsed: float
    """Seconds of the run when the interval began."""
    seconds: float
    pressure_seconds: float
    heat_seconds: float
    out_of_memory: int
    killed: bool
    changes: int


def waited(before: float, after: float, elapsed: float, seconds: float, budget_seconds: float) -> float:
    """Logarithmic length of the part of an interval in which the target was not met, from the progress at its two ends.

    Summed over a run it is log(seconds to the target), up to a constant: the target is met where progress, interpolated, is 1.
    """
    if after >= 1.0:
        if before >= 1.0:
            return 0.0
        seconds *= (1.0 - before) / (after - before)
    start = elapsed + WAIT_FROM * budget_seconds
    return math.log((start + seconds) / start)


def reward(
    before: Potential, after: Potential, costs: Costs, budget_seconds: float, weights: Weights = WEIGHTS
) -> dict[str, float]:
    """The terms of one interval; their sum is the reward."""
    wait = waited(before.progress, after.progress, costs.elapsed, costs.seconds, budget_seconds)
    return {
        "progress": weights.progress * (after.progress - before.progress),
        "waiting": -weights.waiting * wait,
        "quality": weights.quality * (after.quality - before.quality),
        "pressure": -weights.pressure * costs.pressure_seconds / budget_seconds,
        "heat": -weights.heat * costs.heat_seconds / budget_seconds,
        "out_of_memory": -weights.out_of_memory * costs.out_of_memory - weights.killed * costs.killed,
        "changes": -weights.change * costs.changes,
    }
