"""Learned samplers beside every hand-made pair of solver and grid, at equal evaluations, for one trained network.

Run: ``python benchmarks/sampling.py --checkpoint CHECKPOINT --out DIRECTORY``. The error is the root mean square difference
from the end of the same network's exact path, in pixels of [-1, 1], and the same in a classifier's features where there is one.
Each seed learns and chooses on noises of its own; all are judged on one set that none of them sees, whose ends another solver
found. Intervals are bootstraps over the judging noises. Finished parts stay in DIRECTORY and are not run again, so that a long
run may be cut in pieces. ``--quick`` trains a small network of its own unless one is given, takes one seed, fewer noises and 4
and 6 evaluations, and says so. ``--adaptive`` lets each sample's own path correct what was learned. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from autotuner.diffusion import checkpoint, features
from autotuner.diffusion.adaptive.build import Adapted, adapt
from autotuner.diffusion.checkpoint import Sampler
from autotuner.diffusion.config import TrainerConfig
from autotuner.diffusion.data import Dataset, find
from autotuner.diffusion.features import Features
from autotuner.diffusion.quality import paired
from autotuner.diffusion.quality.frechet import frechet, statistics
from autotuner.diffusion.sample import save_grid, to_pixels
from autotuner.diffusion.schedules import SCHEDULES, build
from autotuner.diffusion.schedules.candidates import candidate, hand_made, race
from autotuner.diffusion.schedules.dp import NOISES, survey
from autotuner.diffusion.schedules.ladder import LEVELS, Interval, error_interval
from autotuner.diffusion.schedules.pairs import Pairs, errors, find_pairs, rmse
from autotuner.diffusion.schedules.sampling import solve
from autotuner.diffusion.solvers.generalised import Table
from autotuner.diffusion.trainer import Trainer

JUDGING_SEED = 900
"""``build.draw_sets`` begins at 1000."""
DDIM_STEPS = 50
GOALS = {"paired_gain_4": 0.5, "paired_gain_6": 0.6, "nfe_to_match_ddim50": 6}
RESAMPLES = 200
SHOWN = 12
"""Pictures of each sampler in the grid."""
T = TypeVar("T")


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    evaluations: tuple[int, ...]
    seeds: tuple[int, ...]
    noises: int
    """To choose with."""
    learning: int
    """To learn from, at most ``noises``."""
    judged: int


FULL, QUICK = Size((4, 6, 8, 10, 16), (0, 1, 2), 512, 512, 512), Size((4, 6), (0,), 64, 64, 128)
QUICK_CONFIG = TrainerConfig(
    name="quick",
    model={"width": 64, "depth": 3, "mlp_ratio": 2},
    fixed={"heads": 2, "patch": 4, "attention": "relu"},
    resolution=28,
    resolutions=(28,),
    batch=32,
    micro_batch=32,
    micro_batches=(32,),
    learning_rate=4e-3,
    student_ladder=(),
    seconds=90.0,
    evaluate_every_steps=2**40,
)


@dataclass(frozen=True)
class Kept:
    """Finished parts in a folder."""

    folder: Path

    def of(self, name: str, make: Callable[[], T]) -> T:
        """The part called ``name``, made if it is not there."""
        path = self.folder / f"{name}.pickle"
        if not path.exists():
            began = time.process_time()
            made = make()
            draft = path.with_suffix(".draft")
            draft.write_bytes(pickle.dumps(made))
            os.replace(draft, path)
            print(f"  {name}: {time.process_time() - began:.0f} processor seconds", flush=True)
        found: T = pickle.loads(path.read_bytes())
        return found


class Bench:
    """One network with its judging noises."""

    def __init__(self, sampler: Sampler, dataset: Dataset | None, size: Size, kept: Kept) -> None:
        self.sampler, self.size, self.kept = sampler, size, kept
        self.low, self.high = sampler.config.sigma_min, sampler.config.sigma_max
        self.space: Features | None = features.find("classifier", dataset) if dataset is not None else None
        self.judging = kept.of(f"judging-{size.judged}", lambda: self.pairs(size.judged, JUDGING_SEED, paired.SOLVER))

    def pairs(self, count: int, seed: int, solver: str = "unipc") -> Pairs:
        """Labels in turn, noise of a seed, ends of their paths."""
        labels = np.arange(count) % self.sampler.classes
        return find_pairs(self.sampler.denoiser, labels, self.sampler.shape, seed, self.low, self.high, solver)

    def sets(self, seed: int) -> build.Sets:
        """What one seed learns and chooses with."""

        def make() -> build.Sets:
            training, choosing = (self.pairs(self.size.noises, 1000 + 3 * seed + k) for k in (0, 1))
            seen = survey(self.sampler.denoiser, training.labels[:NOISES], training.noise[:NOISES], self.low, self.high)
            return build.Sets(training, choosing, self.judging, seen, self.low, self.high)

        sets = self.kept.of(f"sets-{self.size.noises}-{seed}", make)
        return replace(sets, training=sets.training.first(self.size.learning))

    def built(self, evaluations: int, seed: int) -> build.Built:
        """The ladder of one seed, levels judged on the judging set."""
        fewer = f"of{self.size.learning}" if self.size.learning < self.size.noises else ""
        name = f"built-{evaluations}-{self.size.noises}{fewer}-{seed}"
        sets = replace(self.sets(seed), judging=self.judging)
        return self.kept.of(name, lambda: build.build(self.sampler.denoiser, sets, evaluations))

    def adapted(self, ladder: build.Built, seed: int) -> Adapted:
        """The last level of a seed's ladder, corrected by each sample's own path."""

        def make() -> Adapted:
            sets = replace(self.sets(seed), judging=self.judging)
            return adapt(self.sampler.denoiser, sets, ladder.best, self.sampler.classes)

        return self.kept.of(f"adapted-{ladder.evaluations}-{self.size.learning}-{seed}", make)

    def images(self, table: Table) -> np.ndarray:
        """float32 pictures from the judging noises."""
        return solve(self.sampler.denoiser, self.judging.labels, self.judging.noise, table)

    def feature_error(self, images: np.ndarray) -> float:
        """Paired error in features; NaN without any."""
        if self.space is None:
            return float("nan")
        found, ends = (self.space.project(to_pixels(each)) for each in (images, self.judging.ends))
        return paired.feature_error(found, ends)

    def frechet(self, images: np.ndarray) -> Interval:
        """Frechet distance from the training pictures with its bootstrap (which lies higher: repeated pictures spread less)."""
        if self.space is None:
            return Interval(*[float("nan")] * 3)
        found, picks = self.space.project(to_pixels(images)), np.random.default_rng(0)
        again = [
            frechet(*statistics(found[picks.integers(0, len(found), len(found))]), *self.space._statistics)
            for _ in range(RESAMPLES)
        ]
        value = frechet(*statistics(found), *self.space._statistics)
        spread = 1.96 * float(np.std(again))
        return Interval(value, value - spread, value + spread)

    def hand_made(self, evaluations: int) -> tuple[list[tuple[float, str]], np.ndarray]:
        """The best pairs of solver and grid on the judging noises themselves, as strong as a comparator can look.

        Errors and names, and the squared errors (judged,) of the first.
        """

        def make() -> tuple[list[tuple[float, str]], np.ndarray]:
            entered = hand_made(evaluations, self.low, self.high, float(np.std(self.judging.ends)))
            raced = race(self.sampler.denoiser, self.judging, entered)
            squares = errors(self.sampler.denoiser, self.judging, raced[0][1].table)
            return [(error, each.name) for error, each in raced], squares

        return self.kept.of(f"strongest-{evaluations}-{self.size.judged}", make)

    def ddim(self) -> tuple[str, np.ndarray, float]:
        """The best grid for DDIM in DDIM_STEPS, chosen on other noises; its squared errors and its feature error."""

        def make() -> tuple[str, np.ndarray, float]:
            choosing = self.sets(self.size.seeds[0]).choosing.first(64)
            entered = [candidate("euler", name, grid(DDIM_STEPS, self.low, self.high)) for name, grid in SCHEDULES.items()]
            best = min(entered, key=lambda each: rmse(errors(self.sampler.denoiser, choosing, each.table)))
            squares = errors(self.sampler.denoiser, self.judging, best.table)
            return best.name, squares, self.feature_error(self.images(best.table))

        return self.kept.of(f"ddim-{self.size.judged}", make)


def over(ladders: list[build.Built], reference: np.ndarray) -> Interval:
    """Error of what is used over that of another's squared errors, mean of the seeds, resampled over noises."""
    picks = np.random.default_rng(0).integers(0, len(reference), (2000, len(reference)))
    picks = np.concatenate([np.arange(len(reference))[None], picks])
    others = reference[picks].mean(axis=1)
    ratios = np.mean([np.sqrt(each.best.squares[picks].mean(axis=1) / others) for each in ladders], axis=0)
    return Interval(float(ratios[0]), *map(float, np.quantile(ratios[1:], [0.025, 0.975])))


