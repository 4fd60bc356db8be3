"""``autotuner_envs.simulator`` on a run's record."""

from __future__ import annotations

import math
from typing import Any

from autotuner.diffusion import plan
from autotuner.telemetry.scripted import GPU_BOUND, SWAP_MAX, SWAP_SLOPE
from autotuner_envs import machine, simulator
from autotuner_envs.batch.compiled import compiled
from autotuner_envs.batch.draws import normal, uniform
from autotuner_envs.batch.heat import warm
from autotuner_envs.batch.layout import (
    CACHE_LIMIT,
    DENSITY,
    DISTILL,
    LR_SCALE,
    MICRO_BATCH,
    PACE,
    RESOLUTION,
    SAMPLING_STEPS,
    SPANS,
)
from autotuner_envs.batch.window import acknowledge, begin_window, take_evaluation, take_machine, take_sample
from autotuner_envs.curves import WARM_UP, Curve, Distillation
from autotuner_envs.draws import EVALUATION, FINITE, KILL, LOSS, QUALITY, STEP
from autotuner_envs.machine import MemoryCost, StepCost

step_cost_seconds = compiled(StepCost.seconds)
activations = compiled(MemoryCost.activations)
resident_bytes = compiled(MemoryCost.resident)
curve_held_out_loss = compiled(Curve.held_out_loss)
curve_weights = compiled(Curve.weights)
curve_efficiency = compiled(Curve.efficiency)
curve_moved = compiled(Curve.moved)
undistilled = compiled(Distillation.undistilled)
distillation_gap = compiled(Distillation.gap)
teacher_rate = compiled(plan.teacher_rate)
student_rate = compiled(plan.student_rate)

START_TIME = simulator.START_TIME
WARN_SHARE, KILL_SHARE, KILL_HAZARD = simulator.WARN_SHARE, simulator.KILL_SHARE, simulator.KILL_HAZARD
LOSS_NOISE, EVALUATION_NOISE = simulator.LOSS_NOISE, simulator.EVALUATION_NOISE
QUALITY_NOISE = simulator.QUALITY_NOISE
QUALITY_EVERY = machine.QUALITY_EVERY
TEACHER_SHARE = plan.TEACHER_SHARE


@compiled
def begin(run: Any) -> None:
    """A run at its first step; the record holds a scenario and zeros."""
    run.positions[:] = run.start
    run.time = START_TIME
    run.student_ratio = run.student_of = run.student_base = run.reached_at = math.nan
    run.frequency_ratio = run.governed = 1.0
    run.next_evaluation = START_TIME + run.budget_seconds / run.evaluations / 4
    begin_window(run)


@compiled
def value(run: Any, knob: int) -> float:
    """The value in force of ``knob``, or what an undeclared one stands at."""
    return float(run.values[knob, run.positions[knob]] if run.count[knob] else run.fixed[knob])


@compiled
def elapsed(run: Any) -> float:
    """Seconds since the run began."""
    return float(run.time - START_TIME)


@compiled
def ended(run: Any) -> bool:
    """Whether the budget is spent or the run was killed."""
    return bool(run.killed or elapsed(run) >= run.budget_seconds - 1e-6)


@compiled
def held_out_loss(run: Any) -> float:
    """What a noiseless evaluation at full resolution would show now."""
    return curve_held_out_loss(run.curve, run.coarse_seen, run.fine_seen, run.transient, run.teacher_rate)


@compiled
def quality(run: Any) -> float:
    """What a noiseless measurement at the target steps would show now."""
    if value(run, DISTILL) == 0:
        return undistilled(run.distillation, held_out_loss(run))
    return float(run.student_base * run.student_ratio)


@compiled
def limit_at(run: Any) -> float:
    """Bytes that the run may use now without swapping."""
    now, current = elapsed(run), run.limits[0].share
    for i in range(1, run.limit_count):
        if run.limits[i].start > now:
            break
        current = run.limits[i].share
    return float(current)


@compiled
def in_gap(run: Any) -> bool:
    """Whether telemetry is silent now."""
    now = elapsed(run)
    for i in range(run.gap_count):  # noqa: SIM110 - numba has no any() of a generator
        if run.gaps[i].start <= now < run.gaps[i].end:
            return True
    return False


