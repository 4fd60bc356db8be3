"""The hand-written policy: memory first, then the order of a training run, then bad starts. What the learned one must beat."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from autotuner.controller.actions import HOLD, action_index
from autotuner.controller.observation import FEATURES, moved
from autotuner.controller.pacing import pace_wish
from autotuner.controller.policy import Choice
from autotuner.controller.window import RunWindow

COARSE_UNTIL = 0.12
"""Share of the budget that begins at low resolution. Recorded (benchmarks/results/calibration.txt): 9 to 18 % of the time at
16 or 20 of 28 pixels saves 11 to 21 % of the time to the loss that a full run has at 40 % of its time."""
COARSE_LEAST = 0.5
"""Lowest ratio of the full resolution that is gone down to; lower ones were not recorded."""
COARSE_FIRST_STEP = 250
"""A run whose first step that was seen is beyond this goes on with what it has learned: coarse structure is learned already."""
COARSE_PAYS = 1.0
"""Images at ratio r of full resolution must be measured to come r**-COARSE_PAYS as fast."""
DISTILL_FROM = 0.70
DISTILL_SPAN = 0.10
"""Stage k of n starts at DISTILL_FROM + k/n of this share: the last stage is the student that is asked for."""
LATEST_STUDENT = 0.85
"""Share of the budget until which the first stage waits for a declared target that is not met."""
TARGET_MARGIN = 0.01
"""Logarithm by which a measured loss must be below the target to count as there: measurements have noise."""
GAP_CLOSED = 0.05
"""Logarithm of the gap to the teacher at which a stage has done its part."""
HIGH_MEMORY = 0.92
"""Share of the memory that the run may use above which it is taken back before anything else is thought of."""
GUARDED_MEMORY = 0.90
"""Expected share above which the guard lets nothing grow."""
FREE_MEMORY = 0.80
PATIENCE = 0.5
"""since_change (sixteenths of intervals) for which memory must have been free before a reduced micro-batch grows again."""
COSTLY_EVALUATIONS = 0.12
"""Evaluation share times four (see observation): three hundredths of the time."""
SMALLEST_RATE = 0.5
"""lr_scale below which a loss that is not finite is not answered with less."""

See = Callable[[str], float]
Wish = tuple[str, int, str]
"""Knob, step and reason."""
_AT = {name: i for i, name in enumerate(FEATURES)}


class Rules:
    """AIMD on micro-batch, pace against cycles of heat, full resolution, distillation by gap and clock, repaired starts."""

    name = "rules"

    def choose(self, observation: Sequence[float], mask: Sequence[bool], window: RunWindow) -> Choice:
        """The first rule that has something to say and is allowed to."""

        def see(feature: str) -> float:
            return observation[_AT[feature]]

        for knob, step, reason in _wishes(see, window):
            action = action_index(knob, step)
            if mask[action]:
                return Choice(action, reason)
        return Choice(HOLD, "hold")


def _wishes(see: See, window: RunWindow) -> Iterator[Wish]:
    if see("memory_used") > HIGH_MEMORY or see("pressure") > 0:
        reason = "memory_pressure" if see("pressure") > 0 else "memory_high"
        yield from (("cache_limit", -1, reason), ("micro_batch", -1, reason), ("resolution", -1, reason))
    step, _ = pace_wish(window)
    if step:
        yield "pace", step, "heat" if step < 0 else "cooled"
    yield from _run_order(see, window)
    if _micro_batch_may_grow(see, window):
        yield "micro_batch", 1, "memory_free"
    if see("evaluation_share") > COSTLY_EVALUATIONS:
        yield "sampling_steps", -1, "previews_cost"
    yield from _learning(see, window)


def _micro_batch_may_grow(see: See, window: RunWindow) -> bool:
    return bool(see("memory_known") and 0 < see("memory_micro_batch_up") < FREE_MEMORY and _memory_was_free(see, window))


def _memory_was_free(see: See, window: RunWindow) -> bool:
    """A micro-batch that was never taken down grows at once; one that was, after patience."""
    taken_down = window.changed.get("micro_batch", (0, 1))[1] < 0
    return not taken_down or see("micro_batch.since_change") >= PATIENCE


def _run_order(see: See, window: RunWindow) -> Iterator[Wish]:
    if not see("budget_known"):
        return
    used = see("budget_used")
    if used >= COARSE_UNTIL or not _coarse_pays(see, window):
        yield "resolution", 1, "full_resolution"
        if window.free("resolution") and (see("pressure") > 0 or see("memory_resolution_up") > GUARDED_MEMORY):
            yield from (("cache_limit", -1, "room_for_resolution"), ("micro_batch", -1, "room_for_resolution"))
    elif next_coarser(window) and not _micro_batch_may_grow(see, window):  # first that: each pair of both is a new shape
        yield "resolution", -1, "coarse_first"
    if see("distill.position") > 0 and see("gap_known") and see("gap") <= GAP_CLOSED:
        yield "distill", 1, "gap_closed"
    unmet = see("target_known") and see("target_gap") > -2.0 * TARGET_MARGIN
    waits = unmet and see("distill.position") == 0 and used < LATEST_STUDENT
    if used >= DISTILL_FROM + DISTILL_SPAN * see("distill.position") and not waits:
        yield "distill", 1, "time_to_distill"


def _coarse_pays(see: See, window: RunWindow) -> bool:
    """Whether images at the resolution in force come, by what was measured, enough faster than full ones; so until measured.

    In heat nothing is: full ones were measured first, when the machine was cooler, and low resolution would get the blame.
    """
    if see("heat") > 0:
        return True
    now = window.shape(window.positions)
    rates = {key[0]: rate for key, rate in window.best_rate.items() if key[1] == now[1]}
    full = max(rates, default=now[0])
    if now[0] >= full or now[0] not in rates:
        return True
    return bool(rates[now[0]] / rates[full] > (full / now[0]) ** COARSE_PAYS)


def next_coarser(window: RunWindow) -> bool:
    """Whether there is a lower resolution that is not too low a part of the full one, in a run that began with nothing."""
    positions = moved(window, "resolution", -1)
    if positions is None or (window.first_step or 0) > COARSE_FIRST_STEP:
        return False
    full = window.declaration.knobs[window.index["resolution"]].values[-1]
    return window.value("resolution", 0.0, positions) >= COARSE_LEAST * full


def _learning(see: See, window: RunWindow) -> Iterator[Wish]:
    """The script's own learning rate and the reference density, unless the loss diverges."""
    if see("not_finite"):
        if window.value("lr_scale", 1.0) > SMALLEST_RATE:
            yield "lr_scale", -1, "diverges"
        return
    for step in (-1, 1):
        if nearer_to_one(window, step):
            yield "lr_scale", step, "teaches_more"
    yield "timestep_density", -1, "teaches_more"


def nearer_to_one(window: RunWindow, step: int) -> bool:
    """Whether ``lr_scale`` one position on is nearer to the script's own learning rate."""
    positions = moved(window, "lr_scale", step)
    if positions is None:
        return False
    now, then = (abs(math.log(window.value("lr_scale", 1.0, at))) for at in (window.positions, positions))
    return then < now
