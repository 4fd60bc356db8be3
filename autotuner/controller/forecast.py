"""The forecasting policy: models of this run, fitted to its own window at every decision, and a search over legal moves.

What a move is worth is counted in what holding promises until the end of the budget: 0.1 is as much as a tenth more images
at full resolution. A power law of the held-out loss orders moves alike, whatever its exponent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autotuner.controller.actions import ACTIONS, HOLD, action_index
from autotuner.controller.forecast_models import (
    Estimate,
    evaluation_share,
    exceeds,
    image_seconds,
    learning_slope,
    memory_share,
    memory_trend,
    preview_share,
)
from autotuner.controller.observation import moved
from autotuner.controller.pacing import pace_wish
from autotuner.controller.policy import Choice
from autotuner.controller.rules import COARSE_UNTIL, GAP_CLOSED, HIGH_MEMORY, LATEST_STUDENT, TARGET_MARGIN, next_coarser
from autotuner.controller.window import RunWindow
from autotuner.knobs import find

WORTH_IT = 0.05
"""A move must beat holding by this much, or by CERTAIN times its own spread."""
CERTAIN = 2.0
LEAST = 0.004
"""...and never by less than this, however certain."""
PLANNED_SHARE = 0.88
RISKY_SHARE = 0.95
COARSE_WORTH, LATE_WORTH = 0.5, 3.0
"""An image at ratio r of full resolution teaches r**COARSE_WORTH as much until COARSE_UNTIL, then r**LATE_WORTH: priors."""
OCTAVE_COST = 0.15
"""Prior: learning at 2**k times the script's rate is exp(-OCTAVE_COST * k**2) as efficient.

