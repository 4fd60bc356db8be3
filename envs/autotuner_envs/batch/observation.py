"""``autotuner.controller.observation`` on a run's record."""

from __future__ import annotations

import math
from typing import Any

from autotuner.controller import observation
from autotuner.controller.observation import RECENT, SINCE_CHANGE_SCALE
from autotuner.controller.window import HISTORY
from autotuner_envs.batch.compiled import compiled
from autotuner_envs.batch.layout import DISTILL, KNOB_COUNT, MICRO_BATCH, PACE, RESOLUTION
from autotuner_envs.batch.window import budget_used, close, limit_bytes, predicted_bytes, rate_key, tunable

scaled_value = compiled(observation.scaled_value)


@compiled
def clip(value: float, low: float, high: float) -> float:
    """``value`` within bounds."""
    return low if value < low else high if value > high else value


@compiled
def write_observation(run: Any, now: float, features: Any) -> None:
    """Write the observation at ``now`` into ``features``, in the order of ``FEATURES``; closes the window's interval."""
    close(run, now)
    features[0] = 1.0
    features[1] = budget_used(run, now)
    features[2] = min(1.0, run.interval_count / 64)
    at = _knobs(run, features, 3)
    at = _loss(run, features, at)
    at = _held_out(run, now, features, at)
    at = _rate(run, features, at)
    at = _memory(run, features, at)
    at = _heat(run, features, at)
    at = _quality(run, features, at)
    at = _gap(run, features, at)
    _health(run, now, features, at)


@compiled
def _knobs(run: Any, features: Any, at: int) -> int:
    for knob in range(KNOB_COUNT):
        if tunable(run, knob):
            top, position = run.count[knob] - 1, run.positions[knob]
            features[at] = 1.0
            features[at + 1] = position / top
            features[at + 2] = 1.0 if position > 0 else 0.0
            features[at + 3] = 1.0 if position < top else 0.0
            features[at + 4] = min(1.0, (run.interval_count - run.changed[knob]) / SINCE_CHANGE_SCALE)
            features[at + 5] = scaled_value(knob, run.values[knob, position], run.values[knob, top])
        else:
            features[at : at + 6] = 0.0
        at += 6
    return at


@compiled
def _loss(run: Any, features: Any, at: int) -> int:
    features[at : at + 3] = 0.0
    first = max(run.interval_count - HISTORY, run.loss_comparable_from)
    count, sum_x, sum_y, number = 0, 0.0, 0.0, run.interval_count - 1
    while number >= first and count < RECENT:
        y = run.past_log_loss[number % HISTORY]
        if math.isfinite(y):
            count, sum_x, sum_y = count + 1, sum_x + number, sum_y + y
        number -= 1
    if not count:
        return at + 3
    mean_x, mean_y, spread, shared = sum_x / count, sum_y / count, 0.0, 0.0
    for i in range(number + 1, run.interval_count):
        y = run.past_log_loss[i % HISTORY]
        if math.isfinite(y):
            spread += (i - mean_x) ** 2
            shared += (i - mean_x) * (y - mean_y)
    noise = 0.0
    for back in range(1, min(run.interval_count, HISTORY) + 1):
        deviation = run.past_deviation[(run.interval_count - back) % HISTORY]
        if math.isfinite(deviation):
            noise = deviation
            break
    features[at] = 1.0
    features[at + 1] = clip(shared / spread * 10.0 if count > 1 and spread else 0.0, -1.0, 1.0)
    features[at + 2] = clip(noise, -1.0, 1.0)
    return at + 3


@compiled
def _held_out(run: Any, now: float, features: Any, at: int) -> int:
    features[at : at + 8] = 0.0
    passed = now - run.first_time if run.has_sample else 0.0
    features[at + 5] = clip(run.evaluation_seconds / passed * 4.0, 0.0, 1.0) if passed > 0 else 0.0
    if not run.held_out_count:
        return at + 8
    last, slope = run.held_out[1], 0.0
    if run.held_out_count > 1:
        intervals = max((run.held_out_time[1] - run.held_out_time[0]) / run.interval_seconds, 0.1)
        slope = math.log(last / run.held_out[0]) / intervals * 20.0
    features[at] = 1.0
    features[at + 1] = clip(math.log(last / run.first_held_out) / 2.0, -1.0, 1.0)
    features[at + 2] = clip(math.log(last / run.best_held_out) * 2.0, -1.0, 1.0)
    features[at + 3] = clip(slope, -1.0, 1.0)
    features[at + 4] = clip((run.interval_count - run.evaluation_interval) / RECENT, -1.0, 1.0)
    if run.target_declared:
        features[at + 6] = 1.0
        features[at + 7] = clip(math.log(last / run.target) * 2.0, -1.0, 1.0)
    return at + 8


