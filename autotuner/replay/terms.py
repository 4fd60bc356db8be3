"""The reward terms of one decision interval that a journal can tell; NaN is unknown. Weights are the learner's business."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable

from autotuner.messages import FLAG_OUT_OF_MEMORY, MachineState, Sample
from autotuner.replay.past import Past

CRITICAL_PRESSURE = 2
HEAVY_HEAT = 2
"""As in ``envs/autotuner_envs/rewards``: seconds at these levels cost."""
READING_HOLDS_SECONDS = 120.0
"""A machine reading counts until the next one, at most this long."""
TERMS = (
    "seconds", "budget_share", "progress", "progress_per_budget", "pressure_share", "heat_share", "changes", "out_of_memory",
)  # fmt: skip


class Terms:
    """Terms of any interval of one run. Shares are of the declared budget in seconds, else of the time that the run took."""

    def __init__(self, past: Past) -> None:
        self._past = past
        self.budget_seconds = past.declaration.budget_seconds or max(past.end - past.run.created_unix, 1e-9)
        self._times = [evaluation.time for evaluation in past.evaluations]
        self._logs = [math.log(evaluation.held_out_loss) for evaluation in past.evaluations]

    def of(self, start: float, end: float, changes: int) -> dict[str, float]:
        """The terms between two decisions; ``changes`` is how many knobs were asked to move at ``start``."""
        seconds = max(0.0, end - start)
        share = seconds / self.budget_seconds
        progress = self._log_loss_between(start, end)
        return {
            "seconds": seconds,
            "budget_share": share,
            "progress": progress,
            "progress_per_budget": progress / share if share > 0 else math.nan,
            "pressure_share": self._seconds_at(start, end, lambda m: m.memory_pressure, CRITICAL_PRESSURE)
            / self.budget_seconds,
            "heat_share": self._seconds_at(start, end, lambda m: m.thermal_level, HEAVY_HEAT) / self.budget_seconds,
            "changes": float(changes),
            "out_of_memory": self._out_of_memory(start, end),
        }

    def _log_loss_between(self, start: float, end: float) -> float:
        """Fall of the logarithm of the held-out loss, by lines between evaluations; NaN where nothing was evaluated."""
        if len(self._times) < 2:
            return math.nan
        start, end = max(start, self._times[0]), min(end, self._times[-1])
        return self._log_loss(start) - self._log_loss(end) if end > start else math.nan

    def _log_loss(self, time: float) -> float:
        i = min(max(bisect_right(self._times, time), 1), len(self._times) - 1)
        before, after = self._times[i - 1], self._times[i]
        share = (time - before) / (after - before) if after > before else 1.0
        return self._logs[i - 1] + share * (self._logs[i] - self._logs[i - 1])

    def _seconds_at(self, start: float, end: float, read: Callable[[MachineState], int | None], level: int) -> float:
        """Seconds of the interval in which a reading was at ``level`` or above; NaN when there was no reading."""
        readings, known, total = self._past.machine, False, 0.0
        for i, state in enumerate(readings):
            until = min(readings[i + 1].time if i + 1 < len(readings) else math.inf, state.time + READING_HOLDS_SECONDS)
            overlap = min(until, end) - max(state.time, start)
            value = read(state)
            if overlap > 0 and value is not None:
                known = True
                total += overlap if value >= level else 0.0
        return total if known else math.nan

    def _out_of_memory(self, start: float, end: float) -> float:
        """Steps that ran out of memory; only the ring tells them."""
        if start < self._past.ring_from:
            return math.nan
        steps = (r for r in self._past.records if isinstance(r, Sample) and start <= r.time < end)
        return float(sum(bool(step.flags & FLAG_OUT_OF_MEMORY) for step in steps))
