"""Level 1: the grid that one look at a network's own paths finds, by dynamic programming; seconds, no gradients.

After GITS (Chen et al. 2024, Section 3.3): paths are walked once in many small steps; what one long step from level i to level
j would have missed is then known for all pairs without another evaluation, and the cheapest way in K steps is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autotuner.diffusion.blas import mx
from autotuner.diffusion.sample import Network
from autotuner.diffusion.schedules.grids import karras
from autotuner.diffusion.solvers import Step, dpmpp_2m
from autotuner.errors import ConfigurationError

POINTS = 32
"""Small steps of a survey, and so the evaluations that it costs for each noise."""
NOISES = 16
ORDERS = (1, 2)
"""Of the long step: 1 is Euler's, as published; 2 suits multistep solvers, which see the slope of D as well."""


@dataclass(frozen=True, eq=False)
class Survey:
    """What was seen of a network's paths; ``grid`` is free from here on, for any number of steps."""

    sigmas: np.ndarray
    """Levels of the small steps, falling, the last 0; shape (POINTS + 1,)."""
    costs: dict[int, np.ndarray]
    """For each of ORDERS, at [i, j]: root mean square error at the path's end that one step from level i to j > i causes."""

    def grid(self, steps: int, order: int = 2) -> np.ndarray:
        """Levels of the cheapest way in ``steps`` steps of ``order``, and 0; shape (steps + 1,).

        ConfigurationError for more steps than were surveyed, or another order.
        """
        if not 1 <= steps < len(self.sigmas) or order not in ORDERS:
            raise ConfigurationError(
                f"{steps} steps of order {order}; this survey allows 1 to {len(self.sigmas) - 1}, of orders {ORDERS}"
            )
        return self.sigmas[cheapest(self.costs[order], steps)]


def refine(
    denoiser: Network,
    labels: np.ndarray,
    noise: np.ndarray,
    steps: int,
    sigma_min: float,
    sigma_max: float,
    points: int = POINTS,
    order: int = 2,
) -> np.ndarray:
    """The grid of ``steps`` levels and 0 for a network as it is now: ``len(noise) * points`` evaluations, deterministic.

    ``noise`` has deviation 1 and shape (count, height, width, channels), one of ``labels`` each. Cheap enough to be repeated
    while the network learns; NOISES noises are enough for that. ConfigurationError as for every grid.
    """
    return survey(denoiser, labels, noise, sigma_min, sigma_max, points).grid(steps, order)


def survey(
    denoiser: Network, labels: np.ndarray, noise: np.ndarray, sigma_min: float, sigma_max: float, points: int = POINTS
) -> Survey:
    """Walk the paths of ``noise`` once, with ``points`` evaluations each."""
    sigmas = karras(points, sigma_min, sigma_max)
    label = mx.array(labels.astype(np.int32))
    start = mx.array(noise.astype(np.float32)) * float(sigmas[0])
    seen: list[Step] = []
    dpmpp_2m(lambda x, sigma: denoiser(x, sigma, label), start, [float(s) for s in sigmas], watch=seen.append)
    paths = np.stack([np.array(x, dtype=np.float64).ravel() for x in (start, *(step.x for step in seen))])
    outputs = np.stack([np.array(step.denoised, dtype=np.float64).ravel() for step in seen])
    return Survey(sigmas, {order: jump_costs(sigmas, paths, outputs, order) for order in ORDERS})


def jump_costs(sigmas: np.ndarray, paths: np.ndarray, outputs: np.ndarray, order: int = 1) -> np.ndarray:
    """Error of one step of ``order`` between all pairs of levels, as it arrives at the end; shape (points + 1, points + 1).

    ``paths`` (points + 1, values) are the samples at each level, ``outputs`` (points, values) the denoiser's there. An error
    at sigma shrinks on its way to 0 as it does for Gaussian data, by c / sqrt(c^2 + sigma^2), c^2 the data's mean square.
    """
    scale = float(np.mean(np.square(paths[-1])))
    shrinks = np.sqrt(scale / (scale + np.square(sigmas)))
    costs = np.full((len(sigmas), len(sigmas)), np.inf)
    for i, output in enumerate(outputs):
        slope = _slope(sigmas, outputs, i) if order > 1 else 0.0
        for j in range(i + 1, len(sigmas)):
            between = output + slope * np.log(sigmas[j] / sigmas[i]) / 2 if sigmas[j] > 0 else output
            jumped = between + sigmas[j] / sigmas[i] * (paths[i] - between)
            costs[i, j] = np.sqrt(np.mean(np.square(jumped - paths[j]))) * shrinks[j]
    return costs


def _slope(sigmas: np.ndarray, outputs: np.ndarray, index: int) -> np.ndarray | float:
    """Of D over log sigma, as a multistep method sees it at a level: looking back, nothing at the first."""
    if index == 0:
        return 0.0
    return np.asarray((outputs[index] - outputs[index - 1]) / np.log(sigmas[index] / sigmas[index - 1]))


def cheapest(costs: np.ndarray, steps: int) -> list[int]:
    """Indices of the way from the first to the last level in ``steps`` jumps whose costs have the smallest sum."""
    count = len(costs)
    best = np.where(np.arange(count) == 0, 0.0, np.inf)
    came_from = []
    for _ in range(steps):
        totals = best[:, None] + costs
        came_from.append(totals.argmin(axis=0))
        best = totals.min(axis=0)
    way = [count - 1]
    for origins in reversed(came_from):
        way.append(int(origins[way[-1]]))
    return way[::-1]