def gain_of(ratio: Interval) -> Interval:
    """The share by which an error is lower."""
    return Interval(1 - ratio.value, 1 - ratio.high, 1 - ratio.low)


def measure(bench: Bench, adaptive: bool = False) -> dict[str, Any]:
    """Print the tables; return the numbers."""
    ddim_name, ddim_squares, ddim_feature = bench.ddim()
    ddim = error_interval(ddim_squares)
    print(f"DDIM in {DDIM_STEPS} steps ({ddim_name}): {told(ddim)}, in features {ddim_feature:.3g}")
    found: dict[str, Any] = {"ddim50": asdict(ddim)}
    reached = []
    for evaluations in bench.size.evaluations:
        ladders = [bench.built(evaluations, seed) for seed in bench.size.seeds]
        print(f"{evaluations} evaluations; strongest hand-made on these very noises:")
        raced, strongest = bench.hand_made(evaluations)
        print("   " + "; ".join(f"{name} {error:.4f}" for error, name in raced))
        for seed, ladder in zip(bench.size.seeds, ladders, strict=True):
            for verdict in ladder.verdicts:
                show(bench, seed, verdict)
        gain, over_ddim = gain_of(over(ladders, strongest)), over(ladders, ddim_squares)
        found |= {f"paired_gain_{evaluations}": asdict(gain), f"over_ddim50_{evaluations}": asdict(over_ddim)}
        print(f"   gain over the strongest hand-made pair, {len(ladders)} seeds: {told(gain)}", flush=True)
        print(f"   error over that of DDIM in {DDIM_STEPS} steps: {told(over_ddim)}", flush=True)
        if adaptive:
            gains = {}
            for seed, ladder in zip(bench.size.seeds, ladders, strict=True):
                each = bench.adapted(ladder, seed)
                gains[seed] = asdict(each.gain)
                print(f"   seed {seed}  adaptive            {each.error:.3g}, lower by {told(each.gain)}")
            found[f"adaptive_gain_{evaluations}"] = gains
        if all(each.best.error <= ddim.value for each in ladders):
            reached.append(evaluations)
    found["nfe_to_match_ddim50"] = min(reached) if reached else None
    return found


