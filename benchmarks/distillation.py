"""Few steps by distillation: students against their 64-step teacher, and stages that decide themselves against equal ones.

Run: ``python benchmarks/distillation.py --out DIRECTORY``, or in pieces: ``--parts teacher students --datasets fashion``, then
``--parts stages --seeds 0 1`` and ``--parts measure table``. Every piece keeps what it has done in DIRECTORY and goes on there;
``--quick`` makes everything small enough for ten minutes, and says so. Budgets count the processor seconds of this process, so
that other jobs on the machine do not change them. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from autotuner.diffusion import checkpoint
from autotuner.diffusion.config import TrainerConfig
from autotuner.diffusion.data import Dataset, find
from autotuner.diffusion.data.emoji import read_emoji
from autotuner.diffusion.distillation import chart, start, students
from autotuner.diffusion.distillation.contenders import contenders
from autotuner.diffusion.distillation.interval import of_ratio
from autotuner.diffusion.distillation.ledger import Ledger
from autotuner.diffusion.distillation.measurements import Plan
from autotuner.diffusion.distillation.report import Report, measure
from autotuner.diffusion.distillation.table import lines
from autotuner.diffusion.sample import save_grid
from autotuner.diffusion.trainer import Trainer

PARTS = ("teacher", "students", "smaller", "measure", "stages", "table")
TEACHER_STEPS = (1, 2, 4, 8, 16, 64)
SAVE_EVERY_SECONDS = 60.0
GRID_SEED = 3
STAGE_LADDER = (16, 8, 4)
MEASUREMENTS = 15
"""Of the four-step quality in one run of ``stages``, outside its clock."""


@dataclass(frozen=True)
class Suite:
    """One dataset with its teacher and what its students are trained with."""

    dataset: Callable[[], Dataset]
    teacher: TrainerConfig
    students: dict[str, Any]
    images: int
    """Pictures of one measurement; no more than are held out."""


def _teacher(name: str, resolution: int, held_out: int, seconds: float) -> TrainerConfig:
    return TrainerConfig(
        name=name,
        model={"width": 128, "depth": 6, "mlp_ratio": 2},
        fixed={"heads": 4, "patch": 4, "attention": "relu"},
        resolution=resolution,
        resolutions=(resolution,),
        batch=32,
        micro_batch=32,
        micro_batches=(32,),
        learning_rate=3e-3,
        half_life_images=15_000,
        student_ladder=(),
        seconds=seconds,
        evaluate_every_seconds=1e9,
        quality_features="classifier",
        quality_images=held_out,
        held_out_images=held_out,
    )


STUDENTS: dict[str, Any] = {"student_ladder": (4, 2, 1), "student_learning_rate": 1e-3}
SMALLER: dict[str, dict[str, Any]] = {
    f"depth-{depth}": {**STUDENTS, "student_model": {"depth": depth}, "student_ladder": (16, 4)} for depth in (2, 4)
}
"""Students with fewer blocks: first as many steps as a teacher needs, then four."""
SMALLER_SHARE = 0.12
"""Of the teacher's time, for each."""
SUITES = {
    "fashion": Suite(lambda: find("fashion-mnist"), _teacher("fashion", 28, 512, 2700.0), STUDENTS, 512),
    "emoji": Suite(lambda: read_emoji(32), _teacher("emoji", 32, 128, 1800.0), STUDENTS, 128),
}
STAGES: dict[str, Any] = {"student_ladder": STAGE_LADDER, "student_learning_rate": 1e-3, "quality_images": 128}
"""What both rules of ``stages`` train with; the gate looks at 128 pictures."""
WATCHED_IMAGES = 256
"""Pictures of each measurement of ``stages``, from other noise than the gate's."""


