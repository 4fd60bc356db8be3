"""Damped Gauss-Newton on the paired error of a sampler (Levenberg 1944; Marquardt 1963, Eq. 28-31).

A sampler has tens of numbers and each pair of noise and end gives hundreds of residuals: least squares of this shape converge
in about ten iterations where a gradient method needs hundreds. Derivatives are forward differences, so no backward pass, no
memory beyond sampling, and no requirement on the network: quantised, compiled or guided, it is only called. A number that
enters late is cheap, because all evaluations before it are known; those of the image's own row cost none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from autotuner.diffusion.blas import mx
from autotuner.diffusion.sample import CHUNK, Network
from autotuner.diffusion.schedules.forms import Form
from autotuner.diffusion.schedules.pairs import Pairs
from autotuner.diffusion.schedules.sampling import solve, told
from autotuner.diffusion.solvers.generalised import Table, follow
from autotuner.errors import ConfigurationError

STEP = 1e-3
"""Of the differences: above float32's rounding through a network; at 0.01 curved paths end descents a third too high."""
DAMPINGS = (0.1, 1.0, 10.0, 100.0)
"""Multiples of the last damping that are tried."""
FARTHEST = 1.0
"""Largest change of one number in one iteration."""

Look = Callable[[np.ndarray], np.ndarray]
"""What of float32 images (count, height, width, channels) is compared, as (count, values)."""


class Iterate(NamedTuple):
    """A point of the descent."""

    theta: np.ndarray
    damping: float
    loss: float
    """Mean square residual on the batch that it was found with."""
    moved: bool
    """False where no damping brought anything."""


class Normal(NamedTuple):
    """The normal equations, per residual."""

    matrix: np.ndarray
    gradient: np.ndarray
    loss: float


def pixels(images: np.ndarray) -> np.ndarray:
    """Every value as it is."""
    return images.reshape(len(images), -1).astype(np.float64)


def iterate(denoiser: Network, pairs: Pairs, form: Form, theta: np.ndarray, damping: float, look: Look = pixels) -> Iterate:
    """One iteration: the best of the steps that DAMPINGS give, or none where all are worse on these pairs."""
    normal = equations(denoiser, pairs, form, theta, look)
    tried = [_try(denoiser, pairs, form, theta, normal, damping * factor, look) for factor in DAMPINGS]
    best = min(tried, key=lambda each: each.loss)
    return best if best.loss < normal.loss else Iterate(theta, damping * max(DAMPINGS), normal.loss, moved=False)


def equations(denoiser: Network, pairs: Pairs, form: Form, theta: np.ndarray, look: Look = pixels) -> Normal:
    """J^T J, J^T r and r^T r over the number of residuals; J by forward differences."""
    base = form.table(theta)
    moved = [form.table(theta + STEP * direction) for direction in np.eye(form.size)]
    matrix, gradient, loss, count = np.zeros((form.size, form.size)), np.zeros(form.size), 0.0, 0
    for start in range(0, len(pairs), CHUNK):
        some = slice(start, start + CHUNK)
        residual, jacobian = _differences(denoiser, pairs, some, base, moved, look)
        matrix, gradient = matrix + jacobian @ jacobian.T, gradient + jacobian @ residual
        loss, count = loss + float(residual @ residual), count + len(residual)
    return Normal(matrix / count, gradient / count, loss / count)


def first_difference(a: Table, b: Table) -> int:
    """The first evaluation whose input or level differs; their number where only the image's row does."""
    same = (a.levels == b.levels) & (a.rows[:-1] == b.rows[:-1]).all(axis=1)
    return int(np.argmin(np.append(same, False)))


def _differences(
    denoiser: Network, pairs: Pairs, some: slice, base: Table, moved: list[Table], look: Look
) -> tuple[np.ndarray, np.ndarray]:
    denoise, x = told(denoiser, pairs.labels[some]), mx.array(pairs.noise[some]) * base.sigma_max
    outputs: list[mx.array] = []
    found = look(np.array(follow(denoise, x, base, watch=lambda step: outputs.append(step.denoised))))
    columns = []
    for table in moved:
        known = outputs[: first_difference(base, table)]
        columns.append(((look(np.array(follow(denoise, x, table, outputs=known))) - found) / STEP).ravel())
    return (found - look(pairs.ends[some])).ravel(), np.stack(columns)


def _try(denoiser: Network, pairs: Pairs, form: Form, theta: np.ndarray, normal: Normal, damping: float, look: Look) -> Iterate:
    diagonal = np.diag(normal.matrix)
    damped = normal.matrix + np.diag(damping * diagonal + 1e-12 * diagonal.sum())
    change = -np.linalg.solve(damped, normal.gradient)
    change *= min(1.0, FARTHEST / np.abs(change).max())
    try:
        found = look(solve(denoiser, pairs.labels, pairs.noise, form.table(theta + change)))
    except ConfigurationError:  # a grid that does not fall
        return Iterate(theta, damping, np.inf, moved=False)
    loss = float(np.mean(np.square(found - look(pairs.ends))))
    return Iterate(theta + change, damping, loss if np.isfinite(loss) else np.inf, moved=True)
