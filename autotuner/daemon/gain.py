"""What the daemon gains: time to the same held-out progress, treated runs against held-out ones, with an interval.

Progress is ``log(first / best)`` of a run's own held-out losses. Two runs are compared by the time in which each makes
LEVEL_SHARE of the larger progress of the two; a run that ended before is censored at its end, and one that died pays
for starting again. Runs of the same declaration are compared with each other, those that are the only one of theirs
among themselves.

Whether the daemon loses is asked again and again, which the interval above does not bear: 95 % hold for one look. So the
daemon demotes itself by evidence that holds at every look (anytime-valid). Ended runs form blocks of
``holdout.BLOCK_RUNS``; block i has the advantage U_i of its held-out runs, the share of (held-out, treated) pairs in which
the held-out one was sooner minus the share in which it was later. Somebody who bets the share s of their money on the
held-out runs, block by block, has

    W_n(s) = (1 + s U_1) (1 + s U_2) ... (1 + s U_n),    evidence E_n = mean of W_n(s) over STAKES.

A run's arm is drawn by a hash of its id, whatever comes before. While a held-out run is sooner than a treated one at most
half of the time, E[U_i | past] <= 0, so E_n is a nonnegative supermartingale that begins at 1 and ever reaches 20
(``holdout.EVIDENCE_LIMIT``) with a probability of at most 1 / 20 (Ville's inequality; Waudby-Smith and Ramdas 2024,
"Estimating means of bounded random variables by betting", section 4; the statistic is that of Mann and Whitney 1947).
Only the order of runs enters: neither heavy tails nor a machine that drifts, whose draws are as likely before as behind,
break it. ``benchmarks/demotion.py`` measures it beside a repeated interval and the normal-mixture bound of Howard, Ramdas,
McAuliffe and Sekhon 2021.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import mul
from random import Random
from statistics import quantiles

from autotuner.journal import EvaluationRecord, RunRecord

LEVEL_SHARE = 0.8
"""Share of the larger progress that both must make: all of it would compare one run's last, noisy evaluation."""
LEAST_PROGRESS = 0.02
"""Below this natural logarithm neither run of a pair has learned anything to compare."""
RESAMPLES = 1000
"""In plain Python, since NumPy would add 14 MB to what the daemon holds: 0.04 s for 100 runs against 10."""
COVERAGE_PERCENT = 95.0
DEAD = ("killed", "failed")
STAKES = tuple(stake / 20 for stake in range(1, 20))
"""Shares that are bet: small ones find small losses, large ones large losses sooner."""
SCORE_VERSION = 1
"""Of all that an advantage depends on; advantages of another version are no evidence."""


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
    random, total, weights = Random(seed), [0.0] * (RESAMPLES + 1), [0.0] * (RESAMPLES + 1)
    for ours, theirs in _strata(treated, held_out):
        ratios = [[log_ratio(a, b) for b in theirs] for a in ours]
        weight = len(ours) * len(theirs) / (len(ours) + len(theirs))  # inverse variance of a difference of means
        for number, mean in enumerate(_means(ratios, random)):
            if mean is not None:
                total[number] += weight * mean
                weights[number] += weight
    if not weights[0]:
        return None
    means = [sum_ / weight for sum_, weight in zip(total, weights, strict=True) if weight]
    drawn = quantiles(means[1:], n=round(200 / (100.0 - COVERAGE_PERCENT)), method="inclusive")
    ratio, low, high = (1.0 - math.exp(-value) for value in (means[0], drawn[0], drawn[-1]))
    return Gain(ratio, low, high, len(treated), len(held_out))


def advantage(treated: Sequence[Course], held_out: Sequence[Course]) -> float | None:
    """How much oftener held-out runs are the sooner ones of a block's pairs, -1 to 1; None when no pair can be compared."""
    signs = [
        math.copysign(1.0, -ratio) if ratio else 0.0
        for ours, theirs in _strata(treated, held_out)
        for ratio in (log_ratio(a, b) for a in ours for b in theirs)
        if math.isfinite(ratio)
    ]
    return sum(signs) / len(signs) if signs else None


def evidence(advantages: Iterable[float]) -> float:
    """What betting on the held-out runs has made of 1 (E_n above): above 1 it speaks for a loss of the treated runs."""
    known = list(advantages)
    return sum(math.prod(1.0 + stake * value for value in known) for stake in STAKES) / len(STAKES)


def _strata(treated: Sequence[Course], held_out: Sequence[Course]) -> list[tuple[list[Course], list[Course]]]:
    """Both arms by declaration; runs that are the only one of theirs are compared with each other.

    Who is compared with whom must not depend on the arms: otherwise a rare, quick kind of run would count against common
    ones only where it happens to be held out.
    """
    seen = Counter(course.key for course in (*treated, *held_out))
    groups: dict[str, tuple[list[Course], list[Course]]] = defaultdict(lambda: ([], []))
    for arm, courses in enumerate((treated, held_out)):
        for course in courses:
            groups[course.key if seen[course.key] > 1 else ""][arm].append(course)
    return [(ours, theirs) for ours, theirs in groups.values() if ours and theirs]


def _means(ratios: list[list[float]], random: Random) -> Iterator[float | None]:
    """Mean of the known pairs: first of the runs as they are, then of RESAMPLES draws of runs; None where none is known."""
    known = [[float(math.isfinite(ratio)) for ratio in row] for row in ratios]
    values = [[ratio if math.isfinite(ratio) else 0.0 for ratio in row] for row in ratios]
    complete = all(map(all, known))
    rows, columns = range(len(ratios)), range(len(ratios[0]))
    for number in range(RESAMPLES + 1):
        ours = Counter(random.choices(rows, k=len(rows)) if number else rows)
        drawn = Counter(random.choices(columns, k=len(columns)) if number else columns)
        theirs = [float(drawn[column]) for column in columns]
        count = float(len(rows) * len(columns)) if complete else _weighted(known, ours, theirs)
        yield _weighted(values, ours, theirs) / count if count else None


def _weighted(matrix: list[list[float]], rows: Counter[int], columns: list[float]) -> float:
    """Sum of the cells, each as often as its row and its column were drawn."""
    return float(sum(times * sum(map(mul, matrix[row], columns)) for row, times in rows.items()))
