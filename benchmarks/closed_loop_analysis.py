"""From the lines of stage S2 to its table: times to the target, paired log ratios, intervals. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from autotuner_policies.statistics import FEWEST_FOR_INTERVAL, RESAMPLES, Estimate, estimate

from benchmarks.closed_loop_scenarios import AGAIN, KINDS

Line = dict[str, Any]
DIVERGED = 1.5
"""A held-out loss at the end above this many times the best of the run counts as diverged."""


def loss_at(curve: Sequence[Sequence[float]], seconds: float) -> float:
    """The held-out loss at ``seconds``, linear between two measurements; the curve is rows of (seconds, step, loss, ...)."""
    return float(np.interp(seconds, [row[0] for row in curve], [row[2] for row in curve]))


def time_to(curve: Sequence[Sequence[float]], target: float, budget: float) -> tuple[float, bool]:
    """Seconds at which the loss first met ``target``, linear between two measurements, and whether it did.

    A run that never did is censored at its budget: its time is the budget, so that means of it are restricted mean times.
    """
    rows = [row for row in curve if row[2] is not None]
    if rows and rows[0][2] <= target:
        return min(rows[0][0], budget), True
    for (then, _, high, *_), (now, _, low, *_) in itertools.pairwise(rows):
        if low <= target:
            seconds = then + (now - then) * (high - target) / (high - low)
            return (seconds, True) if seconds <= budget else (budget, False)
    return budget, False


def seconds_of(line: Line, target: float) -> float:
    """Time to the target of one line; a training that failed counts as one that never got there."""
    return time_to(line.get("curve", ()), target, line["budget_seconds"])[0]


def diverged(line: Line) -> bool:
    """Whether steps or the final loss were not finite, or the loss ended far above its best."""
    if line["failure"]:
        return False  # counted as such
    best = min((row[2] for row in line["curve"] if row[2] is not None), default=math.inf)
    return line["not_finite_steps"] > 0 or line["held_out_loss"] is None or line["held_out_loss"] > DIVERGED * best


@dataclass(frozen=True)
class Comparison:
    """Log ratios of paired times, the other's over ours: above 0 we are faster."""

    ours: str
    other: str
    values: tuple[float, ...]
    strata: tuple[str, ...]

    @property
    def middle(self) -> Estimate:
        """The interquartile mean with its interval."""
        return estimate(self.values, self.strata)

    def resampled(self, statistic: Callable[..., Any]) -> tuple[float, float | None, float | None]:
        """A statistic with its 95 % percentile-bootstrap interval within strata; no interval for too few pairs."""
        values, names, random = np.asarray(self.values), np.asarray(self.strata), np.random.default_rng(0)
        point = float(statistic(values))
        if len(values) < FEWEST_FOR_INTERVAL:
            return point, None, None
        members = [np.flatnonzero(names == name) for name in dict.fromkeys(self.strata)]
        drawn = np.concatenate([m[random.integers(len(m), size=(RESAMPLES, len(m)))] for m in members], axis=1)
        low, high = np.percentile(statistic(values[drawn], axis=1), (2.5, 97.5))
        return point, float(low), float(high)


def gain(score: float | None) -> float | None:
    """The share of time saved that a mean log ratio says."""
    return None if score is None else 1.0 - math.exp(-score)


def compare(lines: Iterable[Line], ours: str, other: str, kinds: Iterable[str], target: float) -> Comparison:
    """All pairs of scenario and seed that have both arms."""
    rows = {(line["kind"], line["seed"], line["arm"]): line for line in lines}
    wanted = set(kinds)
    pairs = sorted({(k, s) for k, s, _ in rows if k in wanted and (k, s, ours) in rows and (k, s, other) in rows})
    values = [math.log(seconds_of(rows[k, s, other], target) / seconds_of(rows[k, s, ours], target)) for k, s in pairs]
    return Comparison(ours, other, tuple(values), tuple(k for k, _ in pairs))


def of_group(group: str) -> tuple[str, ...]:
    """The scenario types of a group; ``all`` is every one."""
    return tuple(name for name, kind in KINDS.items() if group in (kind.group, "all"))


def agreement(lines: Iterable[Line], arm: str, target: float) -> tuple[float, float, int]:
    """A/A: mean of the paired log ratios, half-width of Student's 95 % interval (NaN for one pair), number of pairs."""
    from scipy.stats import t

    values = np.asarray(compare(lines, arm, arm + AGAIN, KINDS, target).values)
    n = len(values)
    half = float(t.ppf(0.975, n - 1)) * float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return float(np.mean(values)) if n else math.nan, half, n


def table(lines: Sequence[Line], arms: Sequence[str], target: float) -> list[str]:
    """One row for each scenario type and arm: how often and when the target was reached, and what is counted."""
    heads = (
        "scenario",
        "arm",
        "runs",
        "reached",
        "mean s",
        "loss",
        "quality",
        "oom",
        "press s",
        "heat s",
        "changes",
        "vetoed",
        "starved",
    )
    shown = [f"{heads[0]:<18}{heads[1]:<13}" + "".join(f"{head:>9}" for head in heads[2:])]
    for kind, arm in itertools.product(KINDS, arms):
        rows = [line for line in lines if line["kind"] == kind and line["arm"] == arm]
        if not rows:
            continue
        times = [time_to(row.get("curve", ()), target, row["budget_seconds"]) for row in rows]
        cells = [
            f"{len(rows)}",
            f"{sum(reached for _, reached in times)}",
            f"{np.mean([seconds for seconds, _ in times]):.2f}",
            _mean(rows, "held_out_loss", ".4f"),
            _mean(rows, "teacher_quality", ".1f"),
            f"{sum(row['oom'] > 0 for row in rows)}",
            _mean(rows, "pressure_seconds", ".1f"),
            _mean(rows, "heat_seconds", ".1f"),
            _mean(rows, "changes", ".1f"),
            _mean(rows, "vetoed", ".1f"),
            _mean(rows, "starved_share", ".1%"),
        ]
        shown.append(f"{kind:<18}{arm:<13}" + "".join(f"{cell:>9}" for cell in cells))
    return shown


