"""Many runs stepped by one call."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotuner.controller.actions import ACTION_COUNT, HOLD
from autotuner.controller.observation import FEATURES
from autotuner_envs import rewards, schedules
from autotuner_envs.batch.compiled import compiled
from autotuner_envs.batch.guard import act, due, write_mask
from autotuner_envs.batch.layout import RUN, Runs, encode
from autotuner_envs.batch.observation import write_observation
from autotuner_envs.batch.simulator import (
    advance,
    begin,
    curve_held_out_loss,
    elapsed,
    ended,
    held_out_loss,
    quality,
    undistilled,
)
from autotuner_envs.scenario import Scenario
from autotuner_envs.training_run import SLICES

_WEIGHTS = rewards.WEIGHTS
PROGRESS, WAITING, QUALITY, PRESSURE = _WEIGHTS.progress, _WEIGHTS.waiting, _WEIGHTS.quality, _WEIGHTS.pressure
HEAT, OUT_OF_MEMORY, KILLED, CHANGE = _WEIGHTS.heat, _WEIGHTS.out_of_memory, _WEIGHTS.killed, _WEIGHTS.change
BETTER, BEYOND = rewards.BETTER, rewards.BEYOND
waited = compiled(rewards.waited)
crossing = compiled(schedules.crossing)


@compiled
def set_potential(run: Any) -> None:
    """Where the run stands, as ``rewards.potential`` has it."""
    first = curve_held_out_loss(run.curve, 0.0, 0.0, 0.0, 0.0)
    way = math.log(first / held_out_loss(run)) / math.log(first / run.target)
    better = math.log(quality(run) / undistilled(run.distillation, run.target)) / math.log(BETTER)
    run.progress, run.quality = min(way, BEYOND), min(max(better, -BEYOND), BEYOND)


@compiled
def interval(run: Any, changes: int) -> float:
    """Let one decision interval pass, the guard acting between its slices; the reward, as ``TrainingRun`` sums it."""
    seconds = run.interval_seconds / SLICES
    passed = pressure = heat = 0.0
    out_of_memory = 0
    progress, better = run.progress, run.quality
    began, loss = elapsed(run), held_out_loss(run)
    for part in range(SLICES):
        one, pressed, heated, without = advance(run, seconds)
        passed, pressure, heat, out_of_memory = passed + one, pressure + pressed, heat + heated, out_of_memory + without
        if ended(run):
            break
        if part < SLICES - 1 and due(run, run.time):
            changes += act(run, HOLD, run.time)
    set_potential(run)
    if math.isnan(run.reached_at) and held_out_loss(run) <= run.target:
        run.reached_at = crossing(began, loss, elapsed(run), held_out_loss(run), run.target)
    reward = PROGRESS * (run.progress - progress)
    reward -= WAITING * waited(progress, run.progress, began, passed, run.budget_seconds)
    reward += QUALITY * (run.quality - better)
    reward -= (PRESSURE * pressure + HEAT * heat) / run.budget_seconds
    reward -= OUT_OF_MEMORY * out_of_memory + (KILLED if run.killed else 0.0)
    return float(reward - CHANGE * changes)


@compiled
def start_all(runs: Any, which: Any, observations: Any, masks: Any) -> None:
    """Begin the runs of the indices ``which`` and let their first interval pass."""
    for i in which:
        run = runs[i]
        begin(run)
        set_potential(run)
        interval(run, 0)
        if not math.isnan(run.reached_at):
            run.reached_at = elapsed(run)  # as soon as it was looked at
        write_observation(run, run.time, observations[i])
        write_mask(run, run.time, masks[i])


@compiled
def step_all(runs: Any, actions: Any, observations: Any, masks: Any, rewards: Any, done: Any) -> None:
    """One decision and one interval of every run that has not ended."""
    for i in range(len(runs)):
        run = runs[i]
        if done[i]:
            rewards[i] = 0.0
            continue
        rewards[i] = interval(run, act(run, actions[i], run.time))
        done[i] = ended(run)
        write_observation(run, run.time, observations[i])
        write_mask(run, run.time, masks[i])


class BatchedRuns:
    """N environments in lockstep.

    ``observations`` (N, len(FEATURES)) float32, ``masks`` (N, ACTION_COUNT) bool, ``rewards`` (N,) float64 and ``ended`` (N,)
    bool are overwritten by every step. A run that has ended stays as it is, with reward 0, until
    ``replace`` puts another there.
    """

    def __init__(self, scenarios: Sequence[Scenario] | Runs) -> None:
        """``scenarios`` (N,), as they are or encoded."""
        self.encoded = scenarios if isinstance(scenarios, np.ndarray) else encoded(scenarios)
        self.runs: Runs = self.encoded.copy()
        count = len(self.runs)
        self.observations = np.zeros((count, len(FEATURES)), np.float32)
        self.masks = np.zeros((count, ACTION_COUNT), bool)
        self.rewards = np.zeros(count)
        self.ended = np.zeros(count, bool)
        start_all(self.runs, np.arange(count), self.observations, self.masks)

    def step(self, actions: NDArray[np.integer[Any]]) -> None:
        """Make one decision in each run (``actions`` (N,), rows of ``ACTIONS``) and let one interval pass."""
        step_all(self.runs, actions, self.observations, self.masks, self.rewards, self.ended)

    def replace(self, rows: Runs, which: NDArray[np.integer[Any]]) -> None:
        """Begin the encoded scenarios ``rows`` where the runs of the indices ``which`` were."""
        self.runs[which] = rows
        self.ended[which] = False
        start_all(self.runs, which, self.observations, self.masks)

    @property
    def seconds_to_target(self) -> NDArray[np.float64]:
        """Seconds to the target (N,), censored at the budget."""
        reached = self.runs["reached_at"]
        return np.where(np.isnan(reached), self.runs["budget_seconds"], reached)

    def restart(self) -> None:
        """Begin every scenario again."""
        self.replace(self.encoded, np.arange(len(self.runs)))

    def play(self, choose: Callable[[BatchedRuns], NDArray[np.integer[Any]]]) -> NDArray[np.float64]:
        """Every run from where it is to its end; the summed rewards (N,)."""
        total = np.zeros(len(self.runs))
        while not self.ended.all():
            self.step(choose(self))
            total += self.rewards
        return total


def encoded(scenarios: Sequence[Scenario]) -> Runs:
    """The scenarios as records (N,) of dtype RUN."""
    rows = np.zeros(len(scenarios), RUN)
    for scenario, row in zip(scenarios, rows, strict=True):
        encode(scenario, row)
    return rows
