"""Stage S2 of docs/evidence-protocol.md: real MLX trainings beside the real daemon, under injected heat and memory limits.

Run: ``python benchmarks/closed_loop.py --out DIRECTORY`` in pieces, as often as needed; each run is one line of
DIRECTORY/runs.jsonl and is never made twice. In this order:

    --aa --pairs 10       hold against hold: the interval of their difference must contain 0, its half-width is what can be seen
    --tune                chooses the best static on validation seeds, in rounds that keep fewer and fewer
    --pairs 10            every arm on every scenario type and test seed
    --report              only the table of what is there

The first of them measures, on validation seeds of the untouched and undisturbed script, the target (its held-out loss at 40 %
of the budget) and the unit of the memory limits, and freezes both in DIRECTORY/frozen.json. Runs of one pair share model seed,
data order and events, and follow each other; who begins rotates from pair to pair. Everything is pinned to one core
(``--core``) with one BLAS thread, daemon and driver included, so what the daemon takes is taken from its training.
Wall time is what is measured, so a run waits for an idle core. It is made again where other processes took more than
``--starved`` of it, or where the held-out measurement, the same work in every arm, cost more processor time than in the
calibration: others then shared caches or pipelines.

``alone``, ``best_static`` and ``hand`` have no daemon: their hook writes its ring, which the driver reads, and nobody answers.
A run ends when it has met the target. One that never does counts with its budget (a restricted mean time). Heat and memory
are false, the learning is true; ``oom`` counts the runs in which memory held at once rose above 1.4 times the limit,
which here kills nobody.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.update({"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"})

from autotuner.daemon.policies import resolve_policy, shipped_artefacts
from autotuner.errors import AutotunerError
from benchmarks import closed_loop_analysis as analysis
from benchmarks.closed_loop_run import Job, Quiet, circumstances, perform
from benchmarks.closed_loop_scenarios import AGAIN, ARMS, KINDS, SEEDS, STATICS, Arm, arm, rotated

Line = dict[str, Any]
ROOT = Path(__file__).resolve().parents[1]
TARGET_SHARE = 0.4
"""Of the budget, after which the untouched and undisturbed script has met the target."""
CALIBRATIONS = 3
TUNING_SEED = SEEDS["validation"] + 100
ROUNDS: tuple[tuple[tuple[str, ...], int], ...] = (
    (("heat_and_memory",), 10),
    (("stationary",), 5),
    (("stationary", "heat", "memory", "heat_and_memory"), 1),
)
"""Scenario types of each round of tuning, a fresh seed each, and how many candidates it leaves."""
QUICK = {"seconds": 12.0, "pairs": 1, "only": ["stationary", "memory"], "arms": ["hold", "rules"]}


class Runs:
    """The lines that are there, and the making of those that are not."""

    def __init__(self, out: Path, make: Callable[[Job, Arm, Line, Path], Line]) -> None:
        self._file, self._decisions, self._make = out / "runs.jsonl", out / "decisions", make
        out.mkdir(parents=True, exist_ok=True)
        self.lines = read(self._file)

    def find(self, job: Job) -> Line | None:
        """The line of this run, if it was made."""
        names = ("stage", "kind", "seed", "arm", "budget_seconds", "preset")
        return next((line for line in self.lines if tuple(line[name] for name in names) == job.key), None)

    def ensure(self, job: Job, known: Line | None = None) -> Line:
        """The line of this run, made now if need be by what is known. Raises DemoError when the daemon fails."""
        found = self.find(job)
        if found is not None:
            return found
        known = known or {}
        line = self._make(job, arm(job.arm, known.get("best_static", "")), known, self._decisions)
        torn = self._file.exists() and not self._file.read_bytes().endswith(b"\n") and self._file.stat().st_size > 0
        with self._file.open("a") as stream:  # one write: another core may be adding its own lines
            stream.write("\n" * torn + json.dumps(line, allow_nan=False) + "\n")
        self.lines.append(line)
        loss = line.get("held_out_loss")
        shown = f"loss {loss:.4f}" if loss is not None else line["failure"] or "no loss"
        shown += ", disturbed by others" * line["disturbed"]
        print(f"{job.stage:<10}{job.kind:<18}{job.seed:<9}{job.arm:<20}{shown}, {line.get('changes', 0)} changes", flush=True)
        return line


def read(file: Path) -> list[Line]:
    """The lines that are there; a torn one is left out."""
    lines = []
    for text in file.read_text().splitlines() if file.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def calibrate(runs: Runs, seconds: float, count: int = CALIBRATIONS) -> Line:
    """Target and unit of memory, from the untouched and undisturbed script on validation seeds."""
    jobs = [Job("calibrate", "stationary", SEEDS["validation"] + i, "alone", seconds) for i in range(count)]
    lines = [runs.ensure(job) for job in jobs]
    for line in lines:
        if line["failure"]:
            raise AutotunerError(f"the untouched script failed, which says nothing about any arm: {line['failure']}")
    return {
        "budget_seconds": seconds,
        "calibrations": count,
        "target": median(analysis.loss_at(line["curve"], TARGET_SHARE * seconds) for line in lines),
        "unit_bytes": int(median(line["teacher_bytes"] for line in lines)),
        "probe_seconds": min(line["probe_seconds"] for line in lines),
        "best_static": "",
    }


def frozen(out: Path, runs: Runs, seconds: float, count: int) -> Line:
    """What was measured before any pair, measured now if need be; raises AutotunerError for another budget."""
    file = out / "frozen.json"
    if not file.exists():
        file.write_text(json.dumps(calibrate(runs, seconds, count), indent=1) + "\n")
    document: Line = json.loads(file.read_text())
    if document["budget_seconds"] != seconds:
        raise AutotunerError(f"{file} is for {document['budget_seconds']:g} s, not {seconds:g}; use another --out")
    return document


def tune(runs: Runs, known: Line) -> str:
    """The best static: candidates meet a fresh validation seed each round, and the best by mean log time stay."""
    names, scores = list(STATICS), {name: [] for name in STATICS}
    for number, (kinds, keep) in enumerate(ROUNDS):
        for kind in kinds:
            for name in rotated(tuple(names), number):
                job = Job("tune", kind, TUNING_SEED + number, name, known["budget_seconds"])
                line = runs.ensure(job, known)
                scores[name].append(math.log(analysis.seconds_of(line, known["target"])))
        names = sorted(names, key=lambda name: fmean(scores[name]))[:keep]
    return names[0]


def jobs(stage: str, kinds: Sequence[str], arms: tuple[str, ...], first: int, pairs: int, seconds: float) -> Iterator[Job]:
    """Every run of a stage in the order in which they are made: pair by pair, type by type, the first arm rotating."""
    for pair in range(first, first + pairs):
        for number, kind in enumerate(kinds):
            for name in rotated(arms, pair + number):
                yield Job(stage, kind, SEEDS["test"] + pair, name, seconds)


def report(runs: Runs, known: Line, ours: str, picture: Path | None = None) -> Line:
    """Print the tables of what is there, draw them if a file is named; returns what the last line says."""
    target, budget = known["target"], known["budget_seconds"]
    print(f"\ntarget held-out loss {target:.4f} within {budget:g} s; memory in units of {known['unit_bytes'] / 1e6:.0f} MB")
    mine = [line for line in runs.lines if line["budget_seconds"] == budget]
    lines = [line for line in mine if line["stage"] == "pair"]
    same = [line for line in mine if line["stage"] == "aa"]
    result: Line = {"stage": "S2", "target": target, "budget_seconds": budget, "best_static": known["best_static"]}
    for name in sorted({line["arm"].removesuffix(AGAIN) for line in same}):
        mean, half, pairs = analysis.agreement(same, name, target)
        verdict = "contains 0" if abs(mean) <= half else "does NOT contain 0"
        print(f"A/A {name}: log ratio {mean:+.4f} +- {half:.4f} over {pairs} pairs; the interval {verdict}")
        result |= {"aa_mean": mean, "aa_half_width": half, "aa_pairs": pairs}
    arms = [name for name in ARMS if any(line["arm"] == name for line in lines)]
    result["disturbed_by_others"] = sum(line["disturbed"] for line in mine)
    if lines:
        for text in (*analysis.table(lines, arms, target), "", *analysis.comparisons(lines, ours, arms, target)):
            print(text)
        result |= analysis.summary(lines, ours, arms, target)
        if picture:
            analysis.draw_picture(lines, ours, arms, target, picture)
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in result.items()}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; argparse answers what is wrong with it and ends with code 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--aa", action="store_true", help="hold against hold")
    what.add_argument("--tune", action="store_true", help="choose the best static on validation seeds")
    what.add_argument("--report", action="store_true", help="make no run, print the table of what is there")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="draw every pair into this file")
    parser.add_argument("--only", nargs="+", choices=KINDS, metavar="TYPE", help=f"scenario types: {', '.join(KINDS)}")
    parser.add_argument("--arms", nargs="+", choices=ARMS, metavar="ARM", help=f"arms: {', '.join(ARMS)}")
    parser.add_argument("--pairs", type=int, help="seeds of each scenario type (default: 10)")
    parser.add_argument("--first", type=int, default=0, help="number of the first of them, so that two cores can share them")
    parser.add_argument("--seconds", type=float, help="budget of a run (default: 45)")
    parser.add_argument("--core", type=int, help="pin everything to this core")
    parser.add_argument("--ours", choices=ARMS[:3], help="the arm that the claims are made for (default: the daemon's default)")
    parser.add_argument(
        "--out", type=Path, default=Path("closed-loop-results"), help="directory of the lines (default: %(default)s)"
    )
    parser.add_argument(
        "--patience", type=float, default=600.0, help="seconds to wait for an idle core before a run (default: %(default)g)"
    )
    parser.add_argument(
        "--starved",
        type=float,
        default=0.05,
        help="share that others may take before a run is made again (default: %(default)g)",
    )
    parser.add_argument("--quick", action="store_true", help="a few short runs, to see that it works")
    options = parser.parse_args(arguments)
    default = QUICK if options.quick else {"seconds": 45.0, "pairs": 10, "only": list(KINDS), "arms": list(ARMS)}
    default = default | ({"only": ["stationary"]} if options.aa else {})
    for name, value in default.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if not 5 <= options.seconds <= 36_000:
        parser.error(f"--seconds {options.seconds:g}; allowed is 5 to 36000")
    if options.pairs < 1 or options.first < 0:
        parser.error(f"--pairs {options.pairs} --first {options.first}; allowed are 1 and more pairs, from number 0 on")
    if options.core is not None and options.core not in os.sched_getaffinity(0):
        parser.error(f"--core {options.core}; allowed: {', '.join(map(str, sorted(os.sched_getaffinity(0))))}")
    return options


def check(arms: Sequence[str], best_static: str) -> None:
    """Raise AutotunerError or ValueError for arms that would not be what they are called, before any run is made."""
    for name in arms:
        policy = arm(name, best_static).policy
        problem = resolve_policy(policy, shipped_artefacts()).problem if policy else ""
        if problem:
            raise AutotunerError(f"arm {name!r}: {problem}")


def work(options: argparse.Namespace, runs: Runs) -> Line:
    """Make the runs that are asked for, and report."""
    if options.report and not (options.out / "frozen.json").exists():
        raise AutotunerError(f"nothing to report: {options.out} has no frozen.json, which the first run writes")
    known = frozen(options.out, runs, options.seconds, 1 if options.quick else CALIBRATIONS)
    if options.tune:
        known["best_static"] = tune(runs, known)
        (options.out / "frozen.json").write_text(json.dumps(known, indent=1) + "\n")
        print(f"best static: {known['best_static']}")
    elif not options.report:
        arms = ("hold", "hold" + AGAIN) if options.aa else tuple(options.arms)
        check(arms, known["best_static"])
        stage = "aa" if options.aa else "pair"
        for job in jobs(stage, options.only, arms, options.first, options.pairs, options.seconds):
            runs.ensure(job, known)
    ours = options.ours or resolve_policy("default", shipped_artefacts()).policy.name
    return report(runs, known, ours, options.picture)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Exit code 0 done, 1 something failed, 130 interrupted: what was made is kept either way."""
    options = parse()
    options.out, options.picture = options.out.resolve(), options.picture and options.picture.resolve()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # whatever ends this must not leave daemon or training behind
        signal.signal(number, _interrupt)
    os.chdir(ROOT)  # the trainings are started as modules of it
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    told = circumstances()
    print(f"command   python {' '.join(['benchmarks/closed_loop.py', *sys.argv[1:]])}")
    print(f"machine   {told['machine']}, {told['cores_used']} used, load {told['load']}; versions {told['versions']}")
    make = partial(perform, quiet=Quiet(options.patience, options.starved))
    try:
        print(json.dumps(work(options, Runs(options.out, make))))
    except (AutotunerError, ValueError) as error:
        print(f"closed_loop: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
