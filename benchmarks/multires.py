"""Forms of multi-resolution training against fixed full resolution, at equal processor time.

Run: ``python benchmarks/multires.py --dataset emoji --seeds 0 1 2 3 4 --out DIRECTORY``. All arms of one seed train in one
process, turn by turn, each under a clock that counts only the processor time of its own steps (evaluations and the other arms
stand outside), so that a shared machine slows all of them alike; learning rates end by the same clock. Finished seeds stay in
DIRECTORY/DATASET.jsonl and are not run again; without ``--seeds`` the table is made of what is there. The last line is JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from autotuner.diffusion.config import TrainerConfig
from autotuner.diffusion.data import Dataset, find
from autotuner.diffusion.data.emoji import read_emoji
from autotuner.diffusion.evaluation import QUALITY_SEED
from autotuner.diffusion.features import CHOICES
from autotuner.diffusion.features import find as find_features
from autotuner.diffusion.sample import save_grid
from autotuner.diffusion.trainer import Trainer

EVALUATIONS = 30
"""Moments of measurement after the first: denser early, where losses fall fast (a power law in the budget)."""
EARLY_POWER = 1.6
SAMPLING_STEPS = 12
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % quantiles of Student's t for 2 to 10 seeds."""


@dataclass(frozen=True)
class Suite:
    """One dataset with its arms."""

    config: TrainerConfig
    seconds: float
    """Processor seconds of each arm."""
    arms: dict[str, dict[str, Any]]
    """What each changes in ``config``, batch and learning rate tuned for each: ``fixed`` first, then the chosen form."""
    samples: int

    def configured(self, arm: str, seed: int, seconds: float) -> TrainerConfig:
        """The whole configuration of one arm."""
        changes = self.arms[arm]
        batch = changes.get("batch", self.config.batch)
        same = {"micro_batch": batch, "micro_batches": (batch,), "seed": seed, "seconds": seconds}
        return replace(self.config, **same, **changes)


