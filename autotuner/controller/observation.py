"""What a policy sees: a fixed, versioned vector with history, scaled by documented constants; missing stays missing.

Every feature is in [-1, 1] (or [0, 1.5] for memory ratios). Where something is unknown its value is 0 and the feature
``*_known`` beside it is 0, so that a policy can tell "cool" from "no thermal sensor". Times are counted in decision
intervals, so the same policy serves a run of minutes and one of a night.
"""

from __future__ import annotations

import math

from autotuner.controller.window import Interval, RunWindow
from autotuner.knobs import KNOB_NAMES

OBSERVATION_VERSION = 3
"""Changes whenever a feature's meaning, order or scale changes; artefacts of another version are refused."""

PER_KNOB = ("declared", "position", "room_down", "room_up", "since_change", "value")
FEATURES: tuple[str, ...] = (
    "budget_known",
    "budget_used",
    "intervals_seen",
    *(f"{name}.{part}" for name in KNOB_NAMES for part in PER_KNOB),
    "loss_known",
    "loss_slope",
    "loss_noise",
    "held_out_known",
    "held_out_level",
    "held_out_gap",
    "held_out_slope",
    "held_out_age",
    "evaluation_share",
    "target_known",
    "target_gap",
    "rate_known",
    "rate_against_best",
    "rate_against_shape",
    "memory_known",
    "memory_used",
    "memory_micro_batch_up",
    "memory_resolution_up",
    "memory_trend",
    "pressure_known",
    "pressure",
    "swap_grew",
    "heat_known",
    "heat",
    "heat_trend",
    "heat_share",
    "quality_known",
    "quality_level",
    "quality_slope",
    "gap_known",
    "gap",
    "gap_slope",
    "sample_age",
    "machine_age",
    "not_finite",
    "changes_recent",
)
SINCE_CHANGE_SCALE = 16.0
_RESOLUTION, _MICRO_BATCH, _CACHE_LIMIT, _SAMPLING_STEPS, _LR_SCALE, _PACE = (
    KNOB_NAMES.index(name) for name in ("resolution", "micro_batch", "cache_limit", "sampling_steps", "lr_scale", "pace")
)
RECENT = 8
"""Intervals that trends and shares look back over."""


def observe(window: RunWindow, now: float) -> tuple[float, ...]:
    """The observation of one run at ``now``: len(FEATURES) finite floats. Closes the window's interval."""
    window.close(now)
    features = [
        *_progress(window, now),
        *_knobs(window),
        *_loss(window),
        *_held_out(window, now),
        *_rate(window),
        *_memory(window),
        *_heat(window, now),
        *_quality(window),
        *_gap(window),
        *_health(window, now),
    ]
    return tuple(features)


def _clip(value: float, low: float = -1.0, high: float = 1.0) -> float:
    return low if value < low else high if value > high else value


def _progress(window: RunWindow, now: float) -> tuple[float, ...]:
    used = window.budget_used(now)
    return (0.0 if used is None else 1.0, used or 0.0, min(1.0, window.interval_count / 64))