def _mean(rows: Sequence[Line], name: str, form: str) -> str:
    known = [row[name] for row in rows if row.get(name) is not None]
    return format(float(np.mean(known)), form) if known else "-"


def comparisons(lines: Sequence[Line], ours: str, arms: Sequence[str], target: float) -> list[str]:
    """One row for each other arm and scenario type, and pooled: shares of time saved, the losses first."""
    shown = [f"{'time saved by ' + ours + ' against':<34}{'pairs':>6}  {'IQM':<26}{'mean':<26}{'median':<26}"]
    rows = []
    for other in arms:
        for name in (*KINDS, "all disturbed", "all bad_start", "all"):
            kinds = (name,) if name in KINDS else of_group(name.removeprefix("all ").strip() or "all")
            found = compare(lines, ours, other, kinds, target)
            if other == ours or not found.values or (name not in KINDS and len(set(found.strata)) < 2):
                continue
            middle = found.middle
            estimates = [(middle.value, middle.low, middle.high), found.resampled(np.mean), found.resampled(np.median)]
            cells = "".join(f"{_gain(*each):<26}" for each in estimates)
            rows.append((middle.value, f"{other + ', ' + name:<34}{len(found.values):>6}  {cells}"))
    return shown + [text for _, text in sorted(rows, key=lambda row: row[0])]


def _gain(point: float, low: float | None, high: float | None) -> str:
    shown = f"{gain(point):+.1%}"
    return shown if low is None else f"{shown} [{gain(low):+.1%}, {gain(high):+.1%}]"


def draw_picture(lines: Sequence[Line], ours: str, arms: Sequence[str], target: float, path: Path) -> None:
    """Every pair as a dot, by scenario type and other arm, and their interquartile means with the intervals."""
    from matplotlib.figure import Figure

    others = [
        name for name in arms if name != ours and any(compare(lines, ours, name, (kind,), target).values for kind in KINDS)
    ]
    kinds = [kind for kind in KINDS if any(compare(lines, ours, name, (kind,), target).values for name in others)]
    figure = Figure(figsize=(10, 0.8 + 0.7 * len(kinds)), layout="constrained")
    axes = figure.subplots()
    for number, other in enumerate(others):
        color, label = f"C{number}", f"against {other}"
        for row, kind in enumerate(kinds):
            found = compare(lines, ours, other, (kind,), target)
            if not found.values:
                continue
            middle, place = found.middle, row + 0.6 * (number + 0.5) / len(others) - 0.3
            axes.plot(found.values, [place] * len(found.values), ".", color=color, alpha=0.35)
            if middle.low is not None and middle.high is not None:
                axes.plot([middle.low, middle.high], [place, place], color=color)
            axes.plot(middle.value, place, "o", color=color, label=label)
            label = "_"  # one entry of the legend for each arm
    axes.set_yticks(range(len(kinds)), [kind.replace("_", " ") for kind in kinds])
    axes.invert_yaxis()
    axes.axvline(0.0, color="0.8", zorder=0)
    axes.set_xlabel(f"log(seconds to the target of the other arm / of {ours}): right of zero {ours} is sooner")
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(path, dpi=110)


def summary(lines: Sequence[Line], ours: str, arms: Sequence[str], target: float) -> Line:
    """The claims of the protocol: gains are shares of time saved, null where there are no pairs.

    ``oom`` counts the runs in which memory ran out: once is as bad as often, since the first time would have ended it.
    """
    mine = [line for line in lines if line["arm"] == ours]

    def middle(other: str, group: str) -> Estimate | None:
        found = compare(lines, ours, other, of_group(group), target)
        return found.middle if found.values else None

    disturbed, calm = middle("best_static", "disturbed"), middle("best_static", "stationary")
    rules, bad = middle("rules", "all"), middle("alone", "bad_start")
    return {
        "arm": ours,
        "vs_best_static_disturbed": disturbed and gain(disturbed.value),
        "ci_low": disturbed and gain(disturbed.low),
        "vs_best_static_stationary": calm and gain(calm.value),
        "vs_rules": 0.0 if ours == "rules" else rules and gain(rules.value),
        "bad_start_speedup": bad and math.exp(bad.value),
        "pairs": disturbed.count if disturbed else 0,
        "oom": sum(line["oom"] > 0 for line in mine),
        "diverged": sum(map(diverged, mine)),
        "failed": sum(line["failure"] != "" for line in mine),
        "winner": winner([line for line in lines if KINDS[line["kind"]].group != "bad_start"], arms, target),
    }


def winner(lines: Sequence[Line], arms: Sequence[str], target: float) -> str | None:
    """The arm of the lowest mean log time over the scenarios and seeds that every arm has run; None without any."""
    there = [arm for arm in arms if any(line["arm"] == arm for line in lines)]
    of = {arm: {(line["kind"], line["seed"]): line for line in lines if line["arm"] == arm} for arm in there}
    shared = set.intersection(*(set(rows) for rows in of.values())) if of else set()
    if not shared:
        return None
    return min(there, key=lambda arm: sum(math.log(seconds_of(of[arm][pair], target)) for pair in sorted(shared)))
