"""What a student's answer should be: one general form, whose settings are diffusion training and three distillations.

A step draws a segment and a place t in it. A first answer moves from t one teacher step down, to s; a second one from s to the
segment's end; the student is to reach that end from t at once. Who gives the two answers makes the method:

==============  ==========  ==========  =====================================================================
objective       first       second      is
==============  ==========  ==========  =====================================================================
``train``       the image   student     multistep consistency training; one teacher step a segment: diffusion
``distil``      teacher     student     multistep consistency distillation (Heek et al. 2024, Algorithm 1)
``progressive`` teacher     teacher     progressive distillation (Salimans and Ho 2022, Algorithm 2)
==============  ==========  ==========  =====================================================================

``train`` needs no second network. In ``distil`` the array ``from_teacher`` mixes both first answers, image by image.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.nn as nn

from autotuner.diffusion.blas import mx
from autotuner.diffusion.distillation.segments import Times, addim, ddim, inverse_ddim
from autotuner.diffusion.precondition import weight

OBJECTIVES = ("distil", "train", "progressive")
WEIGHT_CAP = 50.0
"""Largest ``edm`` weight: lambda(sigma) grows without bound where the noise vanishes."""
LEAST_SIGMA = 1e-3
"""What a denoiser is told where a segment ends at no noise at all; its answer there is not used."""
HUBER = 0.00054
"""c / sqrt(d) of the pseudo-Huber distance (Song and Dhariwal 2024, Section 3.3)."""

Answer = Callable[[mx.array, mx.array], mx.array]
"""D(z, sigma) of a batch whose labels are settled."""


def edm(sigma: mx.array, sigma_data: float) -> mx.array:
    """(sigma^2 + sigma_data^2) / (sigma sigma_data)^2, at most WEIGHT_CAP (Karras et al. 2022, Eq. 8)."""
    return mx.minimum(weight(sigma, sigma_data), WEIGHT_CAP)


def truncated_snr(sigma: mx.array, sigma_data: float) -> mx.array:
    """max(SNR, 1) with SNR = 1 / sigma^2 (Salimans and Ho 2022, Section 4)."""
    return mx.maximum(1 / mx.square(sigma), 1.0)


def snr_plus_one(sigma: mx.array, sigma_data: float) -> mx.array:
    """SNR + 1: the squared error of v (Salimans and Ho 2022, Section 4)."""
    return 1 / mx.square(sigma) + 1


WEIGHTS: dict[str, Callable[[mx.array, float], mx.array]] = {
    "edm": edm,
    "truncated_snr": truncated_snr,
    "snr_plus_one": snr_plus_one,
}


def squared(error: mx.array) -> mx.array:
    """The weighted mean squared error of each image as it is."""
    return error


def pseudo_huber(error: mx.array) -> mx.array:
    """sqrt(|e|^2 + c^2) - c over sqrt(d): large errors count once, not twice (Song and Dhariwal 2024, Section 3.3)."""
    return mx.sqrt(error + HUBER**2) - HUBER


DISTANCES: dict[str, Callable[[mx.array], mx.array]] = {"squared": squared, "pseudo_huber": pseudo_huber}


def target(first: mx.array, second: Answer, z: mx.array, at: Times, variance: mx.array | None = None) -> mx.array:
    """What the student should answer at (z, sigma_t), shape of ``z``: ``first`` down to sigma_s, ``second`` to the end.

    ``variance`` (batch,) is that of the first answer's error, for aDDIM; None: plain DDIM.
    """
    step = ddim(first, z, at.sigma_t, at.sigma_s) if variance is None else addim(first, z, at.sigma_t, at.sigma_s, variance)
    ahead = second(step, mx.maximum(at.sigma_s, LEAST_SIGMA))
    return inverse_ddim(ddim(ahead, step, at.sigma_s, at.sigma_step), z, at.sigma_t, at.sigma_step)


def segment_errors(
    student: nn.Module,
    teacher: Callable[..., mx.array] | None,
    objective: str,
    images: mx.array,
    labels: mx.array,
    noise: mx.array,
    at: Times,
    from_teacher: mx.array,
    eta: mx.array,
    weighting: str = "edm",
    distance: str = "squared",
) -> mx.array:
    """Loss of each image, shape (batch,), for an objective of the table above.

    ``teacher`` is a D(x, sigma, label), guided or not; None will do for ``train``. ``from_teacher`` and ``eta`` (batch,) are
    read by ``distil``: the share of the teacher in the first answer, and of its squared error that aDDIM makes up for
    (0.75 in Heek et al. 2024, Section 4.2; 0 is plain DDIM).
    """
    z = images + at.sigma_t.reshape(-1, 1, 1, 1) * noise
    aim = mx.stop_gradient(_aim(student, teacher, objective, images, labels, z, at, from_teacher, eta))
    error = mx.mean(mx.square(student(z, at.sigma_t, labels) - aim), axis=(1, 2, 3))
    return DISTANCES[distance](WEIGHTS[weighting](at.sigma_t, student.sigma_data) * error)


def _aim(
    student: nn.Module,
    teacher: Callable[..., mx.array] | None,
    objective: str,
    images: mx.array,
    labels: mx.array,
    z: mx.array,
    at: Times,
    from_teacher: mx.array,
    eta: mx.array,
) -> mx.array:
    def of(network: Callable[..., mx.array]) -> Answer:
        return lambda x, sigma: network(x, sigma, labels)

    if objective == "train" or teacher is None:
        return target(images, of(student), z, at)
    told = teacher(z, at.sigma_t, labels)
    if objective == "progressive":
        return target(told, of(teacher), z, at)
    share = from_teacher.reshape(-1, 1, 1, 1)
    variance = eta * from_teacher * mx.mean(mx.square(told - images), axis=(1, 2, 3))
    return target(share * told + (1 - share) * images, of(student), z, at, variance)