def show(bench: Bench, seed: int, verdict: Any) -> None:
    """One level as a line."""
    rung = verdict.rung
    images = bench.images(rung.table)
    own = told(error_interval(rung.squares))
    quality = f"features {bench.feature_error(images):.3g}, Frechet {told(bench.frechet(images), 3)}"
    print(f"   seed {seed}  {LEVELS[rung.level]:<19} {own}  {quality}  {'kept' if verdict.kept else 'left'}  {rung.name}")


def told(interval: Interval, digits: int = 3) -> str:
    """A value with its interval."""
    return f"{interval.value:.{digits}g} [{interval.low:.{digits}g}, {interval.high:.{digits}g}]"


def draw(bench: Bench, path: Path) -> None:
    """Rows of the same noises: the exact ends, then learned and hand-made for each number of evaluations."""
    rows = [bench.judging.ends[:SHOWN]]
    for evaluations in bench.size.evaluations[:3]:
        ladder = bench.built(evaluations, bench.size.seeds[0])
        few = bench.judging.first(SHOWN)
        for rung in (ladder.best, ladder.verdicts[0].rung):
            rows.append(solve(bench.sampler.denoiser, few.labels, few.noise, rung.table))
    save_grid(to_pixels(np.concatenate(rows)), str(path), columns=SHOWN)


