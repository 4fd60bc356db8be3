"""The whole ladder for one network: noises in three sets, candidates, learning, and the gate on what none of them saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from autotuner.diffusion.quality import paired
from autotuner.diffusion.sample import Network
from autotuner.diffusion.schedules.artefact import Saved
from autotuner.diffusion.schedules.candidates import Candidate, hand_made, lowered, race, surveyed
from autotuner.diffusion.schedules.dp import NOISES, Survey, survey
from autotuner.diffusion.schedules.ladder import Rung, Verdict, climb, error_interval, gain
from autotuner.diffusion.schedules.learn import DEFAULT, Effort, learn, work
from autotuner.diffusion.schedules.pairs import Pairs, errors, find_pairs
from autotuner.diffusion.solvers.generalised import Table
from autotuner.errors import ConfigurationError

FEWEST, MOST = 32, 512
"""Pairs of each set."""
ENDS = 112 + 112 + 220
"""Evaluations for the ends of one pair of each set, about."""
ITERATIONS = 12
"""Of a learning, about, for the estimate of its cost."""


@dataclass(frozen=True, eq=False)
class Sets:
    """Three sets of pairs with different noise."""

    training: Pairs
    """Samplers are learned on these."""
    choosing: Pairs
    """Candidates, iterations and starts are chosen on these."""
    judging: Pairs
    """Levels are judged on these, once, against the ends that another solver found."""
    survey: Survey
    """Paths of the first of ``training``."""
    sigma_min: float
    sigma_max: float


@dataclass(frozen=True, eq=False)
class Built:
    """The ladder at one number of evaluations."""

    evaluations: int
    verdicts: tuple[Verdict, ...]
    iterations: int

    @property
    def best(self) -> Rung:
        """The last level kept."""
        return next(verdict.rung for verdict in reversed(self.verdicts) if verdict.kept)

    def saved(self, network: str) -> Saved:
        """The last level kept, ready for ``artefact.save``; ``network`` is what ``artefact.identify`` calls it."""
        best, lowest = self.best, self.verdicts[0].rung
        return Saved(
            network=network,
            level=best.level,
            name=best.name,
            table=best.table,
            error=error_interval(best.squares),
            below=lowest.name,
            below_error=error_interval(lowest.squares),
            gain=gain(lowest, best),
            noises=len(best.squares),
        )


def draw_sets(
    denoiser: Network,
    shape: tuple[int, int, int],
    classes: int,
    count: int,
    sigma_min: float,
    sigma_max: float,
    seed: int = 0,
) -> Sets:
    """``count`` pairs of each set, labels in turn; other seeds share no noise. ConfigurationError for fewer than FEWEST."""
    if count < FEWEST:
        raise ConfigurationError(f"{count} noises of each set; at least {FEWEST} are needed")
    labels = np.arange(count) % classes
    first = 1000 + 3 * seed
    training, choosing = (find_pairs(denoiser, labels, shape, first + k, sigma_min, sigma_max) for k in (0, 1))
    judging = find_pairs(denoiser, labels, shape, first + 2, sigma_min, sigma_max, paired.SOLVER)
    seen = survey(denoiser, labels[:NOISES], training.noise[:NOISES], sigma_min, sigma_max)
    return Sets(training, choosing, judging, seen, sigma_min, sigma_max)


def build(denoiser: Network, sets: Sets, evaluations: int, effort: Effort = DEFAULT) -> Built:
    """Find the strongest of each level on the choosing set, and judge the levels on the judging set."""
    low, high = sets.sigma_min, sets.sigma_max
    by_hand = race(denoiser, sets.choosing, hand_made(evaluations, low, high, float(np.std(sets.training.ends))))
    by_survey = race(denoiser, sets.choosing, surveyed(evaluations, sets.survey))
    below = race(denoiser, sets.choosing, lowered(evaluations, low, high))
    starts = [each for _, each in (below[0], by_hand[0], by_survey[0], *below[1:])]
    learned = learn(denoiser, sets.training, sets.choosing, starts, effort)
    levels = [_named(by_hand[0][1]), _named(by_survey[0][1]), (f"learned from {learned.start}", learned.table)]
    rungs = [Rung(level, name, table, errors(denoiser, sets.judging, table)) for level, (name, table) in enumerate(levels)]
    return Built(evaluations, tuple(climb(rungs)), learned.iterations)


def affordable(seconds: float, seconds_per_evaluation: float, evaluations: Sequence[int]) -> int:
    """Pairs of each set with which ladders for all of ``evaluations`` take about ``seconds``, from FEWEST to MOST."""
    each = ENDS + sum(ITERATIONS * work(count) + 40 * count for count in evaluations)
    return int(np.clip(seconds / seconds_per_evaluation / each, FEWEST, MOST))


def shares(effort: Effort, seconds: float, evaluations: Sequence[int]) -> list[Effort]:
    """The same effort with a deadline for each ladder from now on, in proportion to their work."""
    works = np.cumsum([work(count) for count in evaluations]) / sum(work(count) for count in evaluations)
    began = effort.clock()
    return [replace(effort, deadline=began + seconds * float(share)) for share in works]


def _named(found: Candidate) -> tuple[str, Table]:
    return found.name, found.table
