"""The planning oracle: for one scenario, with its noise known, the plan that meets the target soonest.

A plan says where every knob should stand in each of a few parts of the budget; the guard stands between it and the run, as it
does for every policy. Plans are searched by the cross-entropy method (Rubinstein 1999) over one categorical distribution for
each knob and part: hindsight that no policy can have, and so a bound in practice, if not in proof.
"""

from __future__ import annotations

import numpy as np
from autotuner_envs.batch.layout import DENSITY, DISTILL, KNOB_COUNT, LR_SCALE, RESOLUTION, SAMPLING_STEPS, Runs
from autotuner_envs.batch.runs import BatchedRuns, encoded
from autotuner_envs.scenario import Scenario
from numpy.typing import NDArray

PARTS = np.array([0.0, 0.08, 0.18, 0.3, 0.5])
"""Shares of the budget at which the parts of a plan begin; targets are met in the first half or not at all."""
PLANS = 256
ITERATIONS = 6
ELITE = 24
STEADY = 0.3
"""Share of the plans that want the same from the first step to the last."""
SMOOTHING = 0.7
"""How far a distribution moves to what the elite does."""
Plans = NDArray[np.int64]
"""Ladder positions, (plans, parts, knobs)."""


def towards(runs: BatchedRuns, plans: Plans, parts: NDArray[np.float64] = PARTS) -> NDArray[np.int64]:
    """For every run the first legal move, in the order of the knobs, to where its plan wants it; hold when there is none."""
    state = runs.runs
    used = (state["time"] - state["first_time"]) / state["budget_seconds"]
    part = np.searchsorted(parts, used, side="right") - 1
    wanted = plans[np.arange(len(state)), np.maximum(part, 0)]
    way = np.sign(wanted - state["positions"])
    action = np.where(way == 0, 0, 1 + 2 * np.arange(KNOB_COUNT) + (way > 0))
    legal = np.take_along_axis(runs.masks, action, axis=1) & (way != 0)
    first = legal.argmax(axis=1)
    rows = np.arange(len(state))
    return np.where(legal[rows, first], action[rows, first], 0)


def seconds_of(row: Runs, plans: Plans) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Seconds to the target of one encoded scenario under each plan, censored at the budget, and what ranks the plans.

    The rank is the seconds; where the target is not met, the budget and the progress that is missing.
    """
    runs = BatchedRuns(np.repeat(row, len(plans)))
    while not (runs.ended | ~np.isnan(runs.runs["reached_at"])).all():
        runs.step(towards(runs, plans))
    seconds = runs.seconds_to_target
    missing = np.where(np.isnan(runs.runs["reached_at"]), np.maximum(1.0 - runs.runs["progress"], 0.0), 0.0)
    return seconds, seconds + missing * row["budget_seconds"][0]


def _first_plans(row: Runs) -> Plans:
    """What a person would try: the script's own values, all knobs at the top, and either with one knob elsewhere."""
    count, start = np.maximum(row["count"][0], 1), row["start"][0].copy()
    top = count - 1
    top[SAMPLING_STEPS] = 0
    for knob in (DISTILL, LR_SCALE, DENSITY):
        top[knob] = start[knob]
    plans = []
    for plain in (start, top):
        for knob in range(KNOB_COUNT):
            for position in range(count[knob]) if knob != DISTILL else ():
                plan = plain.copy()
                plan[knob] = position
                plans.append(np.tile(plan, (len(PARTS), 1)))
    coarse = np.tile(top, (len(PARTS), 1))
    coarse[0, RESOLUTION] = 0
    return np.stack([*plans, coarse])


def best_seconds(scenario: Scenario, seed: int = 0) -> float:
    """Seconds to the target under the best plan found; the same for the same ``scenario`` and ``seed``."""
    row, random = encoded([scenario]), np.random.default_rng(seed)
    count = np.maximum(row["count"][0], 1)
    ladder = np.arange(count.max())
    odds = (ladder < count[:, None]).astype(float)[None].repeat(len(PARTS), axis=0)
    odds[:, DISTILL, 1:] = 0.0  # a student's stage never brings the teacher's target nearer
    odds /= odds.sum(axis=-1, keepdims=True)
    plans, best = _first_plans(row), np.inf
    for _ in range(ITERATIONS):
        seconds, rank = seconds_of(row, plans)
        best = min(best, float(seconds.min()))
        elite = plans[np.argsort(rank, kind="stable")[:ELITE]]
        seen = (elite[..., None] == ladder).mean(axis=0)
        odds = (1 - SMOOTHING) * odds + SMOOTHING * seen
        drawn = (random.random((PLANS, len(PARTS), KNOB_COUNT, 1)) > odds.cumsum(axis=-1)).sum(axis=-1)
        constant = random.random((PLANS, 1, 1)) < STEADY
        drawn = np.where(constant, drawn[:, :1], drawn)
        plans = np.concatenate([elite[: ELITE // 4], np.minimum(drawn, count - 1)])
    return best