@compiled
def _rate(run: Any, features: Any, at: int) -> int:
    features[at : at + 3] = 0.0
    rate = 0.0
    for back in range(1, min(run.interval_count, 2) + 1):
        rate = run.past_rate[(run.interval_count - back) % HISTORY]
        if rate > 0:
            break
    if not rate > 0 or not run.best_rate:
        return at + 3
    pace = run.values[PACE, run.positions[PACE]] if run.count[PACE] else 1.0
    resolution, micro_batch, stage = rate_key(run)
    best_of_shape = run.best_rates[resolution, micro_batch, stage]
    if not best_of_shape:
        best_of_shape = rate
    features[at] = 1.0
    features[at + 1] = clip(rate / run.best_rate, -1.0, 1.0)
    features[at + 2] = clip(rate / (pace * best_of_shape), 0.0, 1.5)
    return at + 3


@compiled
def _memory(run: Any, features: Any, at: int) -> int:
    features[at : at + 8] = 0.0
    features[at + 5] = 1.0 if run.has_machine else 0.0
    features[at + 6] = run.machine_pressure / 2.0
    features[at + 7] = 1.0 if run.swap_grew else 0.0
    limit = limit_bytes(run)
    if not limit > 0:
        return at + 8
    newest = run.past_used[(run.interval_count - 1) % HISTORY] if run.interval_count else 0.0
    features[at] = 1.0
    features[at + 1] = clip((newest if newest else run.used) / limit, 0.0, 1.5)
    features[at + 2] = _ratio_above(run, MICRO_BATCH, limit)
    features[at + 3] = _ratio_above(run, RESOLUTION, limit)
    last = first = math.nan
    count = 0
    for back in range(1, min(run.interval_count, HISTORY) + 1):
        share = run.past_share[(run.interval_count - back) % HISTORY]
        if math.isfinite(share):
            last = share if count == 0 else last
            first = share
            count += 1
            if count == RECENT:
                break
    features[at + 4] = clip((last - first) * 2.0, -1.0, 1.0) if count else 0.0
    return at + 8


@compiled
def _ratio_above(run: Any, knob: int, limit: float) -> float:
    """What one position more of ``knob`` is expected to use, of the limit; 0 is unknown."""
    if not run.count[knob] or run.positions[knob] + 1 >= run.count[knob]:
        return 0.0
    run.candidate[:] = run.positions
    run.candidate[knob] += 1
    predicted = predicted_bytes(run, run.candidate)
    return 0.0 if math.isnan(predicted) else clip(predicted / limit, 0.0, 1.5)


@compiled
def _heat(run: Any, features: Any, at: int) -> int:
    features[at : at + 4] = 0.0
    if run.machine_level < 0 or not run.has_machine:
        return at + 4
    last = first = count = heavy = 0
    for back in range(1, min(run.interval_count, HISTORY) + 1):
        level = run.past_level[(run.interval_count - back) % HISTORY]
        if level >= 0:
            last = level if count == 0 else last
            first = level
            count += 1
            heavy += 1 if level >= 2 else 0
            if count == RECENT:
                break
    features[at] = 1.0
    features[at + 1] = run.machine_level / 4.0
    features[at + 2] = clip((last - first) / 4.0, -1.0, 1.0) if count else 0.0
    features[at + 3] = heavy / count if count else 0.0
    return at + 4


@compiled
def _quality(run: Any, features: Any, at: int) -> int:
    features[at : at + 3] = 0.0
    if run.quality_count:
        features[at] = 1.0
        features[at + 1] = clip(math.log(run.qualities[1] / run.first_quality) / 2.0, -1.0, 1.0)
        if run.quality_count > 1:
            features[at + 2] = clip(math.log(run.qualities[1] / run.qualities[0]), -1.0, 1.0)
    return at + 3


@compiled
def _gap(run: Any, features: Any, at: int) -> int:
    features[at : at + 3] = 0.0
    stage = int(run.values[DISTILL, run.positions[DISTILL]]) if run.count[DISTILL] else 0
    if not stage:
        return at + 3
    last = before = 0.0
    for i in range(run.gap_count_seen - 1, -1, -1):
        if run.held_out_count - run.gap_number[i] >= HISTORY:
            break
        if run.gap_stage[i] == stage:
            if last:
                before = run.gap[i]
                break
            last = run.gap[i]
    if last:
        features[at] = 1.0
        features[at + 1] = clip(math.log(last), -1.0, 1.0)
        features[at + 2] = clip(math.log(last / before) * 2.0, -1.0, 1.0) if before else 0.0
    return at + 3


@compiled
def _health(run: Any, now: float, features: Any, at: int) -> None:
    sample_age = (now - run.sample_time) / run.interval_seconds if run.has_sample else 0.0
    machine_age = (now - run.machine_time) / run.interval_seconds if run.has_machine else 8.0
    bad, changes = 0.0, 0
    for back in range(1, min(run.interval_count, RECENT) + 1):
        if run.past_not_finite[(run.interval_count - back) % HISTORY]:
            bad = 1.0
    for knob in range(KNOB_COUNT):
        changes += 1 if run.interval_count - run.changed[knob] < RECENT else 0
    features[at] = clip(sample_age / 4.0, -1.0, 1.0)
    features[at + 1] = clip(machine_age / 8.0, -1.0, 1.0)
    features[at + 2] = bad
    features[at + 3] = clip(changes / 4.0, -1.0, 1.0)
