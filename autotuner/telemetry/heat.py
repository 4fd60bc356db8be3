"""Heat of a computer under load: two thermal nodes (die and case), a fan, and the governor that lowers the clock.

    C_d dT_d/dt = P - (T_d - T_c)/R_dc          C_c dT_c/dt = (T_d - T_c)/R_dc - (T_c - T_amb)/R_ca(fan)
    P = P_idle + (P_max - P_idle) u f^a         a step takes 0.1 + 0.9/f of its cool time

The parameters were fitted by hand to published stress tests; they are a model of such machines, not a measurement of one.
Standard library only, and cheap: the simulator steps it a hundred thousand times a second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from autotuner.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class HeatProfile:
    """One row of the table of machines."""

    name: str
    max_watts: float
    idle_watts: float
    die_kelvin_per_watt: float
    die_joules_per_kelvin: float
    case_kelvin_per_watt: float
    case_joules_per_kelvin: float
    fan_gain: float
    """How much more heat the case gives away with the fan at full speed; 0 is fanless."""
    limit_celsius: float
    sentence: str
    resume_celsius: float | None = None
    """Set: a governor that drops hard at the limit and holds until this; None: one that settles at the limit."""
    skin_limit_celsius: float = math.inf
    """Case temperature at which the machine caps itself to ``skin_cap_watts``."""
    skin_cap_watts: float = math.inf
    sustained_watts: float = math.inf
    """Electrical cap after ``burst_seconds`` of load: slows down without any heat to be seen."""
    burst_seconds: float = 0.0


_MBP13 = (2.4, 14.0, 1.6, 500.0, 2.0)
PROFILES: dict[str, HeatProfile] = {
    profile.name: profile
    for profile in (
        HeatProfile("air_fanless", 16, 2, 6.0, 10, 2.6, 550, 0, 100, "MacBook Air: throttles within a minute, keeps 0.77"),
        HeatProfile(
            "air_clamshell", 16, 2, 6.0, 10, 4.8, 300, 0, 100, "Air, lid closed: the case caps it to half after ten minutes",
            skin_limit_celsius=46, skin_cap_watts=5,
        ),
        HeatProfile("mbp13_fan", 35, 2, *_MBP13, 98, "MacBook Pro 13 with CPU and GPU loaded: one fan, settles below 30 W"),
        HeatProfile("mbp13_gpu", 14, 2, *_MBP13, 98, "MacBook Pro 13 with the GPU loaded alone: never throttles"),
        HeatProfile("limit_cycle", 35, 2, *_MBP13, 108, "the same at its worst: drops, cools, ramps again", resume_celsius=84),
        HeatProfile("mbp14_max", 72, 2, 1.35, 30, 1.2, 600, 2, 100, "MacBook Pro 14 Max, GPU loaded: from 72 to 44 W"),
        HeatProfile(
            "mbp14_capped", 96, 2, 1.0, 30, 1.0, 600, 3, 100, "MacBook Pro 14 Max, CPU and GPU: capped to 42 W while nominal",
            sustained_watts=42, burst_seconds=2,
        ),
        HeatProfile("mbp16_max", 70, 2, 0.85, 35, 0.7, 900, 3, 100, "MacBook Pro 16 Max: 70 W sustained, just"),
        HeatProfile("mini_m4pro", 24, 2, 1.6, 20, 1.2, 450, 3, 100, "Mac mini: warm, never throttles"),
        HeatProfile("studio_ultra", 120, 10, 0.30, 120, 0.35, 1200, 3, 100, "Mac Studio: never throttles"),
    )
}  # fmt: skip

AMBIENT_CELSIUS = 24.0
GPU_BOUND_SHARE = 0.9
"""Share of a training step that scales with the clock (assumed)."""

POWER_EXPONENT = 2.3
GOVERNOR_GAIN = 0.004  # clock ratio a second and kelvin above the limit; half of it below
LOWEST_RATIO = 0.2
CYCLE_RAMP = 0.05  # clock ratio a second at which the limit-cycle governor ramps again
FAN_STARTS_CELSIUS, FAN_RANGE_KELVIN, FAN_LAG_SECONDS = 60.0, 35.0, 15.0
SKIN_HYSTERESIS_KELVIN = 3.0
LEVEL_FALLS_AFTER_SECONDS = 8.0
# A governor that settles turns at 0.15 rad/s at most: at 2 s its clock is within 0.015 of the exact one on the way down, and
# the work of 1200 s within 0.001. One that switches at a temperature, or a cap that waits, is as exact as its substep.
_SETTLING_SUBSTEP_SECONDS, _SWITCHING_SUBSTEP_SECONDS = 2.0, 1.0


class HeatState:
    """The machine's heat after a step; the model keeps one and changes it in place."""

    __slots__ = ("case_celsius", "die_celsius", "fan_ratio", "frequency_ratio", "level", "watts")

    def __init__(self, die_celsius: float, case_celsius: float) -> None:
        self.die_celsius = die_celsius
        self.case_celsius = case_celsius
        self.fan_ratio = 0.0
        self.frequency_ratio = 1.0
        """Clock over full clock, every limit included."""
        self.level = 0
        """0 nominal, 1 moderate, 2 heavy; 3 and 4 come by fault injection only."""
        self.watts = 0.0

    @property
    def step_ratio(self) -> float:
        """How many times as long a training step takes as on the cool machine."""
        return 1.0 - GPU_BOUND_SHARE + GPU_BOUND_SHARE / self.frequency_ratio


