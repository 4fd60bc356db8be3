"""What the configuration says of one moment of a training: learning rate, distillation stage, teacher steps. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from autotuner.diffusion import plan
from autotuner.diffusion.config import TrainerConfig
from autotuner.diffusion.distillation.gate import Gate, Verdict, judge
from autotuner.diffusion.distillation.segments import teacher_steps
from autotuner.diffusion.evaluation import Evaluated
from autotuner.diffusion.live import KnobChange
from autotuner.diffusion.multires import Multires


@dataclass(frozen=True)
class Course:
    """Functions of the budget used, for one configuration."""

    config: TrainerConfig

    @property
    def stages(self) -> int:
        """Distillation stages."""
        return len(self.config.student_ladder)

    @cached_property
    def _views(self) -> Multires:
        return self.config.planned_views

    @cached_property
    def gate(self) -> Gate:
        """What ends a stage."""
        return self.config.bounds

    def verdict(self, stage: int, changes: Sequence[KnobChange], evaluations: Sequence[Evaluated]) -> Verdict:
        """What the gate says of a stage, from the evaluations since it began."""
        since = self.began(changes)
        gaps = [row.gap for row in evaluations if row.stage == stage and row.step >= since and not math.isnan(row.gap)]
        return judge(self.gate, gaps)

    @staticmethod
    def began(changes: Sequence[KnobChange]) -> int:
        """The optimizer step at which the present stage began."""
        return max((change.step for change in changes if change.knob == "distill"), default=0)

    def stage(self, budget_used: float, now: int, move: int) -> tuple[int, str]:
        """The stage to be in, and whether ``gate`` or ``plan`` says so; ``move`` is the gate's verdict on stage ``now``.

        Under ``gated`` no stage ends later than its equal part does.
        """
        planned = plan.planned_stage(budget_used, self.stages, self.config.teacher_share)
        if self.config.stage_rule == "equal" or not planned or not now:
            return planned, "plan"
        wanted = max(min(max(now + move, 1), self.stages), planned)
        return wanted, "gate" if wanted == now + move else "plan"

    def stage_progress(self, budget_used: float, stage: int, entered: float, *, gated: bool) -> float:
        """0 at the beginning of a stage, 1 when its part of the budget is spent; a gated one has all until its end."""
        share = self.config.teacher_share
        part = (1 - share) / max(self.stages, 1)
        if gated and stage and self.config.stage_rule == "gated":
            part = max(part, plan.stage_begins(stage + 1, self.stages, share) - entered)
        return (budget_used - entered) / part if part > 0 else 1.0

    def teacher_steps(self, stage: int, progress: float, updates: int) -> int:
        """Teacher steps in each segment of the student, ``updates`` optimizer steps into its stage; 1 while there is none.

        They grow with the stage's part of the budget, but double no faster than in plan.DOUBLING_UPDATES: a student is its own
        teacher for all but the first of them, and one that has not caught up passes on an error that grows with their number.
        """
        if not stage:
            return 1
        first, last = self.config.teacher_gap
        doublings = math.log2(last / first)
        if doublings:
            progress = min(progress, updates / (plan.DOUBLING_UPDATES * doublings))
        return teacher_steps(progress, self.config.student_ladder[stage - 1], (first, last))

    def learning_rate(self, budget_used: float, step: int, stage: int, progress: float) -> float:
        """Of whoever learns, without the knob."""
        config = self.config
        if stage:
            peak = config.student_learning_rate * plan.fewer_steps(config.student_ladder[stage - 1])
            return peak * plan.student_rate(progress)
        warm_up, share = 0.0 if config.warm_up_steps else config.warm_up, config.teacher_share
        rate = plan.teacher_rate(budget_used, self.stages, warm_up, share) * self._views.rate(budget_used)
        if self.stages:
            rate = max(rate, plan.second_cycle(budget_used, share))
        return config.learning_rate * rate * plan.risen(step, config.warm_up_steps)
