"""The hand-written policy: memory first, then heat, then the order of a training run. What the learned one must beat."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from autotuner.controller.actions import HOLD, action_index
from autotuner.controller.observation import FEATURES
from autotuner.controller.policy import Choice
from autotuner.controller.window import RunWindow

COARSE_UNTIL = 0.06
"""Share of the budget in which resolution steps down; later it steps back up."""
FULL_FROM = 0.12
DISTILL_FROM = 0.70
DISTILL_SPAN = 0.30
"""Stage k of n starts at DISTILL_FROM + k/n of this share."""
HIGH_MEMORY = 0.92
FREE_MEMORY = 0.80
HEAVY_HEAT = 0.5
COSTLY_EVALUATIONS = 0.4
"""Evaluation share times four (see observation): a tenth of the time."""

See = Callable[[str], float]
Wish = tuple[str, int, str]
"""Knob, step and reason."""
_AT = {name: i for i, name in enumerate(FEATURES)}


class Rules:
    """AIMD on micro-batch, heat step-down on pace, a coarse start, distillation by the clock, cheap previews."""

    name = "rules"

    def choose(self, observation: Sequence[float], mask: Sequence[bool], window: RunWindow) -> Choice:
        """The first rule that has something to say and is allowed to."""

        def see(feature: str) -> float:
            return observation[_AT[feature]]

        for knob, step, reason in _wishes(see):
            action = action_index(knob, step)
            if mask[action]:
                return Choice(action, reason)
        return Choice(HOLD, "hold")


def _wishes(see: See) -> Iterator[Wish]:
    if see("memory_used") > HIGH_MEMORY or see("pressure") > 0:
        reason = "memory_pressure" if see("pressure") > 0 else "memory_high"
        yield from (("cache_limit", -1, reason), ("micro_batch", -1, reason), ("resolution", -1, reason))
    if see("heat") >= HEAVY_HEAT:
        yield "pace", -1, "heat"
    elif see("heat_known") and see("heat_share") == 0 and see("heat") < HEAVY_HEAT:
        yield "pace", 1, "cooled"
    yield from _run_order(see)
    if see("memory_known") and 0 < see("memory_micro_batch_up") < FREE_MEMORY and see("micro_batch.since_change") >= 0.5:
        yield "micro_batch", 1, "memory_free"
    if see("evaluation_share") > COSTLY_EVALUATIONS:
        yield "sampling_steps", -1, "previews_cost"


def _run_order(see: See) -> Iterator[Wish]:
    if not see("budget_known"):
        return
    used = see("budget_used")
    if used < COARSE_UNTIL:
        yield "resolution", -1, "coarse_first"
    if used >= FULL_FROM:
        yield "resolution", 1, "full_resolution"
    if used >= DISTILL_FROM + DISTILL_SPAN * see("distill.position"):
        yield "distill", 1, "time_to_distill"
