"""The script's own plan as pure functions of the budget used: learning rates and, unless guided, the distillation stage."""

from __future__ import annotations

import math

WARM_UP = 0.02
FINAL = 0.02
"""Learning rate at the end, as a share of its peak."""
TEACHER_SHARE = 0.70
"""Share of the budget after which the first student is distilled."""
RAMP_STEPS = 50
"""Optimizer steps over which a change of lr_scale is spread."""


def planned_stage(budget_used: float, stages: int) -> int:
    """Distillation stage that the plan calls for: 0 until TEACHER_SHARE, then ``stages`` equal parts of what is left."""
    if stages == 0 or budget_used < TEACHER_SHARE:
        return 0
    part = (budget_used - TEACHER_SHARE) / (1 - TEACHER_SHARE)
    return 1 + min(int(part * stages), stages - 1)


def teacher_rate(budget_used: float, stages: int) -> float:
    """Factor on the peak learning rate: linear warm-up, then cosine decay over the teacher's share of the budget."""
    share = TEACHER_SHARE if stages else 1.0
    progress = min(budget_used / share, 1.0)
    decay = FINAL + (1 - FINAL) * 0.5 * (1 + math.cos(math.pi * progress))
    return min(1.0, (progress + 1e-3) / WARM_UP) * decay


def student_rate(stage_progress: float) -> float:
    """Factor on the student's learning rate: linear to FINAL within each stage."""
    return max(1 - min(max(stage_progress, 0.0), 1.0), FINAL)


def ramped(current: float, target: float, step_factor: float = 2.0 ** (1 / RAMP_STEPS)) -> float:
    """``current`` moved one optimizer step towards ``target``: a factor of two takes RAMP_STEPS steps."""
    return min(target, current * step_factor) if target > current else max(target, current / step_factor)
