"""A time that pictures may take on this machine, and the sampler that makes the best of it."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from autotuner.diffusion.blas import mx
from autotuner.diffusion.sample import CHUNK, Network
from autotuner.diffusion.schedules.artefact import Saved
from autotuner.diffusion.schedules.sampling import told
from autotuner.errors import ConfigurationError

REPEATS = 5
UNITS = {"ms": 1e-3, "s": 1.0, "min": 60.0}
DURATION = re.compile(rf"\s*(\d+(?:\.\d*)?|\.\d+)\s*({'|'.join(UNITS)})\s*")


@dataclass(frozen=True)
class Pace:
    """How fast this machine evaluates one network."""

    count: int
    """Images that are asked for at once."""
    seconds: float
    """Of one evaluation of all of them, the median of REPEATS."""

    def of(self, evaluations: int) -> float:
        """Predicted seconds of all images with a sampler of so many evaluations."""
        return evaluations * self.seconds


def seconds_of(text: str) -> float:
    """A duration such as 200ms, 1.5s or 2min in seconds; raises ConfigurationError."""
    found = DURATION.fullmatch(text)
    if found is None or not float(found[1]) > 0:
        raise ConfigurationError(f"duration {text!r}; allowed is a number above 0 with {', '.join(UNITS)}, as in 200ms")
    return float(found[1]) * UNITS[found[2]]


def measure(denoiser: Network, shape: tuple[int, int, int], count: int, clock: Callable[[], float] = time.perf_counter) -> Pace:
    """Time one evaluation of ``count`` images in the batches that sampling uses, evaluated before the clock is read."""
    sizes = {size: count // size for size in (min(count, CHUNK),)}
    if count % CHUNK and count > CHUNK:
        sizes[count % CHUNK] = 1
    return Pace(count, sum(times * _median(denoiser, shape, size, clock) for size, times in sizes.items()))


def choose(saved: Sequence[Saved], pace: Pace, within: float) -> Saved:
    """The schedule of least paired error among those predicted to take at most ``within`` seconds.

    ConfigurationError where none does, with the least time that would do, and where there is none at all.
    """
    if not saved:
        raise ConfigurationError(
            f"no validated schedule of this network to choose from within {within:g} s; autotuner schedule makes them"
        )
    fitting = [each for each in saved if pace.of(each.table.evaluations) <= within]
    if not fitting:
        least = min(each.table.evaluations for each in saved)
        raise ConfigurationError(
            f"{within:g} s for {pace.count} images; the least on this machine is {pace.of(least):.3g} s, with "
            f"{least} evaluations of {pace.seconds:.3g} s"
        )
    return min(fitting, key=lambda each: each.error.value)


def _median(denoiser: Network, shape: tuple[int, int, int], size: int, clock: Callable[[], float]) -> float:
    denoise = told(denoiser, np.zeros(size, np.int32))
    x, sigma = mx.ones((size, *shape)), mx.ones((size,))
    mx.eval(denoise(x, sigma))  # the first one compiles and fills caches

    def once() -> float:
        began = clock()
        mx.eval(denoise(x, sigma))
        return clock() - began

    return statistics.median(once() for _ in range(REPEATS))
