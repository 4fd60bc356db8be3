"""``autotuner.controller.window`` and ``memory`` on a run's record: what the daemon knows of a run."""

from __future__ import annotations

import math
from typing import Any

from autotuner.controller.memory import LINE_MARGIN, STAGE_FACTOR
from autotuner.controller.window import HISTORY
from autotuner_envs.batch.compiled import compiled
from autotuner_envs.batch.layout import CACHE_LIMIT, DENSITY, DISTILL, KNOB_COUNT, MICRO_BATCH, NEVER, RESOLUTION


@compiled
def begin_window(run: Any) -> None:
    """A run of which nothing is known yet."""
    run.asked[:] = run.start
    run.decided_at = run.closed_at = run.changed_at = run.machine_time = -math.inf
    run.changed[:] = NEVER
    run.best_held_out = math.inf
    run.machine_level = -1
    run.seen_shapes[run.start[RESOLUTION], run.start[MICRO_BATCH]] = True
    run.seen_shape_count = 1


@compiled
def tunable(run: Any, knob: int) -> bool:
    """Whether the daemon may move ``knob``."""
    return bool(run.count[knob] > 1)


@compiled
def pixels(run: Any, positions: Any) -> float:
    """micro_batch x resolution^2; an undeclared factor counts as 1."""
    resolution = run.values[RESOLUTION, positions[RESOLUTION]] if run.count[RESOLUTION] else 1.0
    micro_batch = run.values[MICRO_BATCH, positions[MICRO_BATCH]] if run.count[MICRO_BATCH] else 1.0
    return math.floor(resolution * resolution * micro_batch)


@compiled
def student(run: Any, positions: Any) -> bool:
    """Whether a student is trained beside its teacher."""
    return bool(run.count[DISTILL] and run.values[DISTILL, positions[DISTILL]] > 0)


@compiled
def limit_bytes(run: Any) -> float:
    """What the run may use in all; NaN is unknown."""
    return run.machine_available + run.used if run.has_machine and run.used > 0 else math.nan


@compiled
def take_sample(
    run: Any, time: float, loss: float, step_seconds: float, resident: float, cached: float, peak: float, first: bool, bad: bool
) -> None:
    """Take one optimizer step; byte counts are whole, ``bad`` says that memory ran out."""
    if not run.has_sample:
        run.has_sample = True
        run.first_time = time
    run.sample_time, run.sample_step_seconds = time, step_seconds
    run.sample_images, run.sample_step = math.floor(run.images), math.floor(run.step)
    if bad:
        run.window_out_of_memory = True
    if math.isnan(loss):
        run.not_finite += 1
    elif loss > 0:
        run.losses[run.loss_count] = math.log(loss)
        run.loss_count += 1
    if not first and step_seconds > 0:
        run.step_seconds[run.step_count] = step_seconds
        run.step_count += 1
    run.sample_active, run.largest_cache = resident, max(run.largest_cache, cached)
    used = max(peak, resident + cached)
    if used:
        run.used = used
        run.interval_used = max(run.interval_used, used)
        _remember_peak(run, pixels(run, run.positions), student(run, run.positions), used)


@compiled
def _remember_peak(run: Any, size: float, with_student: bool, used: float) -> None:
    for i in range(run.peak_count):
        if run.peak_pixels[i] == size and run.peak_student[i] == with_student:
            run.peak_used[i] = max(run.peak_used[i], used)
            return
    i = run.peak_count
    run.peak_pixels[i], run.peak_student[i], run.peak_used[i] = size, with_student, used
    run.peak_count += 1


@compiled
def predicted_bytes(run: Any, positions: Any) -> float:
    """What the run's own memory model expects at ``positions``; NaN while nothing was seen."""
    size, with_student = pixels(run, positions), student(run, positions)
    same = 0
    for i in range(run.peak_count):
        if run.peak_student[i] == with_student:
            if run.peak_pixels[i] == size:
                return float(run.peak_used[i])
            same += 1
    if not run.peak_count:
        return math.nan
    others = same == 0
    count, mean_x, mean_y, first = 0, 0.0, 0.0, -1
    for i in range(run.peak_count):
        if others or run.peak_student[i] == with_student:
            count += 1
            mean_x += run.peak_pixels[i]
            mean_y += run.peak_used[i]
            first = i if first < 0 else first
    factor = STAGE_FACTOR if others and with_student else 1.0
    if count == 1:
        ratio = size / run.peak_pixels[first]
        used = run.peak_used[first]
        return float((used * max(1.0, ratio) if ratio > 1.0 else used * (0.5 + 0.5 * ratio)) * factor)
    mean_x, mean_y = mean_x / count, mean_y / count
    spread = shared = 0.0
    for i in range(run.peak_count):
        if others or run.peak_student[i] == with_student:
            spread += (run.peak_pixels[i] - mean_x) ** 2
            shared += (run.peak_pixels[i] - mean_x) * (run.peak_used[i] - mean_y)
    slope = max(0.0, shared / spread)
    return float(max(0.0, mean_y + slope * (size - mean_x)) * LINE_MARGIN * factor)


