"""Where a distillation step starts and ends, in the coordinates x = y + sigma n.

Time runs from 0 (clean) to 1 (sigma_max) on a clock and is cut into S segments, one for each step of the student; a segment is
cut into n teacher steps (Heek, Hoogeboom and Salimans 2024, Algorithm 1). S, n and the draws are arrays: all of them change
without a retrace.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from autotuner.diffusion.blas import mx
from autotuner.diffusion.noise import sigma_of_time

Clock = Callable[[mx.array, float, float], mx.array]
"""Noise level of a time in [0, 1], for sigma_min and sigma_max: 0 at 0, sigma_max at 1."""


def rho(time: mx.array, sigma_min: float, sigma_max: float) -> mx.array:
    """The rho = 7 curve (Karras et al. 2022, Eq. 5), which leaves most segments to high noise."""
    return sigma_of_time(time, sigma_min, sigma_max)


def cosine(time: mx.array, sigma_min: float, sigma_max: float) -> mx.array:
    """tan(pi u / 2) for u from 0 to where it is sigma_max: alpha = cos(pi u / 2) (Salimans and Ho 2022, Section 2)."""
    return mx.tan(time * float(np.arctan(sigma_max)))


CLOCKS: dict[str, Clock] = {"cosine": cosine, "rho": rho}


@dataclass(frozen=True)
class Times:
    """Noise levels of one distillation batch, each of shape (batch,)."""

    sigma_t: mx.array
    """Where the student starts."""
    sigma_s: mx.array
    """One teacher step further down."""
    sigma_step: mx.array
    """The end of the segment."""


def times(
    step: mx.array,
    inside: mx.array,
    student_steps: mx.array,
    teacher_steps: mx.array,
    low: float,
    high: float,
    clock: Clock = cosine,
) -> Times:
    """Noise levels for uniform draws ``step`` and ``inside`` in [0, 1): segment and position in it (Algorithm 1).

    ``student_steps`` is S, ``teacher_steps`` the number of teacher steps in a segment (the paper's n_seg).
    """
    segment = mx.minimum(mx.floor(step * student_steps), student_steps - 1)
    position = mx.minimum(mx.floor(inside * teacher_steps), teacher_steps - 1) + 1
    total = student_steps * teacher_steps
    ticks = segment * teacher_steps + position
    return Times(
        clock(ticks / total, low, high),
        clock((ticks - 1) / total, low, high),
        clock(segment / student_steps, low, high),
    )


def ends(steps: int, sigma_min: float, sigma_max: float, clock: Clock = cosine) -> np.ndarray:
    """The ends of a student's segments, downwards: the grid that it samples on, shape (steps + 1,)."""
    return np.array(clock(mx.array(np.arange(steps, -1, -1) / steps), sigma_min, sigma_max))


def ddim(denoised: mx.array, z: mx.array, sigma_from: mx.array, sigma_to: mx.array) -> mx.array:
    """One DDIM step from ``sigma_from`` to ``sigma_to`` (nothing happens when both are 0)."""
    ratio = mx.where(sigma_from > 0, sigma_to / mx.maximum(sigma_from, 1e-8), 1.0).reshape(-1, 1, 1, 1)
    return denoised + ratio * (z - denoised)


def addim(denoised: mx.array, z: mx.array, sigma_from: mx.array, sigma_to: mx.array, variance: mx.array) -> mx.array:
    """A DDIM step whose noise makes up for what an averaged answer lacks in variance (Heek et al. 2024: adjusted DDIM).

    ``variance`` (batch,) is that of the answer's error, for each pixel: sigma_to^2 becomes sigma_to^2 + (1 - sigma_to /
    sigma_from)^2 variance d / |e|^2, with e the predicted unit noise of d pixels. 0 gives ``ddim``, and so does a step to no
    noise at all, which must end on the answer.
    """
    ratio = (sigma_to / sigma_from).reshape(-1, 1, 1, 1)
    unit = (z - denoised) / sigma_from.reshape(-1, 1, 1, 1)
    size = mx.mean(mx.square(unit), axis=(1, 2, 3), keepdims=True)
    raised = (ratio > 0) * mx.square(1 - ratio) * variance.reshape(-1, 1, 1, 1) / mx.maximum(size, 1e-8)
    return denoised + mx.sqrt(mx.square(sigma_to).reshape(-1, 1, 1, 1) + raised) * unit


def inverse_ddim(reached: mx.array, z: mx.array, sigma_from: mx.array, sigma_to: mx.array) -> mx.array:
    """The denoised image for which one DDIM step from ``z`` lands on ``reached``."""
    ratio = (sigma_to / sigma_from).reshape(-1, 1, 1, 1)
    return (reached - ratio * z) / (1 - ratio)


def teacher_steps(progress: float, student_steps: int, gap: tuple[int, int] = (16, 64)) -> int:
    """Teacher steps in each of S segments: N / S, where N grows exponentially over ``gap`` as a stage goes on.

    Few and long teacher steps learn fast, many are exact: growing beats every fixed N (Heek et al. 2024, Table 4).
    """
    first, last = gap
    total = first * (last / first) ** min(max(progress, 0.0), 1.0)
    return max(1, round(total / student_steps))