def train_teacher(out: Path, dataset: Dataset, config: TrainerConfig) -> Path:
    """A finished teacher in ``out``; one that is there is not trained again."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / checkpoint.FILE_NAME
    trainer = Trainer(config, dataset, clock=time.process_time)
    if path.is_file():
        checkpoint.restore(trainer, path)
    _drive(trainer, path)
    return path


def distil(out: Path, dataset: Dataset, changes: dict[str, Any], seconds: float) -> None:
    """Students of the teacher in ``out``, kept beside it."""
    teacher, path = out / checkpoint.FILE_NAME, out / start.FILE_NAME
    trainer = Trainer(_distillation(teacher, changes, seconds), dataset, out=out, clock=time.process_time)
    if path.is_file():
        checkpoint.restore(trainer, path)
    else:
        start.take_teacher(trainer, teacher)
    _drive(trainer, path)
    trainer.keep_student()
    (out / "stages.json").write_text(
        json.dumps({"moves": trainer.knobs.history(), "evaluations": [row.gap for row in trainer.evaluations]})
    )


def _distillation(teacher: Path, changes: dict[str, Any], seconds: float, **more: Any) -> TrainerConfig:
    config = checkpoint.configuration(teacher)
    wanted = start.configured(teacher, replace(config, **changes), set(changes), None, seconds)
    return replace(wanted, evaluate_every_seconds=seconds / 40, **more)


def _drive(trainer: Trainer, path: Path) -> None:
    saved = trainer.seconds
    for progress in trainer.steps():
        if progress.seconds - saved >= SAVE_EVERY_SECONDS:
            saved = progress.seconds
            checkpoint.save(trainer, path)
            print(
                f"  {path.parent.name}/{path.stem} {progress.seconds:.0f} s, stage {progress.stage}, loss {progress.loss:.4f}",
                flush=True,
            )
    checkpoint.save(trainer, path)


def beside(out: Path, name: str) -> Path:
    """Where students of another size are kept, with the same teacher."""
    folder = out.with_name(f"{out.name}-{name}")
    folder.mkdir(exist_ok=True)
    for file in (checkpoint.FILE_NAME, Path(checkpoint.FILE_NAME).with_suffix(".seconds").name):
        if (out / file).exists() and not (folder / file).exists():
            (folder / file).symlink_to((out / file).resolve())
    return folder


def measured(out: Path, dataset: Dataset, images: int, draws: int) -> Report:
    """Every distance of teacher and students in ``out``; what is known is not measured again."""
    ledger = Ledger(out / "distill-report.json")
    others = [path for path in sorted(out.parent.glob(f"{out.name}-*")) if students.known(path)]
    found = contenders([out, *others], dataset, TEACHER_STEPS)
    report = measure(
        found, dataset, Plan(images, draws, 32), ledger, lambda share, what: print(f"  {share:4.0%} {what}", flush=True)
    )
    ledger.conclude(report.to_dict())
    chart.save(report, out / "distill-report.png")
    for who, steps in (("teacher", 64), ("teacher", 4), *(("student", steps) for steps in students.known(out))):
        pictures = checkpoint.samples(out / checkpoint.FILE_NAME, who, steps, 40, GRID_SEED)
        save_grid(pictures, str(out / f"grid-{who}-{steps:02d}.png"))
    return report


class Watched:
    """One distillation with its four-step Frechet distance over its own processor seconds, measured outside its clock."""

    def __init__(self, rule: str, seed: int, teacher: Path, dataset: Dataset, seconds: float, images: int) -> None:
        config = _distillation(teacher, STAGES, seconds, stage_rule=rule, seed=seed)
        if rule == "equal":  # only a gate needs to measure on the way
            config = replace(config, evaluate_every_seconds=1e9)
        self.rule, self.seed, self._labels = rule, seed, dataset.labels[:images]
        self._spent, self._since = 0.0, 0.0
        self.trainer = Trainer(config, dataset, clock=self._now)
        start.take_teacher(self.trainer, teacher)
        assert self.trainer.evaluator.features, "fitted now, on nobody's clock"
        self._steps = self.trainer.steps()
        self._running = False
        self.curve: list[tuple[float, int, float]] = []

    def _now(self) -> float:
        return self._spent + (time.process_time() - self._since if self._running else 0.0)

    def advance(self) -> bool:
        """One optimizer step, and a measurement when one is due; False at the end."""
        self._since, self._running = time.process_time(), True
        progress = next(self._steps, None)
        self._spent, self._running = self._now(), False
        if progress is None or self._spent >= self.trainer.config.seconds * (len(self.curve) + 1) / MEASUREMENTS:  # type: ignore[operator]
            self._measure()
        return progress is not None

    def _measure(self) -> None:
        evaluator = self.trainer.evaluator
        found = evaluator.as_data(evaluator.solutions("student", 4, self._labels, GRID_SEED))
        distance = evaluator.features.distance(found)
        self.curve.append((round(self._spent, 2), self.trainer.stages.stage, round(distance, 4)))

    @property
    def spent(self) -> float:
        """Processor seconds so far."""
        return self._spent


def compare_stages(out: Path, dataset: Dataset, seconds: float, seeds: list[int], images: int) -> None:
    """Both rules of each seed in one process, the one that has used less always next; done seeds are not repeated."""
    teacher, file = out / checkpoint.FILE_NAME, out / "stages.jsonl"
    done = {row["seed"] for row in _rows(file)}
    for seed in [seed for seed in seeds if seed not in done]:
        arms = [Watched(rule, seed, teacher, dataset, seconds, images) for rule in ("equal", "gated")]
        working = list(arms)
        while working:
            arm = min(working, key=lambda each: each.spent)
            if not arm.advance():
                working.remove(arm)
        with file.open("a") as stream:
            for arm in arms:
                moves = [(round(c.seconds, 1), int(c.new), c.by) for c in arm.trainer.knobs.changes if c.knob == "distill"]
                stream.write(json.dumps({"seed": seed, "rule": arm.rule, "curve": arm.curve, "moves": moves}) + "\n")
        print(f"  seed {seed}: " + ", ".join(f"{arm.rule} {arm.curve[-1][2]:.3f}" for arm in arms), flush=True)


def time_to(curve: list[list[float]], quality: float) -> float:
    """Seconds after which the quality is reached for the first time; infinite where it never is."""
    return next((seconds for seconds, _, value in curve if value <= quality), math.inf)


def stage_ratios(rows: list[dict[str, Any]]) -> dict[int, float]:
    """By seed: time of equal stages to their own best four-step quality, over that of gated ones to the same."""
    found = {}
    for seed in sorted({row["seed"] for row in rows}):
        curves = {row["rule"]: row["curve"] for row in rows if row["seed"] == seed}
        aim = min(value for _, _, value in curves["equal"])
        found[seed] = time_to(curves["equal"], aim) / time_to(curves["gated"], aim)
    return found


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def table(out: Path, reports: dict[str, Report], quick: bool) -> dict[str, Any]:
    """Print everything that is known; return the figures."""
    figures: dict[str, Any] = {"quick": quick, "datasets": {}}
    for name, report in reports.items():
        print(f"\n{name}\n" + "\n".join(lines(report)))
        figures["datasets"][name] = _figures(out / name, report)
    figures |= figures["datasets"].get("fashion", {})
    rows = _rows(out / "fashion" / "stages.jsonl")
    if rows:
        ratios = stage_ratios(rows)
        print(f"\nstages {STAGE_LADDER}: four-step quality, equal parts against a gate")
        for row in rows:
            best, last = min(value for _, _, value in row["curve"]), row["curve"][-1][2]
            print(f"  seed {row['seed']} {row['rule']:<6} best {best:.3f} last {last:.3f}  {row['moves']}")
        print("  time of equal stages over that of gated ones: " + " ".join(f"{value:.2f}" for value in ratios.values()))
        gain = of_ratio(list(ratios.values()), [1.0] * len(ratios))
        figures |= {
            "gated_vs_fixed_time_ratio": _plain(gain.value),
            "gated_vs_fixed_interval": [_plain(gain.low), _plain(gain.high)],
        }
        figures["stage_seeds"] = list(ratios)
    return figures


def _figures(out: Path, report: Report) -> dict[str, Any]:
    teacher = next(row for row in report.rows if row.who == "teacher" and row.steps == report.most_steps)
    found: dict[str, Any] = {"images": report.images, "draws": report.seeds}
    found["teacher_over_floor"] = round(teacher.frechet.value / report.floor.value, 3)
    for steps, ratio in report.ratios(out.name).items():
        found |= {
            f"fd_ratio_{steps}": round(ratio.value, 3),
            f"fd_ratio_{steps}_interval": [round(ratio.low, 3), round(ratio.high, 3)],
        }
    spent = [_processor_seconds(out / name) for name in (start.FILE_NAME, checkpoint.FILE_NAME)]
    return found | {"distill_time_ratio": round(spent[0] / spent[1], 3), "seconds": [round(value) for value in spent]}


def _plain(value: float) -> float | None:
    """For JSON, which has no NaN: too few seeds, or a quality that one of them never reached."""
    return round(value, 3) if math.isfinite(value) else None


def _processor_seconds(path: Path) -> float:
    """That a training took: noted beside its checkpoint where its own clock showed something else."""
    noted = path.with_suffix(".seconds")
    return float(noted.read_text()) if noted.exists() else float(checkpoint.read(path)[1]["seconds"])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("distillation-results"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--datasets", nargs="+", choices=SUITES, default=list(SUITES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="of the stages")
    parser.add_argument("--share", type=float, default=0.45, help="of the teacher's time that the students get")
    parser.add_argument("--stage-seconds", type=float, default=100.0)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="everything small: ten minutes, no result")
    return parser.parse_args()


def main() -> None:
    options = parse()
    print(f"command   python {' '.join(['benchmarks/distillation.py', *sys.argv[1:]])}")
    print(f"machine   {platform.system()} {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"versions  Python {platform.python_version()}, mlx {version('mlx')}, numpy {version('numpy')}")
    if options.quick:
        print("QUICK: small budgets and few pictures; these figures are no result")
        options.datasets, options.seeds, options.stage_seconds = ["fashion"], options.seeds[:1], 30.0
    reports = {}
    for name in options.datasets:
        suite, out = SUITES[name], options.out / name
        teacher = replace(suite.teacher, seconds=120.0) if options.quick else suite.teacher
        images, draws = (128, 3) if options.quick else (suite.images, options.draws)
        dataset = suite.dataset()
        if "teacher" in options.parts:
            train_teacher(out, dataset, teacher)
        if "students" in options.parts:
            distil(out, dataset, suite.students, options.share * float(teacher.seconds or 0))
        for size, changes in SMALLER.items() if "smaller" in options.parts and name == "fashion" else ():
            distil(beside(out, size), dataset, changes, SMALLER_SHARE * float(teacher.seconds or 0))
        if "measure" in options.parts:
            reports[name] = measured(out, dataset, images, draws)
    if "stages" in options.parts:
        compare_stages(
            options.out / "fashion", SUITES["fashion"].dataset(), options.stage_seconds, options.seeds, WATCHED_IMAGES
        )
    if "table" in options.parts:
        print(json.dumps(table(options.out, reports, options.quick)))


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