def _config(name: str, resolution: int, edge: int, batch: int, learning_rate: float, width: int) -> TrainerConfig:
    return TrainerConfig(
        name=name,
        model={"width": width, "depth": 4, "mlp_ratio": 2},
        fixed={"heads": width // 32, "patch": 4, "attention": "relu"},
        resolution=resolution,
        resolutions=(edge, resolution),
        batch=batch,
        micro_batch=batch,
        micro_batches=(batch,),
        learning_rate=learning_rate,
        warm_up_steps=20,
        student_ladder=(),
        held_out_images=512,
        evaluate_every_steps=2**40,
    )


def _form(form: str, edge: int, share: float, **more: Any) -> dict[str, Any]:
    return {"multires": {"form": form, "rungs": [edge], "share": share, **more}}


EMOJI = {"batch": 8, "learning_rate": 8e-3}
"""What every form but the fixed one trains with there; on Fashion-MNIST all do best with the same."""
SUITES = {
    "emoji": Suite(
        _config("emoji", 64, 32, 4, 6e-3, 64),
        120.0,
        {
            "fixed": {},
            "crops": _form("crops", 32, 0.5) | EMOJI,
            "fixed-8": EMOJI,
            "levels": _form("levels", 32, 0.5) | EMOJI,
            "progressive": _form("progressive", 32, 0.3) | EMOJI,
            "mixed": _form("mixed", 32, 0.5, probability=0.75) | EMOJI,
            "high_noise": _form("high_noise", 32, 0.5) | EMOJI,
            "patches": _form("patches", 8, 0.5)
            | EMOJI
            | {"fixed": {"heads": 2, "patch": 4, "attention": "relu", "coarse_patch": 8}},
        },
        256,
    ),
    "fashion": Suite(
        _config("fashion", 28, 16, 16, 4e-3, 128),
        100.0,
        {
            "fixed": {},
            "crops": _form("crops", 16, 0.03),
            "levels": _form("levels", 16, 0.06),
            "progressive": _form("progressive", 16, 0.1),
            "mixed": _form("mixed", 16, 0.06, probability=0.75),
            "high_noise": _form("high_noise", 16, 0.06),
        },
        512,
    ),
}


def images(name: str) -> Dataset:
    """The training images of a suite."""
    return read_emoji(64) if name == "emoji" else find(None)


class OwnClock:
    """Processor seconds of this process while one arm is at work."""

    def __init__(self) -> None:
        self._spent = 0.0
        self._since: float | None = None

    def __call__(self) -> float:
        return self._spent + (time.process_time() - self._since if self._since is not None else 0.0)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count what happens inside."""
        self._since = time.process_time()
        try:
            yield
        finally:
            self._spent, self._since = self(), None


@dataclass
class Arm:
    """One training of one form."""

    name: str
    trainer: Trainer
    clock: OwnClock
    curve: list[tuple[float, int, float]] = field(default_factory=list)
    """Own seconds, steps and held-out loss at full resolution."""
    step_seconds: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._steps = self.trainer.steps()
        self._due = iter([(i / EVALUATIONS) ** EARLY_POWER for i in range(EVALUATIONS)])
        self._next = next(self._due)

    def advance(self) -> bool:
        """One optimizer step, and what is to be measured after it; False when the budget is spent."""
        if self.trainer.budget_used >= self._next:
            self.measure()
            self._next = next(self._due, 2.0)
        with self.clock.running():
            progress = next(self._steps, None)
        if progress is None:
            self.measure()
        return progress is not None

    def measure(self) -> None:
        """Held-out loss of the averaged weights; the clock stands still."""
        loss = float(np.mean(self.trainer.evaluator.held_out_losses()))
        self.curve.append((round(self.trainer.seconds, 3), self.trainer.step, round(loss, 6)))


def train(suite: Suite, dataset: Dataset, names: list[str], seconds: float, seed: int) -> list[Arm]:
    """All arms of one seed, the one that has used least always next."""
    arms = []
    for name in names:
        clock = OwnClock()
        arms.append(Arm(name, Trainer(suite.configured(name, seed, seconds), dataset, clock=clock), clock))
    working = list(arms)
    while working:
        arm = min(working, key=lambda each: each.clock())
        if not arm.advance():
            working.remove(arm)
    return arms


def record(arm: Arm, suite: Suite, seed: int, seconds: float, out: Path) -> dict[str, Any]:
    """What is kept of one arm; its samples go to a file of their own, beside a grid to look at."""
    trainer = arm.trainer
    pictures = trainer.evaluator.samples("teacher", SAMPLING_STEPS, suite.samples, QUALITY_SEED)
    np.savez_compressed(samples_of(out, trainer.config.name, arm.name, seed), samples=pictures)
    save_grid(pictures[:48], str(out / f"{trainer.config.name}-{arm.name}-{seed}.png"))
    return {
        "arm": arm.name,
        "seed": seed,
        "seconds": seconds,
        "multires": trainer.config.multires,
        "batch": trainer.config.batch,
        "learning_rate": trainer.config.learning_rate,
        "steps": trainer.step,
        "images": trainer.images,
        "curve": arm.curve,
    }


def samples_of(out: Path, dataset: str, arm: str, seed: int) -> Path:
    """Where the samples of one arm are kept."""
    return out / f"{dataset}-{arm}-{seed}.npz"


def measured(rows: list[dict[str, Any]], out: Path, suite: Suite, dataset: Dataset) -> list[dict[str, Any]]:
    """The rows with the distances of their samples in every feature space that there is today; rows keep what they have."""
    spaces = [find_features(choice, dataset) for choice in CHOICES]
    for row in rows:
        file = samples_of(out, suite.config.name, row["arm"], row["seed"])
        if file.exists():
            with np.load(file) as archive:
                pictures = archive["samples"]
            row["distances"] = {space.metric: round(space.distance(pictures), 4) for space in spaces}
    return rows


def time_to(curve: list[list[float]], loss: float) -> float:
    """Own seconds at which the loss is first reached, linear between two measurements; NaN when it never is."""
    for (before, _, high), (after, _, low) in itertools.pairwise(curve):
        if low <= loss:
            return before + (after - before) * (high - loss) / (high - low)
    return math.nan


def compare(form: dict[str, Any], fixed: dict[str, Any]) -> dict[str, float]:
    """The four ratios of one seed; below 1 the form is better."""
    start, end = fixed["curve"][0][2], fixed["curve"][-1][2]
    halfway, geometric = (start + end) / 2, float(np.sqrt(start * end))
    ratios = {
        "time_ratio": time_to(form["curve"], end) / fixed["curve"][-1][0],
        "early_time_ratio": time_to(form["curve"], halfway) / time_to(fixed["curve"], halfway),
        "geometric_time_ratio": time_to(form["curve"], geometric) / time_to(fixed["curve"], geometric),
        "end_loss_ratio": form["curve"][-1][2] / end,
    }
    shared = [name for name in fixed["distances"] if name in form["distances"]]
    return ratios | {f"fd_ratio_{name}": form["distances"][name] / fixed["distances"][name] for name in shared}


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean over seeds with Student's 95 % interval of it; no interval for one seed."""
    mean = float(np.mean(values))
    half = STUDENT[len(values) - 2] * float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return mean, mean - half, mean + half


def paired(rows: list[dict[str, Any]], name: str, seeds: list[int]) -> dict[str, list[float]]:
    """Each ratio of the form over the seeds that have both arms."""
    arms = {(row["arm"], row["seed"]): row for row in rows}
    both = [seed for seed in seeds if (name, seed) in arms and ("fixed", seed) in arms]
    ratios = [compare(arms[name, seed], arms["fixed", seed]) for seed in both]
    return {key: [each[key] for each in ratios] for key in (ratios[0] if ratios else ())}


def plain(value: float) -> float | None:
    """For JSON, which has no NaN: a level that some seed never reached."""
    return round(value, 4) if math.isfinite(value) else None


def report(rows: list[dict[str, Any]], suite: Suite, seeds: list[int]) -> dict[str, Any]:
    """Print one dataset's table; return the chosen form's numbers."""
    chosen = list(suite.arms)[1]
    result: dict[str, Any] = {}
    for name in list(suite.arms)[1:]:
        values = paired(rows, name, seeds)
        for key, each in values.items():
            mean, low, high = interval(each)
            shown = " ".join(f"{value:.3f}" for value in each)
            print(f"  {name:<12}{key:<32}{mean:>7.3f}  [{low:.3f}, {high:.3f}]  {shown}")
            if name == chosen:
                result |= {key: plain(mean), f"{key}_interval": [plain(low), plain(high)]}
    distances = [key for key in result if key.startswith("fd_ratio_") and not key.endswith("interval")]
    best = next((key for key in distances if "classifier" in key), next(iter(distances), None))
    return {"form": chosen, **result, "fd_ratio": result.get(best or ""), "seeds": seeds}


def curves(rows: list[dict[str, Any]], name: str, out: Path) -> None:
    """Every measurement as CSV, and as a picture where Matplotlib is installed."""
    lines = ["arm,seed,seconds,steps,held_out_loss"]
    lines += [f"{row['arm']},{row['seed']},{t},{step},{loss}" for row in rows for t, step, loss in row["curve"]]
    (out / f"multires-{name}.csv").write_text("\n".join(lines) + "\n")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(7, 4))
    axes = figure.add_subplot(xlabel="own processor seconds", ylabel="held-out loss, full resolution", yscale="log", title=name)
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    for row in rows:
        seconds, _, losses = zip(*row["curve"], strict=True)
        first = row is next(other for other in rows if other["arm"] == row["arm"])
        axes.plot(seconds, losses, color=f"C{arms.index(row['arm'])}", alpha=0.7, label=row["arm"] if first else None)
    axes.set_ylim(top=1.0)
    axes.legend()
    figure.savefig(str(out / f"multires-{name}.png"), dpi=110)


