"""Scripted schedules: the arms that a person would plan, and the one that is planned in hindsight."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autotuner.controller.actions import ACTION_COUNT, HOLD, action_index
from autotuner.controller.forecast import Forecast
from autotuner.controller.hold import Hold
from autotuner.controller.learned import Learned
from autotuner.controller.policy import Policy
from autotuner.controller.rules import Rules
from autotuner_envs.scenario import Scenario
from autotuner_envs.simulator import START_TIME, Simulator
from autotuner_envs.training_run import TrainingRun

Chooser = Callable[[TrainingRun, np.ndarray, np.ndarray], int]
"""Environment, observation and mask to an action."""


@dataclass(frozen=True)
class Schedule:
    """Where the knobs should stand as a function of the budget used; each decision moves one knob one position."""

    coarse_until: float = 0.0
    """Share of the budget at the lowest resolution."""
    distill_from: tuple[float, ...] = (0.70, 0.85)
    """Shares of the budget from which stages 1, 2, ... are due; empty never distills."""
    pace: float = 1.0
    lr_scale: float = 1.0
    sampling_steps: float = 4.0

    def __call__(self, env: TrainingRun, observation: np.ndarray, mask: np.ndarray) -> int:
        """The first legal move towards where the knobs should stand."""
        used = env.simulator.elapsed / env.scenario.budget_seconds
        wishes = {
            "distill": float(sum(used >= start for start in self.distill_from)),
            "resolution": 0.0 if used < self.coarse_until else 1e9,
            "micro_batch": 1e9,
            "sampling_steps": self.sampling_steps,
            "pace": self.pace,
            "lr_scale": self.lr_scale,
        }
        for i, knob in enumerate(env.scenario.declaration.knobs):
            if knob.name not in wishes:
                continue
            wanted = min(range(len(knob.values)), key=lambda p: abs(knob.values[p] - wishes[knob.name]))
            step = (wanted > env.loop.positions[i]) - (wanted < env.loop.positions[i])
            if step and mask[action_index(knob.name, step)]:
                return action_index(knob.name, step)
        return HOLD


HAND_TUNED = Schedule(coarse_until=0.1, distill_from=(0.70, 0.73))
"""A tenth of the budget at the lowest resolution, the largest micro-batch, cheap previews, the last student for the end."""

PLANS: tuple[Schedule, ...] = tuple(
    Schedule(coarse, distill, pace, sampling_steps=4.0)
    for coarse, distill, pace in itertools.product((0.0, 0.08), ((0.70, 0.73), (0.55, 0.58), (0.80, 0.83)), (1.0, 0.8))
)


def of_policy(policy: Policy) -> Chooser:
    """A product policy as a chooser."""
    return lambda env, observation, mask: (
        policy.choose(tuple(float(x) for x in observation), tuple(bool(x) for x in mask), env.loop.window).action
    )


def random_legal(seed: int) -> Chooser:
    """Draws among the legal actions, hold included."""
    random = np.random.default_rng(seed)
    return lambda env, observation, mask: int(random.choice(np.flatnonzero(mask)))


def constant(action: int) -> Chooser:
    """Wishes the same action whenever it is legal: each extreme of a knob."""
    if not 0 <= action < ACTION_COUNT:
        raise ValueError(f"action {action}; allowed: 0 to {ACTION_COUNT - 1}")
    return lambda env, observation, mask: action if mask[action] else HOLD


@dataclass(frozen=True)
class Outcome:
    """How one episode went."""

    reward: float
    seconds_to_target: float
    """Censored at the budget."""
    budget_seconds: float
    reached: bool
    held_out_loss: float
    quality: float
    pressure_seconds_share: float
    heat_seconds_share: float
    out_of_memory: int
    killed: bool
    changes: int
    terms: dict[str, float]


def play(scenario: Scenario, chooser: Chooser) -> Outcome:
    """One episode of ``scenario`` under ``chooser``."""
    env = TrainingRun()
    observation, _ = env.reset(seed=scenario.seed, options={"scenario": scenario})
    totals: dict[str, float] = {}
    reached, ended = _crossing(env, None), False
    while not ended:
        before = (env.simulator.elapsed, env.simulator.held_out_loss())
        observation, _, ended, _, info = env.step(np.int64(chooser(env, observation, env.action_masks())))
        for name, term in info["terms"].items():
            totals[name] = totals.get(name, 0.0) + term
        if reached is None:
            reached = _crossing(env, before)
    return _outcome(env, totals, reached)


def _crossing(env: TrainingRun, before: tuple[float, float] | None) -> float | None:
    """Seconds at which the held-out loss met the target, by linear interpolation within the interval."""
    now, loss, target = env.simulator.elapsed, env.simulator.held_out_loss(), env.scenario.target
    if loss > target:
        return None
    return now if before is None else crossing(*before, now, loss, target)


def crossing(then: float, loss_then: float, now: float, loss: float, target: float) -> float:
    """Seconds at which a loss that fell from ``loss_then`` to ``loss`` met the target, by linear interpolation."""
    return now if loss_then <= loss else then + (now - then) * (loss_then - target) / (loss_then - loss)


def _outcome(env: TrainingRun, totals: dict[str, float], reached: float | None) -> Outcome:
    changes = sum(len(decision.changes) for decision in env.decisions)
    return outcome_of(env.simulator, totals, reached, env.pressure_seconds, env.heat_seconds, changes)


def outcome_of(
    simulator: Simulator, totals: dict[str, float], reached: float | None, pressure: float, heat: float, changes: int
) -> Outcome:
    """What is told of an ended run; ``pressure`` and ``heat`` are seconds."""
    state, budget = simulator.state, simulator.scenario.budget_seconds
    return Outcome(
        reward=sum(totals.values()),
        seconds_to_target=budget if reached is None else reached,
        budget_seconds=budget,
        reached=reached is not None,
        held_out_loss=simulator.held_out_loss(),
        quality=simulator.quality(),
        pressure_seconds_share=pressure / budget,
        heat_seconds_share=heat / budget,
        out_of_memory=state.out_of_memory,
        killed=state.killed,
        changes=changes,
        terms=totals,
    )


def planned(scenario: Scenario, plans: Sequence[Schedule] = PLANS) -> Outcome:
    """The oracle among schedules: every plan tried on the scenario itself, and the best one told."""
    return max((play(scenario, plan) for plan in plans), key=lambda outcome: outcome.reward)


_NAMED: dict[str, Callable[[], Chooser]] = {
    "hold": lambda: of_policy(Hold()),
    "rules": lambda: of_policy(Rules()),
    "forecast": lambda: of_policy(Forecast()),
    "random": lambda: random_legal(0),
    "hand": lambda: HAND_TUNED,
}


def chooser(name: str) -> Chooser:
    """The chooser called ``name``, or the artefact in that directory."""
    return _NAMED[name]() if name in _NAMED else of_policy(Learned.load(Path(name)))


def decisions(scenario: Scenario, choose: Chooser) -> Iterator[str]:
    """One line for each change of an episode, and one for its end."""
    env = TrainingRun()
    observation, _ = env.reset(seed=scenario.seed, options={"scenario": scenario})
    told, total, ended = 0, 0.0, False
    while not ended:
        observation, gain, ended, _, _ = env.step(np.int64(choose(env, observation, env.action_masks())))
        total += float(gain)
        for decision in env.decisions[told:]:
            if decision.changes:
                why = "the policy chose it" if decision.reason == "policy" else decision.why  # an index carries no reason
                yield f"{decision.time - START_TIME:7.1f} s  {decision.what:32s} {why}"
        told = len(env.decisions)
    loss, target = env.simulator.held_out_loss(), scenario.target
    yield f"{env.simulator.elapsed:7.1f} s  end: reward {total:.2f}, held-out loss {loss:.4f} (target {target:.4f})"
