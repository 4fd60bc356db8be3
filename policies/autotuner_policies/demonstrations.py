"""What there is to imitate before training: for each training scenario, the best of a few dozen plans, found by trying them.

Random exploration hardly ever repairs three knobs in a row, each of which takes several moves. The plans do so; which one is
best where is left to imitation, and then to reinforcement learning, to find out from what can be observed. Whatever a plan
says of students, none begins before the target is met while there is time: what is imitated sees both.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial

import numpy as np
from autotuner_envs.batch.layout import (
    CACHE_LIMIT,
    DENSITY,
    DISTILL,
    LR_SCALE,
    MICRO_BATCH,
    RESOLUTION,
    SAMPLING_STEPS,
    Runs,
)
from autotuner_envs.batch.runs import BatchedRuns
from numpy.typing import NDArray

from autotuner.controller.rules import LATEST_STUDENT
from autotuner_policies.oracle import Plans, towards

PARTS = np.array([0.0, 0.06, 0.1, 0.14, 0.18, 0.24, 0.3, 0.4, 0.7, 0.73])
"""Shares of the budget at which the parts of a plan begin."""
CHUNK = 64
"""Scenarios tried side by side."""


def plans_of(row: np.void) -> Plans:
    """The plans for one encoded scenario, (plans, parts, knobs)."""
    return np.stack([_plan(row, *choice) for choice in _choices()])


def _choices() -> Iterator[tuple[float, float, float]]:
    """Until when at the lowest resolution, from when at the lowest learning rate, from when a student."""
    return itertools.product((0.0, 0.06, 0.1, 0.14, 0.18, 0.24), (2.0, 0.18, 0.3, 0.4), (0.7, 2.0))


def _plan(row: np.void, coarse_until: float, slow_from: float, student_from: float) -> NDArray[np.int64]:
    count = np.maximum(row["count"], 1)
    top = count - 1
    plan = np.tile(top, (len(PARTS), 1))
    plan[:, SAMPLING_STEPS] = plan[:, DENSITY] = 0
    plan[coarse_until > PARTS, RESOLUTION] = 0
    plan[:, LR_SCALE] = np.where(slow_from > PARTS, _nearest(row, LR_SCALE, 1.0), 0)
    stage = (student_from <= PARTS).astype(np.int64) + (student_from + 0.03 <= PARTS)
    plan[:, DISTILL] = np.minimum(stage, top[DISTILL])
    plan[:, [MICRO_BATCH, CACHE_LIMIT]] = top[[MICRO_BATCH, CACHE_LIMIT]]
    return plan


def _nearest(row: np.void, knob: int, value: float) -> int:
    count = int(row["count"][knob])
    return int(np.abs(row["values"][knob, :count] - value).argmin()) if count else 0


def best_plans(scenarios: Runs) -> Plans:
    """For each encoded scenario the plan with the largest reward, (scenarios, parts, knobs)."""
    best = []
    for start in range(0, len(scenarios), CHUNK):
        rows = scenarios[start : start + CHUNK]
        plans = np.stack([plans_of(row) for row in rows])
        runs = BatchedRuns(np.repeat(rows, plans.shape[1]))
        flat = plans.reshape(-1, *plans.shape[2:])
        rewards = runs.play(partial(imitated, plans=flat)).reshape(plans.shape[:2])
        best.append(plans[np.arange(len(rows)), rewards.argmax(axis=1)])
    return np.concatenate(best)


def imitated(runs: BatchedRuns, plans: Plans) -> NDArray[np.int64]:
    """The move towards each run's plan, less students that would come before the target."""
    state = runs.runs
    early = (state["time"] - state["first_time"]) / state["budget_seconds"] < LATEST_STUDENT
    waits = np.isnan(state["reached_at"]) & early & (state["positions"][:, DISTILL] == 0)
    plans = plans.copy()
    plans[waits, :, DISTILL] = 0
    return towards(runs, plans, PARTS)


def demonstrations(scenarios: Runs) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64]]:
    """Observations, masks and actions of the best plan of every scenario, all steps in one row after another."""
    plans, runs = best_plans(scenarios), BatchedRuns(scenarios)
    observations, masks, actions = [], [], []
    while not runs.ended.all():
        live = ~runs.ended
        action = imitated(runs, plans)
        observations.append(runs.observations[live])
        masks.append(runs.masks[live])
        actions.append(action[live])
        runs.step(action)
    return np.concatenate(observations), np.concatenate(masks), np.concatenate(actions)
