"""The shield around every policy: what is allowed now, and what must happen without asking anybody."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Container, Iterator
from dataclasses import dataclass

from autotuner.controller.actions import ACTIONS, Action
from autotuner.controller.observation import moved, predicted_bytes
from autotuner.controller.window import RunWindow
from autotuner.knobs import find

LOADING = frozenset({"resolution", "micro_batch", "pace", "cache_limit"})
"""Knobs whose upward move asks more of memory or heat."""
MEMORY = frozenset({"resolution", "micro_batch", "cache_limit", "distill"})
NOT_LOAD = frozenset({"lr_scale", "timestep_density", "distill", "sampling_steps"})
"""Knobs whose downward move takes no load away, so stale telemetry freezes them both ways."""

PACING = frozenset({"dwell", "reversal", "change_budget"})
"""Refusals that only keep a policy from changing too often."""

SETTLE_STEPS = 4


@dataclass(frozen=True)
class GuardLimits:
    """The guard's numbers, in one place."""

    memory_share: float = 0.9
    """A wish may plan with this share of what the run may use."""
    critical_share: float = 0.97
    """Above this share the guard acts by itself."""
    heavy_heat: int = 2
    critical_heat: int = 3
    stale_intervals: float = 3.0
    reversal_intervals: int = 4
    changes_per_hour: int = 240
    restore_from: float = 0.85
    """Share of the budget from which resolution goes back to where the script started."""
    settle_seconds: float = 2.0
    """After a change the guard waits so long, or SETTLE_STEPS steps if they take longer, before it takes the next by itself."""