The simulator assumes the same number, so that what this brings there is no evidence."""
REFERENCE_GAIN, REFERENCE_SPREAD = 0.15, 0.1
"""Prior: what the reference density is worth against a named one that the script started with."""
CACHE_GAIN = 0.06
"""Prior: what a cache that holds a whole pass saves in allocations."""
SPREAD_OF_PACE = 0.5
"""Of what a higher pace is expected to bring: a hot machine gives less."""
PREVIEW_WORTH = 0.002
"""What the finer previews of one ladder step are worth to a person, against time."""
EARLIEST_STUDENT = 0.6
"""Share of the budget before which no student begins where no target says that the teacher is good enough."""
STUDENT_FLOOR, STUDENT_TIME = 0.5, 0.12
"""Prior of a student: relative few-step distance after long, and the share of the budget in which 63 % of the way is done."""
TEACHER_WORTH = 3.0
"""Held-out loss against few-step distance, both logarithms, when time is shared between teacher and student."""


@dataclass(frozen=True, slots=True)
class Move:
    """One legal move with what it is expected to be worth more than holding."""

    knob: str
    step: int
    gain: float
    spread: float
    reason: str
    detail: str

    @property
    def pays(self) -> bool:
        """Whether it beats holding by enough."""
        return self.gain >= max(LEAST, min(WORTH_IT, CERTAIN * self.spread))


class Forecast:
    """Predicts images a second, memory, held-out loss and student for each legal move, and takes the best that pays."""

    name = "forecast"

    def choose(self, observation: Sequence[float], mask: Sequence[bool], window: RunWindow) -> Choice:
        """Relief first, then full resolution, the distillation plan, and the move with the largest expected gain."""
        look = _Look(window, mask)
        for knob, step, reason, detail in (*look.relief(), *look.full_resolution(), *look.distillation()):
            action = action_index(knob, step)
            if mask[action]:
                return Choice(action, reason, detail)
        paying = [move for move in look.moves() if move.pays]
        if not paying:
            return Choice(HOLD, "hold")
        best = max(paying, key=lambda move: move.gain)
        return Choice(action_index(best.knob, best.step), best.reason, best.detail)


Wish = tuple[str, int, str, str]
"""Knob, step, reason and the numbers that explain it."""


class _Look:
    """One run at one decision."""

    def __init__(self, window: RunWindow, mask: Sequence[bool]) -> None:
        self.window, self.mask = window, mask
        self.now = window.closed_at if math.isfinite(window.closed_at) else 0.0
        self.used = window.budget_used(self.now)
        started = window.first_time if window.first_time is not None else self.now
        self.elapsed = max(self.now - started, window.interval_seconds)
        used = self.used if self.used is not None else 0.5  # without a budget as much again is expected
        self.left = self.elapsed * (1.0 - used) / used if used > 0.02 else 50.0 * self.elapsed
        self.stage = int(window.value("distill", 0.0))
        self.pressure = window.machine.memory_pressure or 0
        limit = window.limit_bytes
        self.share = window.used / limit if limit else 0.0

    def allowed(self, knob: str, step: int) -> bool:
        return self.mask[action_index(knob, step)]

    def relief(self) -> Iterator[Wish]:
        """Memory that is short now, or will be within a few intervals."""
        soon = self.share + 4.0 * memory_trend(self.window)
        if self.pressure == 0 and soon <= HIGH_MEMORY:
            return
        reason = "memory_pressure" if self.pressure else "memory_high"
        detail = f"{self.share:.0%} of the memory used, {soon:.0%} expected"
        for knob in ("cache_limit", "micro_batch", "resolution"):
            yield knob, -1, reason, detail

    def full_resolution(self) -> Iterator[Wish]:
        """The way back, or the memory that it needs: what is judged is judged there, whatever a low resolution saves."""
        positions = moved(self.window, "resolution", 1)
        if positions is None or (self.used is not None and self.used < COARSE_UNTIL):
            return
        yield "resolution", 1, "full_resolution", f"{self.used or 0.0:.0%} of the budget used"
        share = memory_share(self.window, positions)
        if self.pressure or (share is not None and share.mean > PLANNED_SHARE):
            room = f"{share.mean:.0%} of the memory expected above" if share else "memory pressure"
            yield "cache_limit", -1, "room_for_resolution", room
            yield "micro_batch", -1, "room_for_resolution", room

    # -- distillation ---------------------------------------------------------------------------------------------

    def distillation(self) -> Iterator[Wish]:
        """The next stage when its time has come, or first the memory that it needs."""
        if moved(self.window, "distill", 1) is None or self.used is None:
            return
        due, reason, detail = self._due()
        if not due:
            return
        yield "distill", 1, reason, detail
        positions = moved(self.window, "distill", 1)
        share = memory_share(self.window, positions) if positions else None
        if self.pressure or (share is not None and share.mean > PLANNED_SHARE):
            room = f"{share.mean:.0%} of the memory expected with a student" if share else "memory pressure"
            yield "cache_limit", -1, "room_to_distill", room
            yield "micro_batch", -1, "room_to_distill", room

    def _due(self) -> tuple[bool, str, str]:
        used = self.used or 0.0
        if self.stage == 0:
            begin = self._best_beginning(used)
            return used >= begin, "time_to_distill", f"{used:.0%} of the budget used, best from {begin:.0%}"
        gaps = [e.gap for e in self.window.evaluations if e.gap > 0 and e.stage == self.stage]
        if gaps and math.log(gaps[-1]) <= GAP_CLOSED:
            return True, "gap_closed", f"gap {gaps[-1]:.2f}"
        since, dwell = self.window.since_change("distill"), find("distill").dwell_intervals
        part = max(float(dwell), 0.1 * self.left / self.window.interval_seconds)
        return since >= part, "time_to_distill", f"{since} intervals in stage {self.stage}"

    def _best_beginning(self, used: float) -> float:
        """The share of the budget from which a student is worth more than a longer teacher, by the curve's tail."""
        curve, target = learning_slope(self.window), self.window.declaration.target
        last = self.window.last_sample
        if last is None or used <= 0:
            return 1.0
        if target and used < LATEST_STUDENT and not self._reached(target):
            return LATEST_STUDENT
        slope = 0.1 if curve is None else curve
        earliest = used if target else max(used, EARLIEST_STUDENT)
        shares = [earliest, *(earliest + 0.02 * k for k in range(1, 40) if earliest + 0.02 * k <= LATEST_STUDENT)]

        def worth(begin: float) -> float:
            ratio = STUDENT_FLOOR + (1.0 - STUDENT_FLOOR) * math.exp(-(1.0 - begin) / STUDENT_TIME)
            return TEACHER_WORTH * slope * math.log(begin / used) - math.log(ratio)

        return max(shares, key=worth)

    def _reached(self, target: float) -> bool:
        recent = list(self.window.evaluations)[-1:]
        return bool(recent) and recent[0].held_out_loss <= target * math.exp(-TARGET_MARGIN)

    # -- everything that makes the rest of the budget worth more -------------------------------------------------

    def moves(self) -> Iterator[Move]:
        """Every legal move but those of distillation, with what it is worth."""
        worths = {
            "resolution": self._shape, "micro_batch": self._shape, "sampling_steps": self._previews, "pace": self._pace,
            "cache_limit": self._cache, "lr_scale": self._rate, "timestep_density": self._density,
        }  # fmt: skip
        for action, legal in zip(ACTIONS, self.mask, strict=True):
            if legal and action.step and action.knob in worths and action.knob in self.window.index:
                move = worths[action.knob](action.knob, action.step)
                if move is not None:
                    yield move

    def _worth(self, factor: Estimate, delay_seconds: float = 0.0) -> Estimate:
        """How much more learning than by holding ``factor`` times the speed brings in what is left, after a delay."""
        left = max(0.0, 1.0 - delay_seconds / self.left) if self.left > 0 else 0.0
        return Estimate(factor.mean * left - 1.0, factor.spread * left)

    def _move(self, knob: str, step: int, factor: Estimate, reason: str, delay: float = 0.0, minus: float = 0.0) -> Move:
        worth = self._worth(factor, delay)
        detail = f"learning x{factor.mean:.2f} ± {factor.spread:.2f}, worth {worth.mean - minus:+.1%} of what holding promises"
        return Move(knob, step, worth.mean - minus, worth.spread, reason, detail)

    def _shape(self, knob: str, step: int) -> Move | None:
        window, positions = self.window, moved(self.window, knob, step)
        if positions is None or (knob == "resolution" and step < 0 and not self._coarser_next()):
            return None
        before = image_seconds(window, window.shape(window.positions), self.stage)
        after = image_seconds(window, window.shape(positions), self.stage)
        if before is None or after is None:
            return None
        speed = before.mean / after.mean
        spread = speed * after.spread / after.mean
        factor = speed * self._coarse_worth(positions) / self._coarse_worth(window.positions)
        share = memory_share(window, positions)
        risk = exceeds(share, RISKY_SHARE) if step > 0 else 0.0
        reason = "faster" if knob == "micro_batch" else "coarse_first" if step < 0 else "full_resolution"
        return self._move(knob, step, Estimate(factor, spread), reason, 0.25 * window.interval_seconds, risk)

    def _coarser_next(self) -> bool:
        """A micro-batch that pays grows first: each pair of both is a new shape, and those are few."""
        larger = self._shape("micro_batch", 1)
        return next_coarser(self.window) and not (larger is not None and larger.pays)

    def _coarse_worth(self, positions: tuple[int, ...]) -> float:
        i = self.window.index.get("resolution", -1)
        if i < 0:
            return 1.0
        values = self.window.declaration.knobs[i].values
        early = self.used is not None and self.used < COARSE_UNTIL
        return float((values[positions[i]] / values[-1]) ** (COARSE_WORTH if early else LATE_WORTH))

    def _previews(self, knob: str, step: int) -> Move | None:
        positions = moved(self.window, knob, step)
        if positions is None or step > 0:
            return None
        fewer = self.window.value(knob, 1.0, positions) / self.window.value(knob, 1.0)
        saved = preview_share(self.window, self.now) * (1.0 - fewer)
        computing = max(0.1, 1.0 - evaluation_share(self.window, self.now))
        factor = Estimate(1.0 + saved / computing, 0.25 * saved / computing)
        return self._move(knob, step, factor, "previews_cost", minus=PREVIEW_WORTH)

    def _pace(self, knob: str, step: int) -> Move | None:
        positions = moved(self.window, knob, step)
        wished, why = pace_wish(self.window)
        if positions is None or wished != step:
            return None
        if step < 0:
            return Move(knob, step, WORTH_IT, SPREAD_OF_PACE * WORTH_IT, "heat", why)  # a trial, judged by what it brings
        factor = self.window.value(knob, 1.0, positions) / self.window.value(knob, 1.0)
        return self._move(knob, step, Estimate(factor, SPREAD_OF_PACE * (factor - 1.0)), "cooled")

    def _cache(self, knob: str, step: int) -> Move | None:
        positions, last = moved(self.window, knob, step), self.window.last_sample
        limit = self.window.limit_bytes
        if positions is None or step < 0 or last is None or limit is None:
            return None
        room = self.window.value(knob, 0.0, positions) - last.cache_bytes
        transient = max(0.0, last.peak_bytes - last.active_bytes)
        after = (last.active_bytes + last.cache_bytes + min(max(room, 0.0), 1.5 * transient)) / limit
        if last.cache_bytes < 0.9 * self.window.value(knob, 0.0) or after > 0.8:
            return None  # the limit does not bind, or its room is not there
        return self._move(knob, step, Estimate(1.0 + CACHE_GAIN, 0.5 * CACHE_GAIN), "memory_free")

    def _rate(self, knob: str, step: int) -> Move | None:
        positions = moved(self.window, knob, step)
        if positions is None:
            return None
        now, then = self.window.value(knob, 1.0), self.window.value(knob, 1.0, positions)
        recent = list(self.window.intervals)[-6:]
        lost = sum(i.not_finite for i in recent) / max(1, sum(i.steps for i in recent))
        finite = (1.0 - min(0.9, lost * then / now)) / (1.0 - min(0.9, lost))
        factor = finite * _efficiency(then) / _efficiency(now)
        return self._move(
            knob, step, Estimate(factor, 0.3 * abs(factor - 1.0)), "diverges" if lost and step < 0 else "teaches_more"
        )

    def _density(self, knob: str, step: int) -> Move | None:
        if step > 0:
            return None
        return self._move(knob, step, Estimate(1.0 + REFERENCE_GAIN, REFERENCE_SPREAD), "teaches_more")


def _efficiency(scale: float) -> float:
    return math.exp(-OCTAVE_COST * math.log2(scale) ** 2)
