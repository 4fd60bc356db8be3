"""Samplers that look at each sample, beside the global learned one at an equal mean number of evaluations.

Run: ``python benchmarks/adaptive.py --checkpoint CHECKPOINT`` (about ten minutes of one free core for the Fashion-MNIST
teacher; ``--quick`` takes a third of the noises and one sweep, and says so). Three sets of noise: one to learn, one to choose,
one to judge. The error is the root mean square difference from the end of the same network's exact path, in pixels of
[-1, 1]; intervals are bootstraps over the judging noises, in pairs. The comparator is a table fitted with the same code to the
same noises, for one sweep more than the table that the head begins with. ``--keep FOLDER`` holds every finished part, so that
a run that was ended goes on. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autotuner.diffusion import checkpoint
from autotuner.diffusion.adaptive import artefact
from autotuner.diffusion.adaptive.fit import errors, fit, with_curve
from autotuner.diffusion.adaptive.head import Head, plain
from autotuner.diffusion.adaptive.learn import Effort, Learned, allocate, learn_head, oracle, resized
from autotuner.diffusion.adaptive.sampling import sample
from autotuner.diffusion.schedules import ladder, log_snr, vp_time, vp_uniform
from autotuner.diffusion.schedules.artefact import identify
from autotuner.diffusion.schedules.ladder import Interval, Rung
from autotuner.diffusion.schedules.pairs import Pairs, find_pairs, rmse
from autotuner.diffusion.solvers import ipndm
from autotuner.diffusion.solvers.generalised import trace

SHARED = 2
RIDGE = 0.1
SEEDS = {"training": 101, "choosing": 102, "judging": 103}
STARTS = (vp_uniform, vp_time, log_snr)
FIRST_PAIRS = 64
"""On which the global table is begun."""


class Size(NamedTuple):
    """How much is spent."""

    noises: dict[str, int]
    sweeps: int
    """Of a head after the first one of the table alone; the comparator gets as many in all."""


FULL = Size({"training": 256, "choosing": 128, "judging": 384}, 3)
QUICK = Size({"training": 96, "choosing": 48, "judging": 128}, 1)


class Keep:
    """Finished parts, in a folder where one is given."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def __call__(self, name: str, make: Callable[[], Any]) -> Any:
        file = self.folder / f"{name}.pickle" if self.folder else None
        if file and file.exists():
            return pickle.loads(file.read_bytes())
        began = time.process_time()
        made = make()
        print(f"  {name:<12}{time.process_time() - began:7.0f} processor seconds", flush=True)
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(pickle.dumps(made))
        return made


def begin(drawer: checkpoint.Sampler, training: Pairs, choosing: Pairs, evaluations: int) -> Head:
    """The best of a few hand-made tables, fitted to the first pairs."""
    config = drawer.config
    tables = [trace(ipndm, list(grid(evaluations, config.sigma_min, config.sigma_max))) for grid in STARTS]
    heads = [plain(table, drawer.classes) for table in tables]
    best = min(heads, key=lambda head: rmse(errors(drawer.denoiser, head, choosing)))
    return fit(drawer.denoiser, best, training.first(FIRST_PAIRS), choosing, iterations=2)[0]


def globally(drawer: checkpoint.Sampler, head: Head, training: Pairs, choosing: Pairs, sweeps: int) -> Head:
    """A table fitted to all pairs."""
    return fit(drawer.denoiser, head, training, choosing, iterations=sweeps, damping=0.01)[0]


class Measured(NamedTuple):
    """One sampler on the judging noises."""

    name: str
    squares: np.ndarray
    evaluations: float


def adaptive(name: str, drawer: checkpoint.Sampler, learned: Learned, judging: Pairs) -> Measured:
    """An adaptive sampler, sampled as a user would."""
    found = sample(drawer.denoiser, judging.noise, judging.labels, learned.adaptive)
    squares = np.square(found.images - judging.ends).reshape(len(judging), -1).mean(axis=1)
    counts = np.bincount(found.evaluations)
    shares = ", ".join(f"{count}: {number}" for count, number in enumerate(counts) if number)
    print(f"  {name}: samples by evaluations {shares}; computed {found.computed} for {found.evaluations.sum()}")
    return Measured(name, squares, float(found.evaluations.mean()))


