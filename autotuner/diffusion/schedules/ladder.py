"""The ladder: a level is kept only where it beats the level below on held-out noise. Pure functions of measured errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autotuner.diffusion.solvers.generalised import Table
from autotuner.errors import ConfigurationError

RESAMPLES = 2000
WORST = 1e12
"""Ratio of squared errors that stands for all larger ones."""
HEUN = 1
"""Evaluations by which a sampler may miss the number asked for: heun takes odd numbers only."""
LEVELS = ("hand-made", "dynamic programming", "learned")


@dataclass(frozen=True, eq=False)
class Rung:
    """One level as it was measured."""

    level: int
    """Index into LEVELS."""
    name: str
    table: Table
    squares: np.ndarray
    """Mean square error on each held-out noise, the same noises at every level; shape (noises,)."""

    @property
    def error(self) -> float:
        """Paired error: root mean square."""
        return float(np.sqrt(np.mean(self.squares)))


@dataclass(frozen=True)
class Interval:
    """A value between the 2.5 and 97.5 % quantiles of its bootstrap over noises."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Verdict:
    """Why a level was kept or not."""

    rung: Rung
    kept: bool
    gain: Interval
    """1 - its error over that of the level kept below it."""
    why: str


def climb(rungs: Sequence[Rung]) -> list[Verdict]:
    """Judge each level against the best one kept below it; the last one kept is to be used. The lowest is always kept.

    Kept is a level whose mean squared error is lower by a paired difference of which the whole interval is above 0.
    ConfigurationError for levels that were not measured on the same number of noises, or at unequal evaluations.
    """
    verdicts = [Verdict(rungs[0], kept=True, gain=Interval(0.0, 0.0, 0.0), why="the lowest level")]
    for rung in rungs[1:]:
        below = next(verdict.rung for verdict in reversed(verdicts) if verdict.kept)
        found = gain(below, rung)
        kept = found.low > 0
        sign = "beats" if kept else "does not beat"
        why = f"{sign} {below.name}: error {100 * found.value:.1f} % lower ({100 * found.low:.1f} to {100 * found.high:.1f})"
        verdicts.append(Verdict(rung, kept, found, why))
    return verdicts


def gain(below: Rung, above: Rung, seed: int = 0) -> Interval:
    """1 - error of ``above`` over error of ``below``, resampled over noises in pairs; raised errors as in ``climb``."""
    if below.squares.shape != above.squares.shape or abs(above.table.evaluations - below.table.evaluations) > HEUN:
        measured = [
            f"{rung.name} ({len(rung.squares)} noises, {rung.table.evaluations} evaluations)" for rung in (below, above)
        ]
        raise ConfigurationError(f"{' and '.join(measured)} do not compare; allowed are equal counts of both")
    picks = np.random.default_rng(seed).integers(0, len(below.squares), (RESAMPLES, len(below.squares)))
    ratios = above.squares[picks].mean(axis=1) / below.squares[picks].mean(axis=1)
    low, high = np.quantile(1 - np.sqrt(np.minimum(ratios, WORST)), [0.025, 0.975])  # infinite where a sampler blew up
    return Interval(1 - above.error / below.error, float(low), float(high))


def error_interval(squares: np.ndarray, seed: int = 0) -> Interval:
    """A paired error with its bootstrap over noises."""
    picks = np.random.default_rng(seed).integers(0, len(squares), (RESAMPLES, len(squares)))
    low, high = np.quantile(np.sqrt(squares[picks].mean(axis=1)), [0.025, 0.975])
    return Interval(float(np.sqrt(squares.mean())), float(low), float(high))
