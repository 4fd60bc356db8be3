"""``autotuner.controller.guard`` and the deciding half of ``loop`` on a run's record."""

from __future__ import annotations

from typing import Any

from autotuner.controller.guard import SETTLE_STEPS, GuardLimits
from autotuner.controller.window import HISTORY
from autotuner_envs.batch.compiled import compiled
from autotuner_envs.batch.layout import (
    ACTION_COUNT,
    ACTION_KNOB,
    ACTION_STEP,
    CACHE_LIMIT,
    CHANGES,
    DISTILL,
    DWELL,
    MICRO_BATCH,
    PACE,
    RESOLUTION,
)
from autotuner_envs.batch.window import budget_used, close, limit_bytes, predicted_bytes, tunable

_LIMITS = GuardLimits()
MEMORY_SHARE, CRITICAL_SHARE = _LIMITS.memory_share, _LIMITS.critical_share
HEAVY_HEAT, CRITICAL_HEAT = _LIMITS.heavy_heat, _LIMITS.critical_heat
STALE_INTERVALS, REVERSAL_INTERVALS = _LIMITS.stale_intervals, _LIMITS.reversal_intervals
CHANGES_PER_HOUR, RESTORE_FROM, SETTLE_SECONDS = _LIMITS.changes_per_hour, _LIMITS.restore_from, _LIMITS.settle_seconds


@compiled
def loading(knob: int) -> bool:
    """Whether more of ``knob`` asks more of memory or heat, and less of it takes load away."""
    return knob in (RESOLUTION, MICRO_BATCH, PACE, CACHE_LIMIT)


@compiled
def wants_memory(knob: int) -> bool:
    """Whether more of ``knob`` needs memory."""
    return knob in (RESOLUTION, MICRO_BATCH, CACHE_LIMIT, DISTILL)


@compiled
def memory_share(run: Any) -> float:
    """Memory in use of what the run may use; 0 is unknown."""
    limit = limit_bytes(run)
    return float(run.used / limit) if limit > 0 else 0.0


@compiled
def under_stress(run: Any) -> bool:
    """Whether memory or heat is a reason to take load away at once."""
    return bool(run.machine_level >= HEAVY_HEAT or run.machine_pressure >= 1 or memory_share(run) > MEMORY_SHARE)


@compiled
def stale(run: Any, now: float) -> bool:
    """Whether samples or machine readings are too old to plan with."""
    if not run.has_sample:
        return True
    patience = max(STALE_INTERVALS * run.interval_seconds, 6.0 * run.sample_step_seconds)
    return bool(now - run.sample_time > patience or now - run.machine_time > max(patience, 10.0))


@compiled
def too_many_shapes(run: Any, positions: Any) -> bool:
    """Whether these positions need a shape beyond the run's budget of shapes."""
    new = not run.seen_shapes[positions[RESOLUTION], positions[MICRO_BATCH]]
    return bool(new and run.seen_shape_count >= run.max_shapes)


@compiled
def allowed(run: Any, knob: int, step: int, stressed: bool, old: bool, now: float) -> bool:
    """``Guard.verdict`` is empty; ``stressed`` and ``old`` are ``under_stress`` and ``stale`` now."""
    if not tunable(run, knob):
        return False
    position = run.positions[knob] + step
    if not 0 <= position < run.count[knob]:
        return False
    if settling(run, now) and critical(run):
        return False
    run.candidate[:] = run.positions
    run.candidate[knob] = position
    if not (step < 0 and loading(knob)):
        if old:
            return False
        if step > 0 and not _may_load(run, knob):
            return False
    return _paced(run, knob, step, stressed, now) and not too_many_shapes(run, run.candidate)


@compiled
def _may_load(run: Any, knob: int) -> bool:
    if loading(knob):
        for back in range(1, min(4, run.interval_count, HISTORY) + 1):
            if run.past_not_finite[(run.interval_count - back) % HISTORY]:
                return False
        if run.machine_level >= (HEAVY_HEAT if run.candidate[knob] > run.start[knob] else CRITICAL_HEAT):
            return False
    if wants_memory(knob):
        if run.machine_pressure >= 1:
            return False
        limit, predicted = limit_bytes(run), predicted_bytes(run, run.candidate)
        if predicted > MEMORY_SHARE * limit:  # false where either is unknown
            return False
        if knob == CACHE_LIMIT:
            grown = min(run.values[CACHE_LIMIT, run.candidate[CACHE_LIMIT]], run.largest_cache)
            if run.sample_active + grown > MEMORY_SHARE * limit:
                return False
    return True


