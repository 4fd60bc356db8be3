"""One run as a record of numbers: what its scenario says, what the simulator hides, what the daemon's window knows."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotuner.controller.actions import ACTION_COUNT, ACTIONS
from autotuner.controller.window import HISTORY
from autotuner.knobs import KNOB_NAMES, KNOBS
from autotuner.telemetry.heat import AMBIENT_CELSIUS, PROFILES, HeatModel, HeatProfile
from autotuner_envs.curves import Curve, Distillation
from autotuner_envs.machine import MOST_EVALUATIONS, EvaluationCost, MemoryCost, StepCost
from autotuner_envs.scenario import Scenario

KNOB_COUNT = len(KNOBS)
RESOLUTION, MICRO_BATCH, SAMPLING_STEPS, DISTILL, PACE, CACHE_LIMIT, LR_SCALE, DENSITY = (
    KNOB_NAMES.index(name)
    for name in (
        "resolution", "micro_batch", "sampling_steps", "distill", "pace", "cache_limit", "lr_scale", "timestep_density",
    )
)  # fmt: skip
LADDER = 8
"""Longest ladder that the simulated scripts offer."""
STAGES = 4
SPANS = 4
"""Most limits, gaps or bursts of one scenario, and entries of a table of stages or densities."""
SHAPES = 2 * LADDER * LADDER
MEASUREMENTS = MOST_EVALUATIONS + 3
CHANGES = 512
ACTION_KNOB = np.array([KNOB_NAMES.index(action.knob) if action.step else 0 for action in ACTIONS])
ACTION_STEP = np.array([action.step for action in ACTIONS])
DWELL = np.array([knob.dwell_intervals for knob in KNOBS])


def _numbers(kind: type) -> list[tuple[Any, ...]]:
    """The fields of a table of numbers; a tuple of numbers becomes SPANS of them."""
    return [
        (field.name, "f8", (SPANS,)) if isinstance(field.default, tuple) else (field.name, "f8")
        for field in fields(kind)
        if field.name not in ("name", "sentence")
    ]


_SPAN = [("start", "f8"), ("end", "f8"), ("share", "f8")]
_SCENARIO = [
    ("seed", "u8"), ("budget_seconds", "f8"), ("interval_seconds", "f8"), ("image_scale", "f8"), ("batch", "f8"),
    ("full_resolution", "f8"), ("step_noise", "f8"), ("leak_bytes_per_second", "f8"),
    ("density_efficiency", "f8", (SPANS,)), ("stages", "i8"), ("target", "f8"), ("max_shapes", "i8"),
    ("target_declared", "?"), ("evaluations", "i8"), ("tells_heat", "?"),
    ("values", "f8", (KNOB_COUNT, LADDER)), ("count", "i8", (KNOB_COUNT,)), ("start", "i8", (KNOB_COUNT,)),
    ("fixed", "f8", (KNOB_COUNT,)),
    ("step_cost", _numbers(StepCost)), ("memory_cost", _numbers(MemoryCost)), ("evaluation_cost", _numbers(EvaluationCost)),
    ("curve", _numbers(Curve)), ("distillation", _numbers(Distillation)),
    ("limits", _SPAN, (SPANS,)), ("limit_count", "i8"), ("gaps", _SPAN, (SPANS,)), ("gap_count", "i8"),
    ("bursts", _SPAN, (SPANS,)), ("burst_count", "i8"),
    ("has_heat", "?"), ("profile", _numbers(HeatProfile)), ("ambient_celsius", "f8"), ("time_scale", "f8"),
    ("longest_substep", "f8"),
]  # fmt: skip
_SIMULATOR = [
    ("positions", "i8", (KNOB_COUNT,)), ("time", "f8"), ("step", "f8"), ("images", "f8"), ("coarse_seen", "f8"),
    ("fine_seen", "f8"), ("transient", "f8"), ("student_ratio", "f8"), ("student_of", "f8"), ("stage_entered", "f8"),
    ("student_base", "f8"), ("teacher_rate", "f8"), ("owed_seconds", "f8"), ("cached_bytes", "f8"), ("leaked_bytes", "f8"),
    ("used_bytes", "f8"), ("peak_bytes", "f8"), ("shapes", "u1", (LADDER, LADDER, 2)), ("shape_count", "i8"),
    ("next_evaluation", "f8"), ("evaluations_made", "i8"), ("thermal_level", "i8"), ("memory_pressure", "i8"),
    ("frequency_ratio", "f8"), ("slices", "i8"), ("killed", "?"), ("out_of_memory", "i8"), ("progress", "f8"),
    ("reached_at", "f8"), ("quality", "f8"), ("die_celsius", "f8"), ("case_celsius", "f8"), ("fan_ratio", "f8"),
    ("governed", "f8"), ("dropped", "?"), ("skin_capped", "?"), ("burst_used", "f8"), ("calm_seconds", "f8"),
]  # fmt: skip
_WINDOW = [
    ("asked", "i8", (KNOB_COUNT,)), ("candidate", "i8", (KNOB_COUNT,)), ("decided_at", "f8"),
    ("interval_count", "i8"), ("closed_at", "f8"), ("changed", "i8", (KNOB_COUNT,)), ("direction", "i8", (KNOB_COUNT,)),
    ("changed_at", "f8"), ("loss_comparable_from", "i8"), ("has_sample", "?"), ("first_time", "f8"), ("sample_time", "f8"),
    ("sample_images", "f8"), ("sample_step", "f8"), ("sample_step_seconds", "f8"), ("sample_active", "f8"),
    ("largest_cache", "f8"), ("seen_shapes", "u1", (LADDER, LADDER)),
    ("seen_shape_count", "i8"), ("best_rates", "f8", (LADDER, LADDER, STAGES)), ("best_rate", "f8"),
    ("first_held_out", "f8"), ("best_held_out", "f8"), ("held_out", "f8", (2,)), ("held_out_time", "f8", (2,)),
    ("held_out_count", "i8"), ("gap", "f8", (MEASUREMENTS,)), ("gap_stage", "i8", (MEASUREMENTS,)),
    ("gap_number", "i8", (MEASUREMENTS,)), ("gap_count_seen", "i8"),
    ("first_quality", "f8"), ("qualities", "f8", (2,)), ("quality_count", "i8"), ("evaluation_seconds", "f8"),
    ("evaluation_interval", "i8"), ("has_machine", "?"), ("machine_time", "f8"), ("machine_available", "f8"),
    ("machine_pressure", "i8"), ("machine_swap", "f8"), ("machine_level", "i8"), ("swap_grew", "?"),
    ("peak_pixels", "f8", (SHAPES,)), ("peak_student", "u1", (SHAPES,)), ("peak_used", "f8", (SHAPES,)), ("peak_count", "i8"),
    ("window_out_of_memory", "?"), ("used", "f8"), ("interval_used", "f8"), ("step_before", "f8"),
    ("not_finite", "i8"), ("losses", "f8", (8,)), ("loss_count", "i8"), ("step_seconds", "f8", (8,)), ("step_count", "i8"),
    ("past_log_loss", "f8", (HISTORY,)), ("past_deviation", "f8", (HISTORY,)), ("past_rate", "f8", (HISTORY,)),
    ("past_used", "f8", (HISTORY,)), ("past_not_finite", "i8", (HISTORY,)), ("past_level", "i8", (HISTORY,)),
    ("past_share", "f8", (HISTORY,)), ("past_images", "f8", (HISTORY,)),
    ("change_times", "f8", (CHANGES,)), ("change_first", "i8"), ("change_end", "i8"),
]  # fmt: skip
RUN = np.dtype([*_SCENARIO, *_SIMULATOR, *_WINDOW], align=True)
"""One run; numba reads its fields by name, as Python reads attributes."""

NEVER = -1_000_000
"""Interval of a change that never was: as long ago as ``RunWindow.since_change`` says."""
Runs = NDArray[np.void]


def encode(scenario: Scenario, run: np.void) -> None:
    """Write ``scenario`` into ``run`` (a record of zeros, of dtype RUN); ``simulator.begin`` makes it a run.

    Raises ValueError for a scenario that the layout has no room for.
    """
    declaration = scenario.declaration
    other = declaration.target != (scenario.target if scenario.target_declared else None)
    if declaration.max_pixels is not None or declaration.budget_steps is not None or other:
        raise ValueError(
            f"{scenario.family} {scenario.seed}: max_pixels, budget_steps or another target: not in the compiled form"
        )
    for name in (
        "seed", "budget_seconds", "image_scale", "batch", "full_resolution", "step_noise", "leak_bytes_per_second",
        "stages", "target", "target_declared", "evaluations", "tells_heat", "interval_seconds",
    ):  # fmt: skip
        run[name] = getattr(scenario, name)
    run["max_shapes"] = declaration.max_shapes
    for i, name in enumerate(KNOB_NAMES):
        run["fixed"][i] = scenario.fixed.get(name, math.nan)
    for knob in declaration.knobs:
        if len(knob.values) > LADDER or knob.effect != "live":
            raise ValueError(f"knob {knob.name!r}: {len(knob.values)} values, effect {knob.effect!r}; allowed: {LADDER}, live")
        i = KNOB_NAMES.index(knob.name)
        run["count"][i], run["start"][i] = len(knob.values), knob.start
        run["values"][i, : len(knob.values)] = knob.values
    run["density_efficiency"] = _padded(scenario.density_efficiency)
    for name, table in (
        ("step_cost", scenario.step), ("memory_cost", scenario.memory), ("evaluation_cost", scenario.evaluation),
        ("curve", scenario.curve), ("distillation", scenario.distillation),
    ):  # fmt: skip
        _copy(table, run[name])
    _spans(run, "limits", "limit_count", [(limit.start, math.inf, limit.limit_bytes) for limit in scenario.limits])
    _spans(run, "gaps", "gap_count", [(span.start, span.end, span.share) for span in scenario.gaps])
    _spans(run, "bursts", "burst_count", [(span.start, span.end, span.share) for span in scenario.bursts])
    _heat(scenario, run)


def _heat(scenario: Scenario, run: np.void) -> None:
    setting = scenario.heat
    run["has_heat"] = setting is not None
    profile = PROFILES[setting.profile] if setting else next(iter(PROFILES.values()))
    model = HeatModel(profile, setting.ambient_celsius if setting else AMBIENT_CELSIUS, setting.time_scale if setting else 1.0)
    _copy(profile, run["profile"])
    run["ambient_celsius"], run["time_scale"] = model.ambient_celsius, model.time_scale
    run["die_celsius"], run["case_celsius"] = model.state.die_celsius, model.state.case_celsius
    run["longest_substep"] = model.longest_substep


def _copy(table: Any, record: np.void) -> None:
    for name in record.dtype.names or ():
        value = getattr(table, name)
        record[name] = _padded(value) if isinstance(value, tuple) else math.nan if value is None else value


def _padded(values: tuple[float, ...]) -> NDArray[np.float64]:
    """``values``, the last repeated up to SPANS."""
    if len(values) > SPANS:
        raise ValueError(f"{len(values)} entries {values}; allowed are {SPANS}")
    return np.array([*values, *[values[-1]] * (SPANS - len(values))])


def _spans(run: np.void, name: str, count: str, spans: list[tuple[float, float, float]]) -> None:
    if len(spans) > SPANS:
        raise ValueError(f"{len(spans)} {name} in a scenario; allowed are {SPANS}")
    run[count] = len(spans)
    for i, span in enumerate(spans):
        run[name][i] = span


__all__ = ["ACTION_COUNT", "RUN", "Runs", "encode"]