@compiled
def take_evaluation(run: Any, time: float, loss: float, quality: float, seconds: float, stage: int, gap: float) -> None:
    """Take one measurement on fixed data."""
    run.evaluation_interval = run.interval_count
    if seconds > 0:
        run.evaluation_seconds += seconds
    if loss > 0:
        if run.held_out_count == 0:
            run.first_held_out = loss
        run.best_held_out = min(run.best_held_out, loss)
        run.held_out[0], run.held_out_time[0] = run.held_out[1], run.held_out_time[1]
        run.held_out[1], run.held_out_time[1] = loss, time
        run.held_out_count += 1
        if gap > 0:
            run.gap[run.gap_count_seen], run.gap_stage[run.gap_count_seen] = gap, stage
            run.gap_number[run.gap_count_seen] = run.held_out_count
            run.gap_count_seen += 1
    if quality > 0:
        if run.quality_count == 0:
            run.first_quality = quality
        run.qualities[0], run.qualities[1] = run.qualities[1], quality
        run.quality_count += 1


@compiled
def acknowledge(run: Any, before: Any, time: float) -> None:
    """The positions in force are no longer those ``before``."""
    for knob in range(KNOB_COUNT):
        old, new = before[knob], run.positions[knob]
        if old == new:
            continue
        run.changed[knob], run.direction[knob] = run.interval_count, 1 if new > old else -1
        run.changed_at = time
        if knob in (RESOLUTION, DISTILL, DENSITY):
            run.loss_comparable_from = run.interval_count + 1
        if new < old and knob in (RESOLUTION, MICRO_BATCH, CACHE_LIMIT, DISTILL):
            run.window_out_of_memory = False
    resolution, micro_batch = run.positions[RESOLUTION], run.positions[MICRO_BATCH]
    if not run.seen_shapes[resolution, micro_batch]:
        run.seen_shapes[resolution, micro_batch] = True
        run.seen_shape_count += 1


@compiled
def take_machine(run: Any, time: float, available: float, pressure: int, swap: float, level: int) -> None:
    """Take what the sensors said; ``level`` -1 is a machine without a sensor of heat."""
    if run.has_machine:
        run.swap_grew = swap > run.machine_swap
    run.has_machine = True
    run.machine_time, run.machine_available, run.machine_pressure = time, available, pressure
    run.machine_swap, run.machine_level = swap, level


@compiled
def close(run: Any, now: float) -> None:
    """End the current interval; a second call at the same time does nothing."""
    if now <= run.closed_at:
        return
    seconds = now - run.closed_at if run.closed_at > -math.inf else run.interval_seconds
    i = run.interval_count % HISTORY
    before = run.past_images[(run.interval_count - 1) % HISTORY] if run.interval_count else 0.0
    mean = deviation = math.nan
    if run.loss_count:
        mean = 0.0
        for j in range(run.loss_count):
            mean += run.losses[j]
        mean /= run.loss_count
        deviation = 0.0
        for j in range(run.loss_count):
            deviation += (run.losses[j] - mean) ** 2
        deviation = math.sqrt(deviation / run.loss_count)
    step_seconds = _median(run.step_seconds, run.step_count)
    images = run.sample_images if run.has_sample else 0.0
    step = run.sample_step if run.has_sample else 0.0
    taken = step - run.step_before
    run.step_before = step
    per_step = max(0.0, images - before) / taken if taken > 0 else 0.0
    rate = per_step / step_seconds if step_seconds > 0 else 0.0
    limit = limit_bytes(run)
    run.past_log_loss[i], run.past_deviation[i], run.past_rate[i] = mean, deviation, rate
    run.past_used[i], run.past_not_finite[i], run.past_images[i] = run.interval_used, run.not_finite, images
    run.past_level[i] = run.machine_level if now - run.machine_time < 3 * max(seconds, 5.0) else -1
    run.past_share[i] = run.interval_used / limit if run.interval_used and limit > 0 else math.nan
    run.interval_count += 1
    run.closed_at = now
    if rate > 0:
        resolution, micro_batch, stage = rate_key(run)
        run.best_rates[resolution, micro_batch, stage] = max(run.best_rates[resolution, micro_batch, stage], rate)
        run.best_rate = max(run.best_rate, rate)
    run.loss_count = run.step_count = run.not_finite = 0
    run.interval_used = 0.0


@compiled
def _median(values: Any, count: int) -> float:
    if not count:
        return math.nan
    for i in range(1, count):
        value, j = values[i], i
        while j > 0 and values[j - 1] > value:
            values[j] = values[j - 1]
            j -= 1
        values[j] = value
    half = count // 2
    return float(values[half]) if count % 2 else float((values[half - 1] + values[half]) / 2)


@compiled
def rate_key(run: Any) -> tuple[int, int, int]:
    """Positions across which images a second may be compared."""
    return run.positions[RESOLUTION], run.positions[MICRO_BATCH], run.positions[DISTILL]


@compiled
def budget_used(run: Any, now: float) -> float:
    """Share of the budget that is spent."""
    share = (now - run.first_time) / run.budget_seconds if run.has_sample else 0.0
    return max(0.0, min(1.0, share))