@compiled
def _paced(run: Any, knob: int, step: int, stressed: bool, now: float) -> bool:
    if stressed and step < 0 and loading(knob):
        return True
    since = run.interval_count - run.changed[knob]
    if since < DWELL[knob] or (run.direction[knob] == -step and since < REVERSAL_INTERVALS):
        return False
    while run.change_first < run.change_end and now - run.change_times[run.change_first % CHANGES] > 3600.0:
        run.change_first += 1
    return bool(run.change_end - run.change_first < CHANGES_PER_HOUR)


@compiled
def write_mask(run: Any, now: float, mask: Any) -> None:
    """Which actions are allowed; the first, hold, always is."""
    stressed, old = under_stress(run), stale(run, now)
    mask[0] = True
    for action in range(1, ACTION_COUNT):
        mask[action] = allowed(run, ACTION_KNOB[action], ACTION_STEP[action], stressed, old, now)


@compiled
def _lowest(run: Any, knob: int) -> bool:
    """Ask for the bottom of the ladder; whether that is a change."""
    if not tunable(run, knob) or run.positions[knob] == 0:
        return False
    run.asked[knob] = 0
    return True


@compiled
def _free_memory(run: Any) -> int:
    """Cache first, then the largest micro-batch that is expected to fit, then resolution; how many moves."""
    moves = 1 if _lowest(run, CACHE_LIMIT) else 0
    for knob in (MICRO_BATCH, RESOLUTION):
        if not tunable(run, knob) or run.positions[knob] == 0:
            continue
        position = _largest_that_fits(run, knob)
        if position >= 0:
            run.asked[knob] = position
            return moves + 1
    return moves


@compiled
def _largest_that_fits(run: Any, knob: int) -> int:
    limit, lowest = limit_bytes(run), -1
    run.candidate[:] = run.positions
    for position in range(run.positions[knob] - 1, -1, -1):
        run.candidate[knob] = position
        if too_many_shapes(run, run.candidate):
            continue
        lowest = position
        if not predicted_bytes(run, run.candidate) > MEMORY_SHARE * limit:
            return position
    return lowest


@compiled
def settling(run: Any, now: float) -> bool:
    """Whether the newest change is too fresh for its effect to be seen."""
    steps = SETTLE_STEPS * run.sample_step_seconds if run.has_sample else 0.0
    return bool(now - run.changed_at < max(SETTLE_SECONDS, steps))


@compiled
def critical(run: Any) -> bool:
    """Whether the guard must act without the policy."""
    return bool(memory_critical(run) or run.machine_level >= CRITICAL_HEAT)


@compiled
def memory_critical(run: Any) -> bool:
    """Whether it is memory that it must act for."""
    return bool(run.window_out_of_memory or run.machine_pressure >= 2 or memory_share(run) > CRITICAL_SHARE)


@compiled
def emergency(run: Any, now: float) -> int:
    """Ask for what critical pressure needs; how many moves that is."""
    if settling(run, now):
        return 0
    if memory_critical(run):
        moves = _free_memory(run)
        if moves:
            return moves
    if run.machine_level >= CRITICAL_HEAT and _lowest(run, PACE):
        return 1
    return 0


@compiled
def obligation(run: Any, now: float) -> int:
    """Near the end of the budget, one step of resolution back to where the script started; how many moves."""
    if not run.count[RESOLUTION] or budget_used(run, now) < RESTORE_FROM:
        return 0
    if run.positions[RESOLUTION] >= run.start[RESOLUTION] or stale(run, now):
        return 0
    run.candidate[:] = run.positions
    run.candidate[RESOLUTION] += 1
    paced = _paced(run, RESOLUTION, 1, under_stress(run), now)
    if not _may_load(run, RESOLUTION) or (paced and too_many_shapes(run, run.candidate)):
        return 0
    run.asked[RESOLUTION] += 1
    return 1


@compiled
def due(run: Any, now: float) -> bool:
    """Whether it is time to decide: an interval has passed, or the guard must act at once."""
    if not run.has_sample:
        return False
    since = now - run.decided_at
    if since >= run.interval_seconds:
        return True
    if since < 1.0:
        return False
    urgent = emergency(run, now) > 0
    run.asked[:] = run.positions
    return urgent


@compiled
def act(run: Any, action: int, now: float) -> int:
    """One decision, the guard's or else ``action``; ``run.asked`` holds it. How many knobs it moves."""
    close(run, now)
    run.decided_at = now
    run.asked[:] = run.positions
    moves = emergency(run, now)
    if not moves:
        moves = obligation(run, now)
    if moves or not settling(run, now):
        run.window_out_of_memory = False
    if not moves and 0 < action < ACTION_COUNT:
        knob, step = ACTION_KNOB[action], ACTION_STEP[action]
        if allowed(run, knob, step, under_stress(run), stale(run, now), now):
            run.asked[knob] += step
            moves = 1
    for _ in range(moves):
        run.change_times[run.change_end % CHANGES] = now
        run.change_end += 1
    return moves