def own_network(kept: Kept) -> Path:
    """A small teacher of Fashion-MNIST, or of the digits, trained once."""
    path = kept.folder / checkpoint.FILE_NAME
    if not path.exists():
        dataset = find(None)
        trainer = Trainer(replace(QUICK_CONFIG, resolution=dataset.resolution, resolutions=(dataset.resolution,)), dataset)
        for _ in trainer.steps():
            pass
        checkpoint.save(trainer, path)
    return path


def dataset_of(path: Path) -> Dataset | None:
    """The pictures that a checkpoint was trained on, by their name; None where only its configuration knows them."""
    data = checkpoint.read(path)[1]["data"]
    named = {"fashion-mnist", "emoji", "digits"} & {data["name"]}
    return find(named.pop(), resolution=data["resolution"]) if named else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="default: trains a small network of its own (--quick only)")
    parser.add_argument(
        "--out", type=Path, default=Path("/tmp/autotuner-sampling"), help="finished parts (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="minutes; its numbers say only that everything works")
    parser.add_argument("--evaluations", type=int, nargs="+", metavar="N")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N")
    parser.add_argument("--noises", type=int, metavar="N", help="of each set; to learn from, and to choose with")
    parser.add_argument("--learning", type=int, metavar="N", help="of them, those to learn from; the cost grows with them")
    parser.add_argument("--adaptive", action="store_true", help="correct each sample by its own path as well")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="draw a grid of samples")
    options = parser.parse_args()
    if options.checkpoint is None and not options.quick:
        parser.error("--checkpoint is needed, or --quick")
    size = QUICK if options.quick else FULL
    size = replace(size, evaluations=tuple(options.evaluations or size.evaluations), seeds=tuple(options.seeds or size.seeds))
    noises = options.noises or size.noises
    size = replace(size, noises=noises, learning=options.learning or noises)
    if not 0 < size.learning <= size.noises:
        parser.error(f"--learning {size.learning}; allowed is 1 to {size.noises}")
    options.out.mkdir(parents=True, exist_ok=True)
    kept = Kept(options.out)
    path = options.checkpoint or own_network(kept)
    if options.quick:
        print("QUICK: few noises, one seed; the numbers say only that everything works")
    print(f"{platform.machine()} {platform.system()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f};", end=" ")
    print(f"Python {platform.python_version()}, mlx {version('mlx')}, numpy {np.__version__}")
    bench = Bench(checkpoint.sampler(path, "teacher", 4), dataset_of(path), size, kept)
    certain = f"ends by {paired.SOLVER} certain to {bench.judging.change:.1g}"
    print(f"{size.judged} judging noises, {certain}; {size.learning} to learn from, {size.noises} to choose with")
    found = measure(bench, options.adaptive)
    if options.picture:
        draw(bench, options.picture)
    print(json.dumps({"benchmark": "sampling", "quick": options.quick, "goals": GOALS, **asdict(size), **found}))


if __name__ == "__main__":
    main()
