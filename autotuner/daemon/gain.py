"""What the daemon gains: time to the same held-out progress, treated runs against held-out ones, with an interval.

Progress is ``log(first / best)`` of a run's own held-out losses. Two runs are compared by the time in which each makes
LEVEL_SHARE of the larger progress of the two; a run that ended before is censored at its end, and one that died pays
for starting again. Runs of the same declaration are compared with each other, all others with whom is left. NumPy.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotuner.journal import EvaluationRecord, RunRecord

LEVEL_SHARE = 0.8
"""Share of the larger progress that both must make: all of it would compare one run's last, noisy evaluation."""
LEAST_PROGRESS = 0.02
"""Below this natural logarithm neither run of a pair has learned anything to compare."""
RESAMPLES = 2000
COVERAGE_PERCENT = 95.0
DEAD = ("killed", "failed")

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Gain:
    """Share of time that treated runs save on the way to the same held-out loss; negative is a loss."""

    ratio: float
    low: float
    high: float
    treated: int
    held_out: int


@dataclass(frozen=True)
class Course:
    """One ended run: what it made of its held-out loss, and when."""

    key: str
    """Equal for runs of the same declaration."""
    seconds: tuple[float, ...]
    """Since the first evaluation."""
    progress: tuple[float, ...]
    """Best ``log(first / held-out loss)`` up to then; starts at 0 and never falls."""
    dead: bool = False

    @property
    def most(self) -> float:
        """The largest progress that it made."""
        return self.progress[-1]

    def seconds_to(self, level: float) -> float | None:
        """Seconds in which it made ``level`` of progress, between two evaluations by a line; None when it never did."""
        reached = bisect_left(self.progress, level)
        if reached == len(self.progress):
            return None
        if reached == 0:
            return self.seconds[0]
        before, after = self.progress[reached - 1], self.progress[reached]
        share = (level - before) / (after - before)
        return self.seconds[reached - 1] + share * (self.seconds[reached] - self.seconds[reached - 1])


def course_of(run: RunRecord, evaluations: Sequence[EvaluationRecord]) -> Course | None:
    """The course of an ended run; None when it was evaluated less than twice, so that nothing can be told."""
    known = [(e.time_unix, e.held_out_loss) for e in evaluations if e.held_out_loss is not None and e.held_out_loss > 0]
    if len(known) < 2 or run.ended_unix is None:
        return None
    began, first = known[0]
    seconds, progress, best = [], [], 0.0
    for time_unix, loss in known:
        best = max(best, math.log(first / loss))
        seconds.append(time_unix - began)
        progress.append(best)
    if run.ended_unix - began > seconds[-1]:  # it went on after its last evaluation
        seconds.append(run.ended_unix - began)
        progress.append(best)
    return Course(declaration_key(run), tuple(seconds), tuple(progress), run.outcome in DEAD)


def declaration_key(run: RunRecord) -> str:
    """What makes runs comparable one to one: model, ladders and start values of the knobs, budget and target."""
    declared = json.loads(run.declaration_json)
    same = [run.model, *(declared.get(name) for name in ("knobs", "budget_seconds", "budget_steps", "target"))]
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:16]


def log_ratio(treated: Course, held_out: Course) -> float:
    """``log(seconds of the held-out run / seconds of the treated one)`` to the same progress; NaN when neither learned."""
    larger = max(treated.most, held_out.most)
    if larger < LEAST_PROGRESS:
        return math.nan
    level = LEVEL_SHARE * larger
    ours, theirs = treated.seconds_to(level), held_out.seconds_to(level)
    ours, theirs = (
        (ours if ours is not None else _censored(treated, theirs)),
        (theirs if theirs is not None else _censored(held_out, ours)),
    )
    return math.log(theirs / ours) if ours > 0 and theirs > 0 else math.nan


def _censored(course: Course, other_seconds: float | None) -> float:
    """The least that a run needed which did not arrive: its own length; a dead one must do all of it again."""
    other = other_seconds or 0.0
    return course.seconds[-1] + other if course.dead else max(course.seconds[-1], other)


def estimate(treated: Sequence[Course], held_out: Sequence[Course], seed: int = 0) -> Gain | None:
    """The gain with a percentile-bootstrap interval over runs, resampled within arm and stratum; None without a pair."""
    random = np.random.default_rng(seed)
    total, weights = np.zeros(RESAMPLES + 1), np.zeros(RESAMPLES + 1)
    for ours, theirs in _strata(treated, held_out):
        ratios = np.array([[log_ratio(a, b) for b in theirs] for a in ours])
        sums, counts = _resampled(np.nan_to_num(ratios), np.isfinite(ratios), random)
        weight = len(ours) * len(theirs) / (len(ours) + len(theirs))  # inverse variance of a difference of means
        total += np.where(counts > 0, weight * sums / np.maximum(counts, 1), 0.0)
        weights += np.where(counts > 0, weight, 0.0)
    if not weights[0]:
        return None
    means = total / np.where(weights > 0, weights, np.nan)
    tail = (100.0 - COVERAGE_PERCENT) / 2
    low, high = np.nanpercentile(means[1:], (tail, 100.0 - tail))
    ratio, low, high = (1.0 - math.exp(-float(value)) for value in (means[0], low, high))
    return Gain(ratio, low, high, len(treated), len(held_out))


def _strata(treated: Sequence[Course], held_out: Sequence[Course]) -> list[tuple[list[Course], list[Course]]]:
    """Both arms by declaration; runs whose declaration is in one arm only are compared with each other."""
    groups: dict[str, tuple[list[Course], list[Course]]] = defaultdict(lambda: ([], []))
    for arm, courses in enumerate((treated, held_out)):
        for course in courses:
            groups[course.key][arm].append(course)
    paired = [(ours, theirs) for ours, theirs in groups.values() if ours and theirs]
    alone = [(ours, theirs) for ours, theirs in groups.values() if not (ours and theirs)]
    rest = ([c for ours, _ in alone for c in ours], [c for _, theirs in alone for c in theirs])
    return [*paired, rest] if rest[0] and rest[1] else paired


def _resampled(ratios: Array, known: NDArray[np.bool_], random: np.random.Generator) -> tuple[Array, Array]:
    """Sums and counts of the known pairs: first of the runs as they are, then of RESAMPLES draws of runs."""
    rows, columns = ratios.shape
    ours = np.vstack([np.ones(rows), random.multinomial(rows, np.full(rows, 1 / rows), RESAMPLES)])
    theirs = np.vstack([np.ones(columns), random.multinomial(columns, np.full(columns, 1 / columns), RESAMPLES)])
    return ((ours @ ratios) * theirs).sum(axis=1), ((ours @ known.astype(float)) * theirs).sum(axis=1)