def machine() -> str:
    """Processor and system."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()}, {platform.system()} {platform.machine()}"
    return f"{platform.processor() or 'unknown'}, {platform.system()} {platform.machine()}"


def read(file: Path) -> list[dict[str, Any]]:
    """The rows that are there; a torn last line is left out."""
    rows = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", nargs="+", choices=SUITES, default=list(SUITES))
    parser.add_argument(
        "--seeds", nargs="*", type=int, default=[], help="seeds to train; those that are there are not repeated"
    )
    parser.add_argument("--forms", nargs="+", help="forms beside fixed (default: the chosen one)")
    parser.add_argument("--seconds", type=float, help="processor seconds of each arm (default: the suite's)")
    parser.add_argument("--out", type=Path, default=Path("multires-results"))
    return parser.parse_args()


def main() -> None:
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    results = {}
    print(f"command   python {' '.join(['benchmarks/multires.py', *sys.argv[1:]])}")
    print(f"machine   {machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"versions  Python {platform.python_version()}, mlx {version('mlx')}, numpy {version('numpy')}")
    for name in options.dataset:
        suite, dataset = SUITES[name], images(name)
        names = ["fixed", *(options.forms or list(suite.arms)[1:2])]
        seconds = options.seconds or suite.seconds
        file = options.out / f"{name}.jsonl"
        for seed in options.seeds:
            if {row["arm"] for row in read(file) if row["seed"] == seed} >= set(names):
                continue
            rows = [record(arm, suite, seed, seconds, options.out) for arm in train(suite, dataset, names, seconds, seed)]
            with file.open("a") as stream:
                stream.write("".join(json.dumps(row) + "\n" for row in rows))
        rows = measured(read(file), options.out, suite, dataset)
        seeds = options.seeds or sorted({row["seed"] for row in rows})
        config = suite.config
        print(f"\n{name}: {dataset.origin}; {config.model}, {config.fixed}")
        for arm, changes in suite.arms.items():
            print(f"  {arm:<12}batch {config.batch}, rate {config.learning_rate:g}" if not changes else f"  {arm:<12}{changes}")
        print(f"  {'form':<12}{'ratio to fixed':<32}{'mean':>7}  [95 % interval]  each seed {seeds}")
        results[name] = report(rows, suite, seeds)
        curves(rows, name, options.out)
    print(json.dumps({"datasets": results}))


if __name__ == "__main__":
    main()
