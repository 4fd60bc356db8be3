"""The heat model of ``autotuner.telemetry.heat`` on a run's record."""

from __future__ import annotations

import math
from typing import Any

from autotuner.telemetry.heat import (
    CYCLE_RAMP,
    FAN_LAG_SECONDS,
    FAN_RANGE_KELVIN,
    FAN_STARTS_CELSIUS,
    GOVERNOR_GAIN,
    LEVEL_FALLS_AFTER_SECONDS,
    LOWEST_RATIO,
    POWER_EXPONENT,
    SKIN_HYSTERESIS_KELVIN,
)
from autotuner_envs.batch.compiled import compiled


@compiled
def ratio_at(profile: Any, watts: float, duty: float) -> float:
    """The clock ratio at which this load draws ``watts``."""
    busy = (profile.max_watts - profile.idle_watts) * duty
    return 1.0 if busy <= 0 else min(1.0, ((watts - profile.idle_watts) / busy) ** (1.0 / POWER_EXPONENT))


@compiled
def limited(run: Any, duty: float, seconds: float) -> float:
    """The clock ratio that governor and caps leave."""
    profile = run.profile
    ratio = min(run.governed, 1.0)
    if profile.skin_cap_watts < math.inf:
        margin = SKIN_HYSTERESIS_KELVIN if run.skin_capped else 0.0
        run.skin_capped = run.case_celsius >= profile.skin_limit_celsius - margin
        if run.skin_capped:
            ratio = min(ratio, ratio_at(profile, profile.skin_cap_watts, duty))
    if profile.sustained_watts < math.inf:
        run.burst_used = max(0.0, run.burst_used + (seconds if duty > 0.1 else -seconds))
        if run.burst_used > profile.burst_seconds:
            run.burst_used = min(run.burst_used, 10.0 * profile.burst_seconds)
            ratio = min(ratio, ratio_at(profile, profile.sustained_watts, duty))
    return max(ratio, 0.01)


@compiled
def govern(run: Any, die: float, seconds: float) -> None:
    """The governor's answer to the die's temperature."""
    profile = run.profile
    excess = die - profile.limit_celsius
    if math.isnan(profile.resume_celsius):
        gain = GOVERNOR_GAIN if excess > 0 else GOVERNOR_GAIN / 2
        run.governed = min(1.0, max(LOWEST_RATIO, run.governed - gain * excess * seconds))
        return
    run.dropped = die > profile.resume_celsius if run.dropped else excess >= 0
    run.governed = LOWEST_RATIO if run.dropped else min(1.0, run.governed + CYCLE_RAMP * seconds)


@compiled
def relevel(run: Any, die: float, seconds: float) -> None:
    """Heat raises the level at once and lowers it after a while."""
    margin = run.profile.limit_celsius - die
    level = 2 if margin <= 1.0 or run.governed < 0.9 or run.skin_capped else 1 if margin <= 12.0 else 0
    run.calm_seconds = run.calm_seconds + seconds if level < run.thermal_level else 0.0
    if level > run.thermal_level or run.calm_seconds >= LEVEL_FALLS_AFTER_SECONDS:
        run.thermal_level = level
        run.calm_seconds = 0.0


@compiled
def warm(run: Any, duty: float, seconds: float) -> None:
    """Let ``seconds`` pass with the processors busy for the share ``duty``; nothing on a machine without heat."""
    if not run.has_heat:
        return
    profile = run.profile
    duty = min(1.0, max(0.0, duty))
    remaining = max(0.0, seconds) * run.time_scale
    count = max(1, math.ceil(remaining / run.longest_substep))
    substep = remaining / count
    decay = math.exp(-substep / (profile.die_kelvin_per_watt * profile.die_joules_per_kelvin))
    for _ in range(count):
        ratio = limited(run, duty, substep)
        watts = profile.idle_watts + (profile.max_watts - profile.idle_watts) * duty * ratio**POWER_EXPONENT
        settled = run.case_celsius + watts * profile.die_kelvin_per_watt
        die = settled + (run.die_celsius - settled) * decay
        inflow = ((die + run.die_celsius) / 2 - run.case_celsius) / profile.die_kelvin_per_watt
        case_kelvin_per_watt = profile.case_kelvin_per_watt / (1.0 + profile.fan_gain * run.fan_ratio)
        outflow = (run.case_celsius - run.ambient_celsius) / case_kelvin_per_watt
        run.case_celsius += substep * (inflow - outflow) / profile.case_joules_per_kelvin
        demand = min(1.0, max(0.0, (die - FAN_STARTS_CELSIUS) / FAN_RANGE_KELVIN))
        run.fan_ratio += (demand - run.fan_ratio) * min(1.0, substep / FAN_LAG_SECONDS)
        run.die_celsius, run.frequency_ratio = die, ratio
        govern(run, die, substep)
        relevel(run, die, substep)
