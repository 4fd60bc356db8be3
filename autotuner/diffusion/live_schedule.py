"""A sampling grid that fits the teacher as it is now: looked for again while it learns, for a small share of the time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from autotuner.diffusion.config import TrainerConfig
from autotuner.diffusion.data import Dataset
from autotuner.diffusion.evaluation import way
from autotuner.diffusion.sample import Network, solve
from autotuner.diffusion.schedules.dp import NOISES, POINTS, survey

SHARE = 0.02
"""Most of the training time that looking may take."""
SURVEY_SEED, JUDGE_SEED = 31, 37
JUDGES = 8
"""Noises, apart from those of the survey, on which a grid must beat the configured one."""
EXACT_STEPS = 32
"""Of the solution that it is judged against."""
MOST_BYTES = 2**28
"""Paths that a survey may hold; larger images have fewer of them, and none are looked at below FEWEST."""
FEWEST = 2


@dataclass(frozen=True)
class Found:
    """What one look found for one number of steps."""

    sigmas: tuple[float, ...]
    error: float
    """Root mean square distance from the same network's solution in EXACT_STEPS."""
    configured_error: float
    """That of the configured grid, by the same solver and from the same noises."""

    @property
    def better(self) -> bool:
        """Whether it is worth using."""
        return self.error < self.configured_error


class LiveSchedule:
    """The grids of the last look, one for each number of steps that previews may have."""

    def __init__(self, config: TrainerConfig, dataset: Dataset, steps: Sequence[int], clock: Callable[[], float]) -> None:
        self._config, self._clock = config, clock
        self._steps = sorted({count for count in steps if count < POINTS})
        self._shape = (dataset.resolution, dataset.resolution, dataset.channels)
        path_bytes = 2 * np.dtype(np.float64).itemsize * (POINTS + 1) * int(np.prod(self._shape))
        self._noises = min(NOISES, MOST_BYTES // path_bytes)
        self._labels = np.resize(dataset.labels, NOISES + JUDGES)
        self._solver = config.solver
        self.found: dict[int, Found] = {}
        self.spent_seconds = 0.0
        self.looks = 0

    def evaluations(self) -> int:
        """Times that the network sees one image in one look."""
        return self._noises * POINTS + JUDGES * (EXACT_STEPS + 2 * sum(self._steps))

    def due(self, training_seconds: float, image_seconds: float) -> bool:
        """Whether another look stays within SHARE of the time so far; ``image_seconds`` is what one evaluation may take."""
        expected = self.spent_seconds / self.looks if self.looks else self.evaluations() * image_seconds
        able = bool(self._steps) and self._noises >= FEWEST
        return able and self.spent_seconds + expected <= SHARE * training_seconds

    def look(self, denoiser: Network) -> None:
        """Find grids for the network as it is, and judge them; without finite samples what was found before stays."""
        began = self._clock()
        labels = self._labels[NOISES:]
        exact = solve(denoiser, labels, self._shape, way(self._config, "teacher", EXACT_STEPS)[0], self._solver, JUDGE_SEED)
        if np.isfinite(exact).all():
            self._find(denoiser, labels, exact)
        self.looks += 1
        self.spent_seconds += self._clock() - began

    def _find(self, denoiser: Network, labels: np.ndarray, exact: np.ndarray) -> None:
        noise = np.random.default_rng(SURVEY_SEED).standard_normal((self._noises, *self._shape)).astype(np.float32)
        seen = survey(denoiser, self._labels[: self._noises], noise, *self._config.levels)

        def error(sigmas: np.ndarray) -> float:
            drawn = solve(denoiser, labels, self._shape, sigmas, self._solver, JUDGE_SEED)
            return float(np.sqrt(np.mean(np.square(drawn - exact))))

        for steps in self._steps:
            sigmas = seen.grid(steps)
            configured = way(self._config, "teacher", steps)[0]
            self.found[steps] = Found(tuple(float(s) for s in sigmas), error(sigmas), error(configured))

    def grid(self, steps: int) -> np.ndarray | None:
        """The grid to sample on in ``steps``; None where the configured one is no worse, or nothing was looked for."""
        found = self.found.get(steps)
        return np.array(found.sigmas) if found is not None and found.better else None
