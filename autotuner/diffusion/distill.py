"""Multistep consistency distillation (Heek, Hoogeboom and Salimans 2024), in the coordinates x = y + sigma n.

Time runs from 0 (clean) to 1 (sigma_max) along the rho schedule and is cut into S segments, one per student step.
The student learns, from any time t in a segment, where the teacher's path leaves that segment; with a large S this is
the diffusion loss. S, the teacher's steps per segment and the target are arrays: all of them change without a retrace.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.nn as nn

from autotuner.diffusion.blas import mx
from autotuner.diffusion.noise import sigma_of_time
from autotuner.diffusion.precondition import weight

WEIGHT_CAP = 50.0
"""Largest loss weight: lambda(sigma) grows without bound where the noise vanishes."""


@dataclass(frozen=True)
class Times:
    """Noise levels of one distillation batch, each of shape (batch,)."""

    sigma_t: mx.array
    """Where the student starts."""
    sigma_s: mx.array
    """One teacher step further down."""
    sigma_step: mx.array
    """The end of the segment."""


def times(step: mx.array, inside: mx.array, student_steps: mx.array, teacher_steps: mx.array, low: float, high: float) -> Times:
    """Noise levels for uniform draws ``step`` and ``inside`` in [0, 1): segment and position in it (Algorithm 1).

    ``student_steps`` is S, ``teacher_steps`` the number of teacher steps per segment (the paper's n_seg).
    """
    segment = mx.minimum(mx.floor(step * student_steps), student_steps - 1)
    position = mx.minimum(mx.floor(inside * teacher_steps), teacher_steps - 1) + 1
    total = student_steps * teacher_steps
    ticks = segment * teacher_steps + position
    return Times(
        sigma_of_time(ticks / total, low, high),
        sigma_of_time((ticks - 1) / total, low, high),
        sigma_of_time(segment / student_steps, low, high),
    )


def ddim(denoised: mx.array, z: mx.array, sigma_from: mx.array, sigma_to: mx.array) -> mx.array:
    """One DDIM step from ``sigma_from`` to ``sigma_to`` (nothing happens when both are 0)."""
    ratio = mx.where(sigma_from > 0, sigma_to / mx.maximum(sigma_from, 1e-8), 1.0).reshape(-1, 1, 1, 1)
    return denoised + ratio * (z - denoised)


def inverse_ddim(reached: mx.array, z: mx.array, sigma_from: mx.array, sigma_to: mx.array) -> mx.array:
    """The denoised image for which one DDIM step from ``z`` lands on ``reached``."""
    ratio = (sigma_to / sigma_from).reshape(-1, 1, 1, 1)
    return (reached - ratio * z) / (1 - ratio)


def target(student: nn.Module, clean: mx.array, z: mx.array, at: Times, labels: mx.array) -> mx.array:
    """What the student should answer at (z, sigma_t): one step along ``clean``, the rest by the student itself."""
    z_s = ddim(clean, z, at.sigma_t, at.sigma_s)
    ahead = student(z_s, mx.maximum(at.sigma_s, 1e-3), labels)
    reached = ddim(ahead, z_s, at.sigma_s, at.sigma_step)
    return inverse_ddim(reached, z, at.sigma_t, at.sigma_step)


def consistency_errors(
    student: nn.Module,
    teacher: nn.Module,
    images: mx.array,
    labels: mx.array,
    noise: mx.array,
    at: Times,
    from_teacher: mx.array,
) -> mx.array:
    """Loss of each image, shape (batch,): 1 in ``from_teacher`` distils the teacher, 0 trains on the images themselves."""
    z = images + at.sigma_t.reshape(-1, 1, 1, 1) * noise
    share = from_teacher.reshape(-1, 1, 1, 1)
    clean = share * teacher(z, at.sigma_t, labels) + (1 - share) * images
    aim = mx.stop_gradient(target(student, clean, z, at, labels))
    error = mx.mean(mx.square(student(z, at.sigma_t, labels) - aim), axis=(1, 2, 3))
    return mx.minimum(weight(at.sigma_t, student.sigma_data), WEIGHT_CAP) * error


def teacher_steps(progress: float, first: int = 2, last: int = 16) -> int:
    """Teacher steps per segment, annealed exponentially over the stage; annealing beats every fixed value (Table 4)."""
    return round(first * (last / first) ** min(max(progress, 0.0), 1.0))
