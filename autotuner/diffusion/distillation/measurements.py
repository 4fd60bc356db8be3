"""Measures contenders one thing at a time, and each thing once."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from autotuner.diffusion.blas import mx
from autotuner.diffusion.distillation import interval
from autotuner.diffusion.distillation.contenders import Contender
from autotuner.diffusion.distillation.ledger import Ledger
from autotuner.diffusion.distillation.references import References
from autotuner.diffusion.quality import paired
from autotuner.diffusion.sample import CHUNK
from autotuner.errors import ConfigurationError

NOISE_SEED, PAIRED_SEED = 1900, 23
"""Of the first draw (the next ones count on), and of the paired error."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    images: int | None = None
    """Pictures of each draw; None: those of the configuration. Never more than are held out."""
    seeds: int = 5
    """Draws."""
    paired_images: int | None = None
    """Noises of the paired error; None: those of the configuration, 0: none."""
    timings: int = 5
    """Turns in which every contender draws a batch for the clock; the median counts. A disturbance then meets all of them."""

    def __post_init__(self) -> None:
        for name, least in (("seeds", interval.FEWEST), ("timings", 1)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"{name} {getattr(self, name)}; allowed is {least} or more")


class Measurements:
    """What is in the ledger, or will be once it is asked for."""

    def __init__(self, references: References, plan: Plan, ledger: Ledger, clock: Callable[[], float]) -> None:
        self.references, self.plan, self.ledger, self._clock = references, plan, ledger, clock
        self.machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {mx.default_device()}"
        self._identities = [references.identity(draw) for draw in range(plan.seeds)]
        self._converged: dict[str, paired.Converged] = {}

    def cost(self, each: Contender, draw: int) -> int:
        """Network evaluations that a draw still takes."""
        known = self.ledger.knows(self._draw_name(each, draw))
        return 0 if known else each.network.evaluations(each.steps) * self.references.images

    def draw(self, each: Contender, draw: int) -> list[float]:
        """Frechet distance, kernel distance and class agreement of one draw."""
        return self.ledger.once(self._draw_name(each, draw), partial(self._draw, each, draw))

    def floor(self, draw: int) -> list[float]:
        """Frechet and kernel distance of held-out pictures in one draw."""
        return self.ledger.once(f"held-out draw {draw} of {self._identities[draw]}", partial(self.references.floor, draw))

    def path(self, each: Contender) -> list[float]:
        """Mean square distance of each image from the end of its teacher's exact path; empty where none is asked for."""
        count = self._paired_images(each)
        name = f"{_name(each)} to {each.teacher.name(paired.FIRST_STEPS)}, {count} of {self._identities[0]}"
        return self.ledger.once(name, partial(self._path, each)) if count else []

    def time(self, each: Contender, turn: int) -> float:
        """Seconds of one image in a batch of CHUNK, evaluated."""
        name = f"{_name(each)} timed on {self.machine}, turn {turn}"
        return self.ledger.once(name, partial(self._time, each))[0]

    def seconds(self, each: Contender) -> float:
        """The median of what ``time`` gave in all turns."""
        return float(np.median([self.time(each, turn) for turn in range(self.plan.timings)]))

    def _draw_name(self, each: Contender, draw: int) -> str:
        return f"{_name(each)} draw {draw} of {self._identities[draw]}"

    def _draw(self, each: Contender, draw: int) -> tuple[float, ...]:
        labels = self.references.labels(draw)
        return self.references.compare(each.network.solutions(each.steps, labels, NOISE_SEED + draw), draw)

    def _path(self, each: Contender) -> list[float]:
        exact = self._converge(each)
        labels = self.references.labels(0)[: len(exact)]
        error = each.network.solutions(each.steps, labels, PAIRED_SEED) - exact
        return [float(value) for value in np.square(error).mean(axis=(1, 2, 3))]

    def _converge(self, each: Contender) -> np.ndarray:
        """Where its teacher's exact paths end."""
        teacher, labels = each.teacher, self.references.labels(0)[: self._paired_images(each)]
        if teacher.identity not in self._converged:
            self._converged[teacher.identity] = paired.converge(
                lambda steps: teacher.solutions(steps, labels, PAIRED_SEED, paired.SOLVER)
            )
        return self._converged[teacher.identity].images

    def _paired_images(self, each: Contender) -> int:
        wanted = self.plan.paired_images
        return min(each.teacher.sampler.config.paired_images if wanted is None else wanted, self.references.images)

    def _time(self, each: Contender) -> list[float]:
        labels = np.resize(self.references.labels(0), CHUNK)
        each.network.solutions(1, labels, NOISE_SEED)  # the first evaluation sets buffers up
        began = self._clock()
        each.network.solutions(each.steps, labels, NOISE_SEED)
        return [(self._clock() - began) / CHUNK]


def _name(each: Contender) -> str:
    return each.network.name(each.steps)
