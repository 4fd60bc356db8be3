"""What every sampler shares: the walk down a grid of noise levels, one call of the denoiser, and the seam for previews."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

from autotuner.diffusion.blas import mx
from autotuner.errors import ConfigurationError

DenoiseFn = Callable[[mx.array, mx.array], mx.array]
"""D(x, sigma): the expected image of the noisy ``x`` (batch, ...), whose noise has deviation ``sigma`` (batch,)."""


class Step(NamedTuple):
    """What a sampler shows after each step."""

    number: int
    """Of the step, from 1 to ``steps``."""
    steps: int
    sigma: float
    """Noise level before the step."""
    following: float
    """Noise level after it."""
    x: mx.array
    """The sample after the step, evaluated."""
    denoised: mx.array
    """What the denoiser made of the sample before the step: the preview."""


Watch = Callable[[Step], None]


def unwatched(step: Step) -> None:
    """Look at nothing."""


class Solver(Protocol):
    """From noise ``x`` of deviation ``sigmas[0]`` to a sample at ``sigmas[-1]``, which is 0 for an image.

    ``sigmas`` falls strictly and ends at 0 or above, else ConfigurationError. One evaluation of ``denoise`` for each step
    unless the solver says otherwise. ``watch`` is called after each step. Options have defaults and are given by keyword.
    """

    def __call__(self, denoise: DenoiseFn, x: mx.array, sigmas: Sequence[float], *, watch: Watch = ...) -> mx.array:
        """Solve dx/dsigma = (x - D(x, sigma)) / sigma."""
        ...


def walk(sigmas: Sequence[float]) -> Iterator[tuple[int, float, float]]:
    """Index, level and following level of each step; ConfigurationError unless the levels fall and end at 0 or above."""
    levels = [float(sigma) for sigma in sigmas]
    falls = all(a > b for a, b in pairwise(levels))  # False for NaN too
    if len(levels) < 2 or not falls or not levels[-1] >= 0 or math.isinf(levels[0]):
        raise ConfigurationError(f"noise levels {levels}: allowed are two or more, each below the one before, the last >= 0")
    return ((index, a, b) for index, (a, b) in enumerate(pairwise(levels)))


def order_of(index: int, steps: int, order: int, lower_order_final: bool) -> int:
    """Order that a multistep method can have at a step: it grows as outputs come in, and may fall again at the end."""
    return min(order, index + 1, steps - index if lower_order_final else order)


def at(denoise: DenoiseFn, x: mx.array, sigma: float) -> mx.array:
    """The denoiser at one level for the whole batch; the level stays float32 where the sample is in half precision."""
    return denoise(x, mx.full((x.shape[0],), sigma, dtype=mx.float64 if x.dtype == mx.float64 else mx.float32))