@compiled
def ratio_now(run: Any) -> float:
    """Resolution of full resolution."""
    return value(run, RESOLUTION) / float(run.full_resolution)


@compiled
def advance(run: Any, seconds: float) -> tuple[float, float, float, int]:
    """Let ``seconds`` pass with the knobs at ``run.asked``: seconds passed, under pressure, of heat; slices out of memory."""
    _apply(run)
    seconds = min(seconds, run.budget_seconds - elapsed(run))
    before = run.out_of_memory
    _slice(run, seconds)
    run.slices += 1
    if not in_gap(run):
        limit = limit_at(run)
        available, swap = math.floor(max(0.0, limit - run.used_bytes)), math.floor(max(0.0, run.used_bytes - limit))
        take_machine(run, run.time, available, run.memory_pressure, swap, run.thermal_level if run.tells_heat else -1)
    pressure = seconds if run.memory_pressure >= 2 else 0.0
    heat = seconds if run.thermal_level >= 2 else 0.0
    return seconds, pressure, heat, run.out_of_memory - before


@compiled
def _apply(run: Any) -> None:
    same = True
    for knob in range(len(run.asked)):
        same = same and run.asked[knob] == run.positions[knob]
    if same:
        return
    was, resolution, micro_batch = value(run, DISTILL), value(run, RESOLUTION), value(run, MICRO_BATCH)
    before = run.positions.copy()
    run.positions[:] = run.asked
    if value(run, DISTILL) > 0 and was == 0 and run.student_of != run.fine_seen:
        run.student_of = run.fine_seen
        run.student_ratio = run.distillation.start_ratio
        run.student_base = undistilled(run.distillation, held_out_loss(run))
    if value(run, DISTILL) != was:
        run.stage_entered = elapsed(run)
    if value(run, RESOLUTION) != resolution or value(run, MICRO_BATCH) != micro_batch:
        run.cached_bytes = 0.0
    acknowledge(run, before, run.time)


@compiled
def _slice(run: Any, seconds: float) -> None:
    stage = int(value(run, DISTILL))
    first = _meet_shape(run, stage)
    transient = activations(run.memory_cost, value(run, MICRO_BATCH), ratio_now(run), stage)
    _use_memory(run, stage, seconds, transient)
    pace = value(run, PACE)
    factor = _slowdown(run)
    noise = math.exp(run.step_noise * normal(run.seed, run.slices, STEP))
    cool = step_cost_seconds(run.step_cost, run.batch, value(run, MICRO_BATCH), ratio_now(run), stage)
    wanted = run.memory_cost.cached_share * transient
    penalty = 1.0 + 0.1 * max(0.0, 1.0 - value(run, CACHE_LIMIT) / max(wanted, 1.0))
    step_seconds = cool * penalty * factor * noise / pace
    paid = min(seconds, run.owed_seconds)
    run.owed_seconds -= paid
    steps = (seconds - paid) / step_seconds
    lost = _not_finite_share(run)
    _learn(run, steps * (1.0 - lost), stage)
    run.step += steps
    run.images += steps * run.batch
    run.time += seconds
    warm(run, pace, seconds)
    silent = in_gap(run)
    if not silent:
        _report(run, stage, step_seconds, first, lost, transient)
    if run.time >= run.next_evaluation:
        _evaluate(run, stage, factor, silent)


@compiled
def _meet_shape(run: Any, stage: int) -> bool:
    resolution, micro_batch, with_student = run.positions[RESOLUTION], run.positions[MICRO_BATCH], 1 if stage > 0 else 0
    if run.shapes[resolution, micro_batch, with_student]:
        return False
    run.shapes[resolution, micro_batch, with_student] = True
    run.shape_count += 1
    run.owed_seconds += run.step_cost.compile_seconds
    return True