def _knobs(window: RunWindow) -> list[float]:
    features: list[float] = []
    for name, i in zip(KNOB_NAMES, window.table_index, strict=True):
        if i < 0 or not window.declaration.knobs[i].tunable:
            features += (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
            continue
        values = window.declaration.knobs[i].values
        top = len(values) - 1
        position = window.positions[i]
        since = min(1.0, window.since_change(name) / SINCE_CHANGE_SCALE)
        value = scaled_value(KNOB_NAMES.index(name), values[position], values[-1])
        features += (1.0, position / top, 1.0 if position > 0 else 0.0, 1.0 if position < top else 0.0, since, value)
    return features


def scaled_value(knob: int, value: float, largest: float) -> float:
    """What a knob stands at, in [-1, 1], comparable across ladders: ``knob`` is its row in KNOBS, ``largest`` the ladder's top.

    Resolution, micro-batch and cache limit: octaves below the top over 4. Sampling steps: octaves over 6. Learning-rate scale:
    octaves from the script's own rate over 2. Stage and density: a quarter. Pace: as it is.
    """
    if knob in (_RESOLUTION, _MICRO_BATCH, _CACHE_LIMIT):
        return max(-1.0, math.log2(value / largest) / 4.0) if value > 0 else -1.0
    if knob == _SAMPLING_STEPS:
        return min(1.0, math.log2(value) / 6.0)
    if knob == _LR_SCALE:
        return math.log2(value) / 2.0
    return value if knob == _PACE else min(1.0, value / 4.0)


def _slope(points: list[tuple[float, float]]) -> float:
    """Least-squares slope; 0 for fewer than two distinct abscissae."""
    n = len(points)
    if n < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / n
    mean_y = sum(y for _, y in points) / n
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def _loss(window: RunWindow) -> tuple[float, ...]:
    """Training loss against its own history since it last changed its meaning (resolution, stage, density)."""
    first = window.interval_count - len(window.intervals)
    comparable = [
        (float(number), interval.log_loss)
        for number, interval in enumerate(window.intervals, start=first)
        if number >= window.loss_comparable_from and math.isfinite(interval.log_loss)
    ][-RECENT:]
    if not comparable:
        return 0.0, 0.0, 0.0
    noise = next((i.log_loss_deviation for i in reversed(window.intervals) if math.isfinite(i.log_loss_deviation)), 0.0)
    return 1.0, _clip(_slope(comparable) * 10.0), _clip(noise)


def _held_out(window: RunWindow, now: float) -> tuple[float, ...]:
    evaluations = window.evaluations
    elapsed = now - window.first_time if window.first_time is not None else 0.0
    share = _clip(window.evaluation_seconds / elapsed * 4.0, 0.0) if elapsed > 0 else 0.0
    if not evaluations or window.first_evaluation is None:
        return 0.0, 0.0, 0.0, 0.0, 0.0, share, 0.0, 0.0
    last = evaluations[-1]
    level = math.log(last.held_out_loss / window.first_evaluation.held_out_loss) / 2.0
    gap = math.log(last.held_out_loss / window.best_held_out) * 2.0
    slope = 0.0
    if len(evaluations) > 1:
        before = evaluations[-2]
        intervals = max((last.time - before.time) / window.interval_seconds, 0.1)
        slope = math.log(last.held_out_loss / before.held_out_loss) / intervals * 20.0
    age = (window.interval_count - window.evaluation_interval) / RECENT
    target = window.declaration.target
    to_target = (1.0, _clip(math.log(last.held_out_loss / target) * 2.0)) if target and target > 0 else (0.0, 0.0)
    return 1.0, _clip(level), _clip(gap), _clip(slope), _clip(age), share, *to_target


def _rate(window: RunWindow) -> tuple[float, ...]:
    """Images a computing second, now against the best seen; throttling shows here before the system says so."""
    interval = _newest_with_rate(window)
    if interval is None or not window.best_rate:
        return 0.0, 0.0, 0.0
    pace = window.value("pace", 1.0)
    best_of_shape = window.best_rate.get(window.rate_key(), interval.images_per_second)
    best = max(window.best_rate.values())
    return (
        1.0,
        _clip(interval.images_per_second / best),
        _clip(interval.images_per_second / (pace * best_of_shape) if best_of_shape else 0.0, 0.0, 1.5),
    )


def _newest_with_rate(window: RunWindow) -> Interval | None:
    if window.intervals and window.intervals[-1].images_per_second > 0:
        return window.intervals[-1]
    if len(window.intervals) > 1 and window.intervals[-2].images_per_second > 0:
        return window.intervals[-2]
    return None


def moved(window: RunWindow, knob: str, step: int) -> tuple[int, ...] | None:
    """The positions with ``knob`` moved by ``step``; None when it is undeclared or leaves its ladder."""
    i = window.index.get(knob, -1)
    if i < 0 or not 0 <= window.positions[i] + step < len(window.declaration.knobs[i].values):
        return None
    return (*window.positions[:i], window.positions[i] + step, *window.positions[i + 1 :])


def predicted_bytes(window: RunWindow, positions: tuple[int, ...]) -> float | None:
    """What the run's own memory model expects at ``positions``, in bytes."""
    return window.memory.predict(window.pixels(positions), window.student(positions))


def _memory(window: RunWindow) -> tuple[float, ...]:
    limit = window.limit_bytes
    pressure = window.machine.memory_pressure
    pressure_features = (0.0 if pressure is None else 1.0, (pressure or 0) / 2.0, 1.0 if window.swap_grew else 0.0)
    if limit is None or limit <= 0:
        return 0.0, 0.0, 0.0, 0.0, 0.0, *pressure_features
    used = window.intervals[-1].used_bytes if window.intervals and window.intervals[-1].used_bytes else window.used
    ratios = [used / limit]
    for knob in ("micro_batch", "resolution"):
        positions = moved(window, knob, 1)
        predicted = predicted_bytes(window, positions) if positions else None
        ratios.append(predicted / limit if predicted is not None else 0.0)
    shares = [i.memory_share for i in window.intervals if math.isfinite(i.memory_share)][-RECENT:]
    trend = _clip((shares[-1] - shares[0]) * 2.0) if shares else 0.0
    return 1.0, *(_clip(ratio, 0.0, 1.5) for ratio in ratios), trend, *pressure_features


def _heat(window: RunWindow, now: float) -> tuple[float, ...]:
    level = window.machine.thermal_level
    if level is None:
        return 0.0, 0.0, 0.0, 0.0
    known = [i.thermal_level for i in window.intervals if i.thermal_level is not None][-RECENT:]
    trend = (known[-1] - known[0]) / 4.0 if known else 0.0
    share = sum(1 for k in known if k >= 2) / len(known) if known else 0.0
    return 1.0, level / 4.0, _clip(trend), share


def _quality(window: RunWindow) -> tuple[float, ...]:
    qualities = window.qualities
    if not qualities:
        return 0.0, 0.0, 0.0
    level = math.log(qualities[-1].quality / qualities[0].quality) / 2.0
    slope = math.log(qualities[-1].quality / qualities[-2].quality) if len(qualities) > 1 else 0.0
    return 1.0, _clip(level), _clip(slope)


def _gap(window: RunWindow) -> tuple[float, ...]:
    """What the gate of the present stage reads: 0 is as good as the teacher; gaps of another stage do not compare."""
    stage = int(window.value("distill", 0.0))
    gaps = [e.gap for e in window.evaluations if e.gap > 0 and math.isfinite(e.gap) and e.stage == stage][-2:] if stage else []
    if not gaps:
        return 0.0, 0.0, 0.0
    return 1.0, _clip(math.log(gaps[-1])), _clip(math.log(gaps[-1] / gaps[0]) * 2.0)


def _health(window: RunWindow, now: float) -> tuple[float, ...]:
    sample_age = (now - window.last_sample.time) / window.interval_seconds if window.last_sample else 0.0
    machine_age = (now - window.machine.time) / window.interval_seconds if math.isfinite(window.machine.time) else 8.0
    recent = [i.not_finite for i in window.intervals][-RECENT:]
    changes = sum(1 for number, _ in window.changed.values() if window.interval_count - number < RECENT)
    return _clip(sample_age / 4.0), _clip(machine_age / 8.0), 1.0 if any(recent) else 0.0, _clip(changes / 4.0)