def gain(below: Measured, above: Measured, head: Head) -> Interval:
    return ladder.gain(Rung(0, below.name, head.table, below.squares), Rung(0, above.name, head.table, above.squares))


def reach(rows: dict[float, float], error: float) -> float:
    """Evaluations at which the global tables have this error: the log of the error interpolated between them."""
    counts = np.array(sorted(rows))
    logs = np.log([rows[count] for count in counts])
    return float(np.interp(-np.log(error), -logs, counts))


def run(options: argparse.Namespace) -> dict[str, Any]:
    size, keep, target = QUICK if options.quick else FULL, Keep(options.keep), options.evaluations
    drawer = checkpoint.sampler(options.checkpoint, "teacher", target)
    network, config = drawer.denoiser, drawer.config

    def pairs(part: str) -> Pairs:
        labels = np.arange(size.noises[part]) % drawer.classes
        return find_pairs(network, labels, drawer.shape, SEEDS[part], config.sigma_min, config.sigma_max)

    training, choosing, judging = (keep(part, lambda part=part: pairs(part)) for part in SEEDS)
    begun = keep("begin", lambda: begin(drawer, training, choosing, target))
    first = keep("global-1", lambda: globally(drawer, begun, training, choosing, 1))
    table = keep("global", lambda: globally(drawer, first, training, choosing, size.sweeps))
    effort = Effort(size.sweeps, curve=False, ridge=RIDGE)
    head = keep("head", lambda: learn_head(network, training, choosing, first, effort, print))

    def branch(count: int) -> Head:
        started = resized(network, head, training, count, SHARED)
        return learn_head(network, training, choosing, started, replace(effort, iterations=1), print, SHARED)

    branches = {count: keep(f"head-{count}", lambda count=count: branch(count)) for count in options.others}
    heads = [each for _, each in sorted({**branches, target: head}.items())]
    others = {
        count: keep(f"global-of-{count}", lambda count=count: other(drawer, branches[count], training, choosing))
        for count in options.others
        if count > target
    }
    return judge(drawer, (training, choosing, judging), table, head, heads, others, options)


def other(drawer: checkpoint.Sampler, branch: Head, training: Pairs, choosing: Pairs) -> Head:
    """A global table of another number of evaluations, all of it free, from where the head of as many ended."""
    return globally(drawer, plain(branch.table, drawer.classes), training, choosing, 1)