@compiled
def _use_memory(run: Any, stage: int, seconds: float, transient: float) -> None:
    cost = run.memory_cost
    run.leaked_bytes += run.leak_bytes_per_second * seconds
    resident = resident_bytes(cost, stage, run.shape_count) + run.leaked_bytes
    run.cached_bytes = min(max(run.cached_bytes, cost.cached_share * transient), value(run, CACHE_LIMIT))
    run.peak_bytes = resident + transient
    run.used_bytes = max(run.peak_bytes, resident + run.cached_bytes)
    limit = limit_at(run)
    run.memory_pressure = 2 if run.used_bytes > limit else 1 if run.used_bytes > WARN_SHARE * limit else 0
    if run.peak_bytes > KILL_SHARE * limit:
        run.out_of_memory += 1
        run.killed = run.killed or uniform(run.seed, run.slices, KILL) < KILL_HAZARD


@compiled
def _slowdown(run: Any) -> float:
    factor = 1.0 - GPU_BOUND + GPU_BOUND / run.frequency_ratio
    limit = math.floor(limit_at(run))
    if run.used_bytes > limit:
        factor *= min(SWAP_MAX, 1.0 + SWAP_SLOPE * (run.used_bytes / limit - 1.0))
    return float(factor)


@compiled
def _not_finite_share(run: Any) -> float:
    now, share = elapsed(run), 0.0
    for i in range(run.burst_count):
        if run.bursts[i].start <= now < run.bursts[i].end:
            share += run.bursts[i].share
    return min(0.9, share * value(run, LR_SCALE))


@compiled
def _learn(run: Any, steps: float, stage: int) -> None:
    images = steps * run.batch / run.image_scale
    ratio = ratio_now(run)
    coarse, fine = curve_weights(run.curve, ratio)
    if stage:
        planned = (1 - TEACHER_SHARE) / max(run.stages, 1)
        rate = student_rate((elapsed(run) - run.stage_entered) / run.budget_seconds / planned)
        useful = images * fine * rate**run.curve.rate_exponent
        floor = run.distillation.floors[min(stage, SPANS) - 1]
        run.student_ratio = floor + (run.student_ratio - floor) * math.exp(-useful / run.distillation.images)
        return
    rate = teacher_rate(elapsed(run) / run.budget_seconds, run.stages, WARM_UP)
    useful = images * rate**run.curve.rate_exponent * _efficiency(run)
    run.teacher_rate = rate
    run.coarse_seen += useful * coarse
    run.fine_seen += useful * fine
    run.transient = curve_moved(run.curve, run.transient, ratio, images)


@compiled
def _efficiency(run: Any) -> float:
    octaves = math.log2(value(run, LR_SCALE))
    return float(run.density_efficiency[int(value(run, DENSITY))] * curve_efficiency(run.curve, octaves))


@compiled
def _report(run: Any, stage: int, step_seconds: float, first: bool, lost: float, transient: float) -> None:
    finite = uniform(run.seed, run.slices, FINITE) >= lost
    loss = math.nan
    if finite:
        noise = math.exp(LOSS_NOISE * normal(run.seed, run.slices, LOSS))
        if stage:
            loss = 0.1 * run.student_ratio * noise
        else:
            loss = (held_out_loss(run) - run.transient) * ratio_now(run) ** 0.3 * noise
    bad = run.peak_bytes > KILL_SHARE * limit_at(run)
    resident, cached = math.floor(run.peak_bytes - transient), math.floor(run.cached_bytes)
    take_sample(run, run.time, loss, step_seconds, resident, cached, math.floor(run.peak_bytes), first, bad)


@compiled
def _evaluate(run: Any, stage: int, factor: float, silent: bool) -> None:
    cost = run.evaluation_cost
    run.evaluations_made += 1
    run.next_evaluation += run.budget_seconds / run.evaluations
    with_quality = run.evaluations_made % QUALITY_EVERY == 0
    seconds = cost.held_out_seconds + cost.preview_step_seconds * value(run, SAMPLING_STEPS)
    if with_quality:
        seconds += cost.quality_seconds
    run.owed_seconds += seconds * factor
    loss = held_out_loss(run) * math.exp(EVALUATION_NOISE * normal(run.seed, run.slices, EVALUATION))
    measured = gap = math.nan
    if with_quality:
        measured = quality(run) * math.exp(QUALITY_NOISE * normal(run.seed, run.slices, QUALITY))
        if stage:
            gap = distillation_gap(run.distillation, measured / run.student_base)
    if not silent:
        take_evaluation(run, run.time, loss, measured, seconds * factor, stage, gap)
