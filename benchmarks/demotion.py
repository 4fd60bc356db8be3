"""How often the daemon demotes itself without losing, and after how many runs it notices a real loss; three rules, one command.

Run: ``python benchmarks/demotion.py``. Runs of a simulated machine end one after the other, a tenth of them held out; the
natural logarithm of a run's time to its target is noise of a given form, and treated runs take longer by the loss. Every
rule looks after each ended run:

- ``interval``: what the daemon did before, the bootstrap interval of ``daemon/gain.py`` from ten runs on each side; demotes
  when all of it is below zero, whenever a held-out run has ended.
- ``mixture``: each held-out run against the mean of the treated runs since the one before, and the one-sided normal-mixture
  supermartingale of Howard, Ramdas, McAuliffe and Sekhon (2021, "Time-uniform, nonparametric, nonasymptotic confidence
  sequences", Annals of Statistics 49), self-normalised; it needs terms that are symmetric, and knows no declarations.
- ``bet``: what the daemon does, ``advantage`` and ``evidence`` of ``daemon/gain.py`` on blocks of ended runs.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotuner.daemon.gain import Course, advantage, estimate, evidence
from autotuner.daemon.holdout import BLOCK_RUNS, EVIDENCE_LIMIT, FEWEST, NEWEST

RHO = 0.05
SPREAD = 0.2
"""Standard deviation of the log time without a loss: runs of one script differ by a fifth."""
KINDS = 5
"""Declarations that the runs of ``declarations`` are drawn from, with these shares and offsets of the log time."""
SHARES, OFFSETS = (0.6, 0.2, 0.1, 0.05, 0.05), (0.0, 0.5, -1.0, -2.0, 1.0)

Array = NDArray[np.float64]
Random = np.random.Generator


@dataclass(frozen=True)
class Runs:
    """Ended runs in their order: natural logarithm of seconds to the target, arm and declaration."""

    log_seconds: Array
    held_out: NDArray[np.bool_]
    kind: NDArray[np.int64]

    def courses(self, first: int, last: int) -> tuple[list[Course], list[Course]]:
        """Treated and held-out runs of a stretch, as courses that make straight progress."""
        arms: tuple[list[Course], list[Course]] = ([], [])
        for i in range(first, last):
            seconds = math.exp(self.log_seconds[i])
            arms[int(self.held_out[i])].append(Course(str(self.kind[i]), (0.0, seconds), (0.0, 1.0)))
        return arms


@dataclass(frozen=True)
class Machine:
    """One form of noise: the log times of runs (standard deviation about ``spread``) that nothing distinguishes but luck."""

    sentence: str
    noise: Callable[[Random, NDArray[np.bool_], float], Array]
    declarations: bool = False


def _steps(held_out: NDArray[np.bool_]) -> Array:
    return np.arange(len(held_out), dtype=float)


MACHINES = {
    "normal": Machine("normal noise", lambda r, h, s: s * r.normal(size=len(h))),
    "heavy tails": Machine("Student's t with 2.5 degrees of freedom", lambda r, h, s: s * 0.7 * r.standard_t(2.5, len(h))),
    "skewed": Machine("exponential noise: a few runs take much longer", lambda r, h, s: s * r.exponential(size=len(h))),
    "wide held-out": Machine(
        "held-out runs vary twice as much", lambda r, h, s: s * np.where(h, 2.0, 1.0) * r.normal(size=len(h))
    ),
    "wide treated": Machine(
        "treated runs vary twice as much", lambda r, h, s: s * np.where(h, 1.0, 2.0) * r.normal(size=len(h))
    ),
    "faster by days": Machine(
        "each run 2 % faster than the last", lambda r, h, s: s * r.normal(size=len(h)) - 0.02 * _steps(h)
    ),
    "slower by days": Machine(
        "each run 2 % slower than the last", lambda r, h, s: s * r.normal(size=len(h)) + 0.02 * _steps(h)
    ),
    "wandering": Machine(
        "the machine's speed is a random walk of 5 % a run",
        lambda r, h, s: s * r.normal(size=len(h)) + 0.05 * np.cumsum(r.normal(size=len(h))),
    ),
    "declarations": Machine(
        "five declarations, whose times differ up to 20 times", lambda r, h, s: s * r.normal(size=len(h)), declarations=True
    ),
}


def draw(machine: Machine, count: int, loss: float, spread: float, share: float, random: Random) -> Runs:
    """``count`` runs; treated ones take ``loss`` longer (0.1 is 10 %)."""
    held_out = random.random(count) < share
    kind = random.choice(KINDS, count, p=SHARES) if machine.declarations else np.zeros(count, np.int64)
    offsets = np.array(OFFSETS)[kind]
    log_seconds = machine.noise(random, held_out, spread) + offsets + np.where(held_out, 0.0, math.log1p(loss))
    return Runs(log_seconds, held_out, kind)


def interval(runs: Runs) -> int | None:
    """Ended runs after which the repeated interval demotes; None when it never does."""
    for ended in (np.flatnonzero(runs.held_out) + 1).tolist():
        treated, held_out = runs.courses(max(0, ended - NEWEST), ended)
        if min(len(treated), len(held_out)) < FEWEST:
            continue
        gain = estimate(treated, held_out)
        if gain is not None and gain.high < 0:
            return int(ended)
    return None


def mixture(runs: Runs) -> int | None:
    """The same for the normal mixture: ``2 sqrt(rho / (V + rho)) exp(S^2 / (2 (V + rho))) Phi(S / sqrt(V + rho))``."""
    total = squares = 0.0
    for ended, worse in _terms(runs):
        total, squares = total + worse, squares + worse**2
        wide = squares + RHO
        tail = 0.5 * math.erfc(-total / math.sqrt(2 * wide))
        if 2 * math.sqrt(RHO / wide) * math.exp(min(700.0, total**2 / (2 * wide))) * tail >= EVIDENCE_LIMIT:
            return ended
    return None


def _terms(runs: Runs) -> Iterator[tuple[int, float]]:
    """By how much the mean treated run since the held-out one before was later, in log seconds."""
    waiting: list[float] = []
    for i, (log_seconds, held_out) in enumerate(zip(runs.log_seconds, runs.held_out, strict=True), start=1):
        if not held_out:
            waiting.append(float(log_seconds))
        elif waiting:
            yield i, sum(waiting) / len(waiting) - float(log_seconds)
            waiting = []


def bet(runs: Runs) -> int | None:
    """The same for the evidence that the daemon uses."""
    found: list[float] = []
    for first in range(0, len(runs.held_out) - BLOCK_RUNS + 1, BLOCK_RUNS):
        value = advantage(*runs.courses(first, first + BLOCK_RUNS))
        if value is not None:
            found.append(value)
            if evidence(found) >= EVIDENCE_LIMIT:
                return first + BLOCK_RUNS
    return None


RULES: dict[str, Callable[[Runs], int | None]] = {"interval": interval, "mixture": mixture, "bet": bet}


def false_demotions(name: str, repeats: int, count: int, spread: float, share: float, rules: list[str]) -> dict[str, float]:
    """Share of months without any loss in which each rule demotes."""
    random = np.random.default_rng([1, list(MACHINES).index(name)])
    months = [draw(MACHINES[name], count, 0.0, spread, share, random) for _ in range(repeats)]
    return {rule: sum(RULES[rule](month) is not None for month in months) / repeats for rule in rules}


def runs_needed(name: str, loss: float, spread: float, repeats: int, most: int, share: float) -> dict[str, tuple[float, float]]:
    """For each anytime-valid rule the median runs until it demotes (infinite beyond ``most``), and how often it does."""
    random = np.random.default_rng([2, list(MACHINES).index(name), round(loss * 100), round(spread * 100)])
    months = [draw(MACHINES[name], most, loss, spread, share, random) for _ in range(repeats)]
    found = {rule: [RULES[rule](month) or math.inf for month in months] for rule in ("mixture", "bet")}
    return {rule: (float(np.median(ends)), float(np.mean(np.isfinite(ends)))) for rule, ends in found.items()}


def _shown(median: float, seen: float) -> str:
    return f"{median:.0f} ({seen:.0%})" if math.isfinite(median) else f"- ({seen:.0%})"


def main() -> None:
    """Print the tables and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1000, help="simulated months without a loss, for the two cheap rules")
    parser.add_argument("--interval-repeats", type=int, default=40, help="the same for the repeated interval, which is slow")
    parser.add_argument("--power-repeats", type=int, default=100, help="simulated courses of a real loss")
    parser.add_argument("--runs", type=int, default=200, help="runs of a month")
    parser.add_argument("--most", type=int, default=1000, help="runs after which a loss counts as not seen")
    parser.add_argument("--share", type=float, default=0.1, help="share of runs held out")
    args = parser.parse_args()
    print(
        f"No loss: share of months ({args.runs} runs, {args.share:.0%} held out, spread {SPREAD})"
        " in which the daemon steps back"
    )
    print(f"\n{'noise':<16}{'interval':>10}{'mixture':>10}{'bet':>8}   what it is")
    null: dict[str, dict[str, float]] = {}
    for name, machine in MACHINES.items():
        old = false_demotions(name, args.interval_repeats, args.runs, SPREAD, args.share, ["interval"])
        null[name] = old | false_demotions(name, args.repeats, args.runs, SPREAD, args.share, ["mixture", "bet"])
        row = null[name]
        print(f"{name:<16}{row['interval']:>10.1%}{row['mixture']:>10.2%}{row['bet']:>8.2%}   {machine.sentence}", flush=True)
    print(f"\nReal loss: median runs until it is seen, and how often it is within {args.most} runs")
    print(f"\n{'noise':<16}{'spread':>8}{'loss':>8}{'mixture':>16}{'bet':>16}")
    power: dict[str, dict[str, tuple[float | None, float]]] = {}
    for name in ("normal", "heavy tails", "declarations"):
        for spread in (0.1, 0.2, 0.4):
            for loss in (0.1, 0.2, 0.5):
                found = runs_needed(name, loss, spread, args.power_repeats, args.most, args.share)
                key = f"{name}, spread {spread}, loss {loss}"
                power[key] = {
                    rule: (ends if math.isfinite(ends) else None, round(seen, 3)) for rule, (ends, seen) in found.items()
                }
                print(
                    f"{name:<16}{spread:>8}{loss:>8.0%}{_shown(*found['mixture']):>16}{_shown(*found['bet']):>16}", flush=True
                )
    place = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
    }
    print("\ncommand   python benchmarks/demotion.py")
    print(f"machine   {place['machine']}, Python {place['python']}, NumPy {place['numpy']}")
    print(f"repeats   months {args.repeats} (interval {args.interval_repeats}), losses {args.power_repeats}; seeds in the code")
    print(json.dumps({"false_demotions": null, "runs_until_seen": power, "block_runs": BLOCK_RUNS, **place}))


if __name__ == "__main__":
    main()