class HeatModel:
    """Steps one profile through time.

    ``time_scale`` > 1 compresses every time constant, so that an experiment of minutes shows what takes an hour.
    ``ambient_celsius``, ``external_watts`` (load of others) and ``frequency_cap`` (low-power mode) may be assigned
    between steps.
    """

    __slots__ = (
        "_burst_used", "_calm_seconds", "_die_decay", "_dropped", "_governed", "_skin_capped", "_substep",
        "ambient_celsius", "external_watts", "frequency_cap", "longest_substep", "profile", "state", "time_scale",
    )  # fmt: skip

    def __init__(
        self,
        profile: HeatProfile | str,
        ambient_celsius: float = AMBIENT_CELSIUS,
        time_scale: float = 1.0,
        case_celsius: float | None = None,
    ) -> None:
        """The machine starts settled at idle, or with a heat-soaked case of ``case_celsius``."""
        if not time_scale > 0:
            raise ConfigurationError(f"time_scale {time_scale!r} of a heat model; allowed is a positive number")
        self.profile = find(profile) if isinstance(profile, str) else profile
        self.ambient_celsius = ambient_celsius
        self.time_scale = time_scale
        self.external_watts = 0.0
        self.frequency_cap = 1.0
        row = self.profile
        case = ambient_celsius + row.idle_watts * row.case_kelvin_per_watt if case_celsius is None else case_celsius
        self.state = HeatState(case + row.idle_watts * row.die_kelvin_per_watt, case)
        switches = row.resume_celsius is not None or row.sustained_watts < math.inf
        self.longest_substep = _SWITCHING_SUBSTEP_SECONDS if switches else _SETTLING_SUBSTEP_SECONDS
        self._governed = 1.0
        self._dropped = False
        self._skin_capped = False
        self._burst_used = 0.0
        self._calm_seconds = 0.0
        self._substep = 0.0
        self._die_decay = 1.0

    def step(self, duty: float, seconds: float) -> HeatState:
        """Let ``seconds`` pass with the processors busy for the share ``duty`` of it."""
        duty = min(1.0, max(0.0, duty))
        remaining = max(0.0, seconds) * self.time_scale
        count = max(1, math.ceil(remaining / self.longest_substep))
        substep = remaining / count
        if substep != self._substep:
            profile = self.profile
            self._substep = substep
            self._die_decay = math.exp(-substep / (profile.die_kelvin_per_watt * profile.die_joules_per_kelvin))
        for _ in range(count):
            self._advance(duty, substep)
        return self.state

    def _advance(self, duty: float, seconds: float) -> None:
        """One substep: power, then die (exact for constant power), case, fan, governor and level."""
        profile, state = self.profile, self.state
        ratio = self._limited(duty, seconds)
        watts = profile.idle_watts + (profile.max_watts - profile.idle_watts) * duty * ratio**POWER_EXPONENT
        settled = state.case_celsius + (watts + self.external_watts) * profile.die_kelvin_per_watt
        die = settled + (state.die_celsius - settled) * self._die_decay
        inflow = ((die + state.die_celsius) / 2 - state.case_celsius) / profile.die_kelvin_per_watt
        case_kelvin_per_watt = profile.case_kelvin_per_watt / (1.0 + profile.fan_gain * state.fan_ratio)
        outflow = (state.case_celsius - self.ambient_celsius) / case_kelvin_per_watt
        state.case_celsius += seconds * (inflow - outflow) / profile.case_joules_per_kelvin
        demand = min(1.0, max(0.0, (die - FAN_STARTS_CELSIUS) / FAN_RANGE_KELVIN))
        state.fan_ratio += (demand - state.fan_ratio) * min(1.0, seconds / FAN_LAG_SECONDS)
        state.die_celsius, state.watts, state.frequency_ratio = die, watts, ratio
        self._govern(die, seconds)
        self._relevel(die, seconds)

    def _limited(self, duty: float, seconds: float) -> float:
        """The clock ratio that governor, caps and low-power mode leave."""
        profile = self.profile
        ratio = min(self._governed, self.frequency_cap)
        if profile.skin_cap_watts < math.inf:
            case = self.state.case_celsius
            self._skin_capped = case >= profile.skin_limit_celsius - (SKIN_HYSTERESIS_KELVIN if self._skin_capped else 0.0)
            if self._skin_capped:
                ratio = min(ratio, self._ratio_at(profile.skin_cap_watts, duty))
        if profile.sustained_watts < math.inf:
            self._burst_used = max(0.0, self._burst_used + (seconds if duty > 0.1 else -seconds))
            if self._burst_used > profile.burst_seconds:
                self._burst_used = min(self._burst_used, 10.0 * profile.burst_seconds)
                ratio = min(ratio, self._ratio_at(profile.sustained_watts, duty))
        return max(ratio, 0.01)

    def _ratio_at(self, watts: float, duty: float) -> float:
        """The clock ratio at which this load draws ``watts``."""
        profile = self.profile
        busy = (profile.max_watts - profile.idle_watts) * duty
        return 1.0 if busy <= 0 else min(1.0, ((watts - profile.idle_watts) / busy) ** (1.0 / POWER_EXPONENT))

    def _govern(self, die: float, seconds: float) -> None:
        profile = self.profile
        excess = die - profile.limit_celsius
        if profile.resume_celsius is None:
            gain = GOVERNOR_GAIN if excess > 0 else GOVERNOR_GAIN / 2
            self._governed = min(1.0, max(LOWEST_RATIO, self._governed - gain * excess * seconds))
            return
        self._dropped = die > profile.resume_celsius if self._dropped else excess >= 0
        self._governed = LOWEST_RATIO if self._dropped else min(1.0, self._governed + CYCLE_RAMP * seconds)

    def _relevel(self, die: float, seconds: float) -> None:
        """Heat raises the level at once and lowers it after a while; an electrical cap is not heat."""
        margin = self.profile.limit_celsius - die
        level = 2 if margin <= 1.0 or self._governed < 0.9 or self._skin_capped else 1 if margin <= 12.0 else 0
        state = self.state
        self._calm_seconds = self._calm_seconds + seconds if level < state.level else 0.0
        if level > state.level or self._calm_seconds >= LEVEL_FALLS_AFTER_SECONDS:
            state.level = level
            self._calm_seconds = 0.0


def find(name: str) -> HeatProfile:
    """The profile called ``name``; raises ConfigurationError with the known names."""
    try:
        return PROFILES[name]
    except KeyError:
        raise ConfigurationError(f"unknown heat profile {name!r}; known: {', '.join(PROFILES)}") from None