def judge(
    drawer: checkpoint.Sampler,
    sets: tuple[Pairs, Pairs, Pairs],
    table: Head,
    head: Head,
    heads: list[Head],
    others: dict[int, Head],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """All samplers on the judging noises: the table, and the values of the last line."""
    network, (training, choosing, judging), target = drawer.denoiser, sets, options.evaluations

    def measured(name: str, each: Head) -> Measured:
        return Measured(name, errors(network, each, judging), each.table.evaluations)

    curved = [with_curve(network, each, training) for each in heads]
    own = heads.index(head)
    base = measured("global table", table)
    base_curved = measured("global table, curve", with_curve(network, table, training))
    allocated, allocated_curved = (allocate(network, training, choosing, each, SHARED, target) for each in (heads, curved))
    rows = [
        base,
        base_curved,
        measured("head", head),
        measured("head, curve", curved[own]),
        adaptive("head, own number", drawer, allocated, judging),
        adaptive("head, own number, curve", drawer, allocated_curved, judging),
    ]
    gains = [gain(base, row, table) for row in rows]
    show(rows, gains)
    curve = {float(target): rmse(base.squares)}
    for count, each in sorted(others.items()):
        curve[float(count)] = rmse(errors(network, each, judging))
        print(f"{'global table':<26}{count:12.2f}{curve[float(count)]:9.5f}")
    squares = np.stack([errors(network, each, judging) for each in heads], axis=1)
    counts = np.array([each.table.evaluations for each in heads])
    bound = 1 - oracle(squares, counts, target) / rmse(base.squares)
    print(f"heads with errors known beforehand (bound of any forecast): {100 * bound:.1f} % lower")
    # Chosen on the noises that chose everything else, never on those that judge.
    best = 4 if expected(allocated) < rmse(errors(network, head, choosing)) else 2
    both_curved = gain(base_curved, rows[best + 1], table)
    if options.draw:
        draw(rows, curve, options.draw)
    if options.save:
        save(drawer, allocated_curved, rows[5], gains[5], options)
    return {
        "adaptive_gain": gains[best].value,
        "adaptive_gain_interval": [gains[best].low, gains[best].high],
        "adaptive_gain_of": rows[best].name,
        "adaptive_gain_both_with_curve": both_curved.value,
        "adaptive_gain_both_with_curve_interval": [both_curved.low, both_curved.high],
        "oracle_allocation_gain": bound,
        "fewer_evaluations_at_equal_error": 1 - rows[best].evaluations / reach(curve, rmse(rows[best].squares)),
        "mean_evaluations": rows[best].evaluations,
        "errors": {row.name: rmse(row.squares) for row in rows},
        "gains": {row.name: asdict(found) for row, found in zip(rows, gains, strict=True)},
        "global_errors": curve,
        "seeds": SEEDS,
        "noises": [len(each) for each in sets],
        "floor": judging.change,
        "quick": options.quick,
    }


def show(rows: list[Measured], gains: list[Interval]) -> None:
    print(f"\n{'sampler':<26}{'evaluations':>12}{'error':>9}{'lower than the global by %':>30}")
    for row, found in zip(rows, gains, strict=True):
        interval = f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"
        print(f"{row.name:<26}{row.evaluations:12.2f}{rmse(row.squares):9.5f}{interval:>30}")


def draw(rows: list[Measured], curve: dict[float, float], file: Path) -> None:
    """Errors over evaluations, where Matplotlib is there."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(7, 4))
    axes = figure.add_subplot(xlabel="mean evaluations of a sample", ylabel="paired error, 95 % interval", yscale="log")
    counts = sorted(curve)
    axes.plot(counts, [curve[count] for count in counts], color="black", label="global table, by its number of evaluations")
    for index, row in enumerate(rows):
        found = ladder.error_interval(row.squares)
        spans = [[found.value - found.low], [found.high - found.value]]
        place = row.evaluations + 0.03 * (index - len(rows) / 2)  # apart, so that intervals are seen
        axes.errorbar([place], [found.value], yerr=spans, fmt="o", capsize=3, label=row.name)
    axes.legend(fontsize="small")
    figure.savefig(str(file), dpi=110)


def expected(learned: Learned) -> float:
    """Paired error of the allocation on the choosing noises."""
    return rmse(learned.squares[np.arange(len(learned.squares)), learned.chosen])


def save(drawer: checkpoint.Sampler, learned: Learned, row: Measured, found: Interval, options: argparse.Namespace) -> None:
    path = artefact.path_of(options.save, options.evaluations)
    identity = identify(drawer.denoiser)
    artefact.save(artefact.Saved(identity, learned.adaptive, row.evaluations, found, len(row.squares)), path)
    print(f"saved {path.name}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--evaluations", type=int, default=4, help="mean number for a sample (default 4)")
    parser.add_argument("--others", type=int, nargs="*", default=[3, 5], help="numbers that a sample may get instead")
    parser.add_argument("--quick", action="store_true", help="a third of the noises, one sweep")
    parser.add_argument("--keep", type=Path, help="folder for finished parts")
    parser.add_argument("--draw", type=Path, help="PNG file for errors over evaluations")
    parser.add_argument("--save", type=Path, help="folder of the checkpoint that the adaptive sampler is saved beside")
    return parser.parse_args()


def machine() -> str:
    """Processor and system."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()}, {platform.system()} {platform.machine()}"
    return f"{platform.processor() or 'unknown'}, {platform.system()} {platform.machine()}"


def main() -> None:
    options = parse()
    if options.quick:
        print("quick: fewer noises and one sweep; the numbers are coarse")
    print(f"command   python {' '.join(['benchmarks/adaptive.py', *sys.argv[1:]])}")
    print(f"machine   {machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"versions  Python {platform.python_version()}, mlx {version('mlx')}, numpy {version('numpy')}")
    print(json.dumps(run(options)))


if __name__ == "__main__":
    main()
