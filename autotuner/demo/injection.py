"""The injected events of the demo: memory taken away for a while, then a machine that overheats.

Nothing here is measured from the machine: it is an experiment's script, and every reading it makes is labelled
``injected``. Both runs get the same script; what differs is only how hard each run drives the modelled heat.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from autotuner.telemetry.heat import HeatModel, HeatState, find
from autotuner.telemetry.scripted import InjectedState

MEMORY_AWAY = (0.20, 0.55)
"""Shares of the budget between which another program is pretended to hold memory."""
MEMORY_LEFT = 0.62
"""What is left then, as a share of what the untouched run uses at its start values."""
MEMORY_ROOMY = 2.0
"""What there is otherwise, in the same unit."""
HEAT = (0.60, 0.90)
"""Shares of the budget between which the pretended machine is one that overheats."""
HEAT_PROFILE = "limit_cycle"
HEAT_TIME_SCALE = 10.0
"""Heat of minutes shown in a run of two: time constants are divided by this."""
WARN_SHARE = 0.9
SENTENCE = (
    f"from {MEMORY_AWAY[0]:.0%} to {MEMORY_AWAY[1]:.0%} of the budget the run may use {MEMORY_LEFT:.0%} of its memory; "
    f"from {HEAT[0]:.0%} to {HEAT[1]:.0%} the machine heats up and throttles as model {HEAT_PROFILE!r}, "
    f"{HEAT_TIME_SCALE:g} times faster than a real one"
)


@dataclass
class Injection:
    """Steps the script through one run. ``baseline_bytes`` is learned from the first run and given to the second."""

    budget_seconds: float
    baseline_bytes: int = 0
    _heat: HeatModel = field(default_factory=lambda: HeatModel(find(HEAT_PROFILE), time_scale=HEAT_TIME_SCALE))

    def learn(self, elapsed: float, used_bytes: int) -> None:
        """Take the memory of the run at its start values as the unit of the script."""
        if elapsed < MEMORY_AWAY[0] * self.budget_seconds:
            self.baseline_bytes = max(self.baseline_bytes, used_bytes)

    def step(self, now: float, elapsed: float, seconds: float, used_bytes: int, pace: float) -> InjectedState:
        """The pretended machine ``elapsed`` seconds into the run, ``seconds`` after the last call."""
        share = elapsed / self.budget_seconds
        limit = self._limit(share)
        heat = self._step_heat(share, pace, seconds)
        return InjectedState(
            time=now,
            thermal_level=heat.level,
            celsius=round(heat.die_celsius, 1),
            frequency_ratio=max(0.05, min(1.0, heat.frequency_ratio)),
            memory_limit_bytes=limit,
            memory_available_bytes=max(0, limit - used_bytes) if limit is not None else None,
            memory_pressure=self._pressure(limit, used_bytes),
            note=self.note(share),
        )

    def _limit(self, share: float) -> int | None:
        if not self.baseline_bytes:
            return None
        away = MEMORY_AWAY[0] <= share < MEMORY_AWAY[1]
        return int(self.baseline_bytes * (MEMORY_LEFT if away else MEMORY_ROOMY))

    def _pressure(self, limit: int | None, used_bytes: int) -> int | None:
        if limit is None:
            return None
        return 2 if used_bytes > limit else 1 if used_bytes > WARN_SHARE * limit else 0

    def _step_heat(self, share: float, pace: float, seconds: float) -> HeatState:
        hot = HEAT[0] <= share < HEAT[1]
        return self._heat.step(pace if hot else 0.0, seconds)

    def note(self, share: float) -> str:
        """What is being injected now, in a word or two; empty when nothing is."""
        parts = []
        if MEMORY_AWAY[0] <= share < MEMORY_AWAY[1]:
            parts.append("memory taken away")
        if HEAT[0] <= share < HEAT[1]:
            parts.append("heat")
        return " and ".join(parts)
