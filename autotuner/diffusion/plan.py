"""The script's own plan as pure functions of the budget used: learning rates and, unless guided, the distillation stage."""

from __future__ import annotations

import math

WARM_UP = 0.02
FINAL = 0.02
"""Learning rate at the end, as a share of its peak."""
TEACHER_SHARE = 0.70
"""Share of the budget after which the first student is distilled."""
RESTART = 0.3
"""Peak of the second cycle, for a teacher that goes on beyond its share because no student was begun."""
RISE = 0.1
"""Share of the second cycle in which its learning rate rises."""
STAGE_RISE = 0.2
"""Share of a distillation stage in which its learning rate rises."""
DOUBLING_UPDATES = 80
"""Optimizer steps over which a student's teacher steps may double. In stages of 75 updates a growth by four in all made two of
five students of four steps diverge at a rate of 1e-3, in stages of 165 none; constant teacher steps, none."""
FULL_RATE_STEPS = 4
"""Sampling steps from which on a student learns at its full rate."""
RAMP_STEPS = 50
"""Optimizer steps over which a change of lr_scale is spread."""


def planned_stage(budget_used: float, stages: int, teacher_share: float = TEACHER_SHARE) -> int:
    """Distillation stage that the plan calls for: 0 until ``teacher_share``, then ``stages`` equal parts of what is left."""
    if stages == 0 or budget_used < teacher_share or teacher_share == 1:
        return 0
    part = (budget_used - teacher_share) / (1 - teacher_share)
    return 1 + min(int(part * stages), stages - 1)


def stage_begins(stage: int, stages: int, teacher_share: float = TEACHER_SHARE) -> float:
    """Share of the budget at which ``planned_stage`` enters a stage from 1 on; the one after the last is the end."""
    return teacher_share + (1 - teacher_share) * (stage - 1) / max(stages, 1)


def teacher_rate(budget_used: float, stages: int, warm_up: float = WARM_UP, teacher_share: float = TEACHER_SHARE) -> float:
    """Factor on the peak learning rate: linear warm-up, then cosine decay over the teacher's share of the budget."""
    share = teacher_share if stages else 1.0
    progress = min(budget_used / share, 1.0) if share else 1.0
    decay = FINAL + (1 - FINAL) * 0.5 * (1 + math.cos(math.pi * progress))
    return (min(1.0, (progress + 1e-3) / warm_up) if warm_up else 1.0) * decay


def second_cycle(budget_used: float, teacher_share: float = TEACHER_SHARE) -> float:
    """Factor for a teacher that still learns after its share, because no student was begun: 0 before.

    A warm restart (Loshchilov and Hutter 2017) that rises to RESTART and decays with the budget: at FINAL the teacher would
    waste what is left of it.
    """
    progress = (budget_used - teacher_share) / (1 - teacher_share) if teacher_share < 1 else 0.0
    if progress <= 0:
        return 0.0
    return RESTART * min(1.0, progress / RISE) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def risen(step: int, warm_up_steps: int | None) -> float:
    """Factor of a warm-up that is counted in steps: 1 from step ``warm_up_steps`` on."""
    return min(1.0, (step + 1) / warm_up_steps) if warm_up_steps else 1.0


def student_rate(stage_progress: float) -> float:
    """Factor on the student's learning rate in each stage: it rises over STAGE_RISE of it, then falls linearly to FINAL.

    The optimizer goes on from the stage before, whose gradients were smaller: at the full rate its first steps would be far
    too long until the second moments have grown.
    """
    progress = min(max(stage_progress, 0.0), 1.0)
    return max(min(progress / STAGE_RISE, 1.0) * (1 - progress), FINAL)


def fewer_steps(steps: int) -> float:
    """Factor on the rate of a student of ``steps`` sampling steps: in proportion below FULL_RATE_STEPS.

    Each step then has a larger part of the path to learn at once, and the gradients differ more from batch to batch: at one
    step the rate that is best for four makes the student worse.
    """
    return min(1.0, steps / FULL_RATE_STEPS)


def ramped(current: float, target: float, step_factor: float = 2.0 ** (1 / RAMP_STEPS)) -> float:
    """``current`` moved one optimizer step towards ``target``: a factor of two takes RAMP_STEPS steps."""
    return min(target, current * step_factor) if target > current else max(target, current / step_factor)