class Guard:
    """Checks wishes against one run's window. Keeps only the times of past changes and the quarantine."""

    def __init__(self, limits: GuardLimits) -> None:
        self.limits = limits
        self.quarantine: set[tuple[int, ...]] = set()
        self._changes: deque[float] = deque()

    def changed(self, now: float, count: int) -> None:
        """Count ``count`` changes made at ``now`` against the budget of changes."""
        self._changes.extend([now] * count)

    def mask(self, window: RunWindow, pinned: Container[str], pending: bool, now: float) -> tuple[bool, ...]:
        """Which actions are allowed; the first, hold, always is."""
        return tuple(not self.verdict(window, action, pinned, pending, now) for action in ACTIONS)

    def verdict(self, window: RunWindow, action: Action, pinned: Container[str], pending: bool, now: float) -> str:
        """Why ``action`` is refused: a row of REASONS; empty when it is allowed."""
        if not action.step:
            return ""
        i = window.index.get(action.knob, -1)
        if i < 0 or not window.declaration.knobs[i].tunable:
            return "not_declared"
        if action.knob in pinned:
            return "pinned"
        if pending:
            return "pending"
        positions = moved(window, action.knob, action.step)
        if positions is None:
            return "ladder_end"
        if self.settling(window, now) and next(self.critical(window), ""):
            return "settles"  # a change of the policy's would put off the guard's own, which frees all that is needed
        return (
            self._load(window, action, positions, now)
            or self._pacing(window, action, now)
            or self.shape_verdict(window, positions)
        )

    def _load(self, window: RunWindow, action: Action, positions: tuple[int, ...], now: float) -> str:
        relieves = action.step < 0 and action.knob not in NOT_LOAD
        if relieves:
            return ""
        if self.stale(window, now):
            return "stale"
        if action.step < 0:
            return ""
        recent = list(window.intervals)[-4:]
        if action.knob in LOADING and any(interval.not_finite for interval in recent):
            return "diverging"
        if action.knob in LOADING and self._too_hot_for(window, action.knob, positions):
            return "heat"
        if action.knob in MEMORY:
            if (window.machine.memory_pressure or 0) >= 1:
                return "memory_pressure"
            limit, predicted = window.limit_bytes, predicted_bytes(window, positions)
            if action.knob == "cache_limit":
                predicted = max(predicted or 0.0, _with_full_cache(window, positions))
            if limit is not None and predicted is not None and predicted > self.limits.memory_share * limit:
                return "memory_predicted"
        return ""

    def _too_hot_for(self, window: RunWindow, knob: str, positions: tuple[int, ...]) -> bool:
        """In heavy heat nothing goes above where the script began: back there it may, or a trial could never be undone."""
        level, at = window.machine.thermal_level or 0, window.index[knob]
        beyond = positions[at] > window.declaration.start[at]
        return level >= (self.limits.heavy_heat if beyond else self.limits.critical_heat)

    def _pacing(self, window: RunWindow, action: Action, now: float) -> str:
        if self.under_stress(window) and action.step < 0 and action.knob in LOADING:
            return ""
        since = window.since_change(action.knob)
        if since < find(action.knob).dwell_intervals:
            return "dwell"
        last = window.changed.get(action.knob)
        if last is not None and last[1] == -action.step and since < self.limits.reversal_intervals:
            return "reversal"
        while self._changes and now - self._changes[0] > 3600.0:
            self._changes.popleft()
        return "change_budget" if len(self._changes) >= self.limits.changes_per_hour else ""

    def shape_verdict(self, window: RunWindow, positions: tuple[int, ...]) -> str:
        """Why ``positions`` may never be asked for, whoever asks; empty when they may."""
        declaration = window.declaration
        if window.shape(positions) not in window.shapes and len(window.shapes) >= declaration.max_shapes:
            return "shape_budget"
        if declaration.max_pixels is not None and window.pixels(positions) > declaration.max_pixels:
            return "joint_limit"
        return "quarantined" if positions in self.quarantine else ""

    def stale(self, window: RunWindow, now: float) -> bool:
        """Whether samples or machine readings are too old to plan with."""
        if window.last_sample is None:
            return True
        step_seconds = window.last_sample.step_seconds
        patience = self.limits.stale_intervals * window.interval_seconds
        if math.isfinite(step_seconds):
            patience = max(patience, 6.0 * step_seconds)
        return now - window.last_sample.time > patience or now - window.machine.time > max(patience, 10.0)

    def under_stress(self, window: RunWindow) -> bool:
        """Whether memory or heat is a reason to take load away at once."""
        hot = (window.machine.thermal_level or 0) >= self.limits.heavy_heat
        return hot or (window.machine.memory_pressure or 0) >= 1 or self._memory_share(window) > self.limits.memory_share

    def _memory_share(self, window: RunWindow) -> float:
        limit = window.limit_bytes
        return window.used / limit if limit else 0.0

    def critical(self, window: RunWindow) -> Iterator[str]:
        """Why the guard must act without the policy: rows of REASONS, the most urgent first; none when it need not."""
        if window.out_of_memory:
            yield "out_of_memory"
        if (window.machine.memory_pressure or 0) >= 2:
            yield "memory_pressure"
        if self._memory_share(window) > self.limits.critical_share:
            yield "memory_high"
        if (window.machine.thermal_level or 0) >= self.limits.critical_heat:
            yield "heat"

    def settling(self, window: RunWindow, now: float) -> bool:
        """Whether the newest change is too fresh for its effect to be seen in samples and sensors."""
        step_seconds = window.last_sample.step_seconds if window.last_sample else 0.0
        steps = SETTLE_STEPS * step_seconds if math.isfinite(step_seconds) else 0.0
        return now - window.changed_at < max(self.limits.settle_seconds, steps)

    def emergency(self, window: RunWindow, pinned: Container[str], now: float) -> tuple[str, dict[str, int]]:
        """The reason and the load-reducing moves (knob to new position) that critical pressure asks for now."""
        if self.settling(window, now):
            return "", {}
        for reason in self.critical(window):
            moves = self._to_bottom(window, "pace", pinned) if reason == "heat" else self._free_memory(window, pinned)
            if moves:
                return reason, moves
        return "", {}

    def _to_bottom(self, window: RunWindow, knob: str, pinned: Container[str]) -> dict[str, int]:
        i = window.index.get(knob, -1)
        movable = i >= 0 and knob not in pinned and window.declaration.knobs[i].tunable and window.positions[i] > 0
        return {knob: 0} if movable else {}

    def _free_memory(self, window: RunWindow, pinned: Container[str]) -> dict[str, int]:
        """Cache first, then the largest micro-batch that is expected to fit, then resolution."""
        moves = self._to_bottom(window, "cache_limit", pinned)
        for knob in ("micro_batch", "resolution"):
            i = window.index.get(knob, -1)
            if i < 0 or knob in pinned or not window.declaration.knobs[i].tunable or window.positions[i] == 0:
                continue
            position = self._largest_that_fits(window, i)
            if position is not None:
                moves[knob] = position
                break
        return moves

    def _largest_that_fits(self, window: RunWindow, i: int) -> int | None:
        """The lowest position when none is expected to fit; None when the script's own limits allow none."""
        limit, lowest = window.limit_bytes, None
        for position in range(window.positions[i] - 1, -1, -1):
            positions = (*window.positions[:i], position, *window.positions[i + 1 :])
            if self.shape_verdict(window, positions):
                continue
            lowest = position
            predicted = predicted_bytes(window, positions)
            if limit is None or predicted is None or predicted <= self.limits.memory_share * limit:
                return position
        return lowest

    def obligation(self, window: RunWindow, pinned: Container[str], pending: bool, now: float) -> tuple[str, dict[str, int]]:
        """What the guard owes the script near the end of its budget: the resolution that it started with."""
        i = window.index.get("resolution", -1)
        used = window.budget_used(now)
        if i < 0 or pending or used is None or used < self.limits.restore_from:
            return "", {}
        if window.positions[i] >= window.declaration.knobs[i].start:
            return "", {}
        refused = self.verdict(window, Action("resolution", 1), pinned, pending, now)
        if refused and refused not in PACING:
            return "", {}
        return "restore", {"resolution": window.positions[i] + 1}


def _with_full_cache(window: RunWindow, positions: tuple[int, ...]) -> float:
    """What the run holds once its cache has grown as far as it ever did, or to its limit: an evaluation fills it at once."""
    active = window.last_sample.active_bytes if window.last_sample else 0
    return active + min(window.value("cache_limit", 0.0, positions), float(window.largest_cache))
