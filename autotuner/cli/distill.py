"""``autotuner distill run|report CONFIG``: students of a trained model that sample in few steps, and what they cost."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotuner.cli import FOUND_WRONG, OK
from autotuner.cli.distill_report import add_arguments as add_report_arguments
from autotuner.cli.distill_report import run as run_report
from autotuner.cli.output import add_json, words_aside
from autotuner.cli.train import Bar, add_recipe, positive, recipe_of, stopping_on_signals
from autotuner.errors import AutotunerError

if TYPE_CHECKING:
    from autotuner.diffusion.config import TrainerConfig
    from autotuner.diffusion.data import Dataset
    from autotuner.diffusion.recipe import Recipe
    from autotuner.diffusion.trainer import Trainer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of both actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    begin = actions.add_parser("run", help="train students; the same command again continues")
    add_recipe(begin)
    add_json(begin, "words to standard error, and one JSON document at the end")
    begin.add_argument("--to", type=positive, metavar="STEPS", help="steps of the last student, a power of two (default: 4)")
    begin.add_argument("--seconds", type=float, metavar="S", help="wall time (default: half of the teacher's)")
    begin.add_argument(
        "--restart", action="store_true", help="begin anew where students were trained before; they are kept aside"
    )
    begin.add_argument("--no-hook", action="store_true", help="do not tell any daemon of this run")
    report = actions.add_parser("report", help="quality over steps and seconds, as a table and a picture")
    add_report_arguments(report)


def run(arguments: argparse.Namespace) -> int:
    """Do one of both."""
    if arguments.action == "report":
        return run_report(arguments)
    from autotuner.diffusion.distillation import students

    with words_aside(arguments) as tell:
        code = _distil(arguments)
        out = recipe_of(arguments).out
        tell({"out": out, "finished": code == OK, "student_steps": list(students.known(out))})
    return code


def _distil(arguments: argparse.Namespace) -> int:
    from autotuner.diffusion import checkpoint
    from autotuner.diffusion.distillation import start

    recipe = recipe_of(arguments)
    teacher, path = recipe.out / checkpoint.FILE_NAME, recipe.out / start.FILE_NAME
    if not teacher.is_file():
        raise AutotunerError(f"{teacher} is not there; train a teacher first: autotuner train {recipe.path}")
    dataset, wanted = recipe.prepared()
    config = start.configured(teacher, wanted, recipe.given, arguments.to, arguments.seconds)
    if arguments.restart:
        start.set_aside(recipe.out)
    return _train(recipe, config, dataset, teacher, path, hook=recipe.hook and not arguments.no_hook)


def _train(recipe: Recipe, config: TrainerConfig, dataset: Dataset, teacher: Path, path: Path, *, hook: bool) -> int:
    from autotuner.diffusion import launch
    from autotuner.diffusion.distillation import start
    from autotuner.diffusion.inert import NoRun
    from autotuner.diffusion.trainer import Trainer

    resumed = path if path.is_file() else None
    attached: Any = NoRun()
    if hook:
        config, attached = launch.attached(
            config, dataset, state_directory=recipe.state_directory, keep_architecture=True, resumed=resumed
        )
    with attached:
        trainer = Trainer(config, dataset, attached, out=recipe.out)
        if resumed is not None:
            start.resume(trainer, resumed, teacher)
        else:
            start.take_teacher(trainer, teacher)
        steps = " -> ".join(str(count) for count in config.student_ladder)
        print(f"students of {teacher} with {steps} steps, {config.seconds:.0f} s, at {trainer.seconds:.0f} s")
        with Bar(trainer) as bar, stopping_on_signals(trainer):
            launch.drive(trainer, path, bar.show)
        if trainer.budget_used < 1:
            attached.close("interrupted")
            print(f"stopped at step {trainer.step}; the same command continues")
            return FOUND_WRONG
        trainer.finish_student()
    _summarise(trainer, recipe)
    return OK


def _summarise(trainer: Trainer, recipe: Recipe) -> None:
    from autotuner.diffusion.distillation import students
    from autotuner.diffusion.evaluation import PREVIEW_SEED
    from autotuner.diffusion.sample import save_grid

    steps, out = trainer.stages.student_steps, recipe.out
    last = trainer.evaluate(with_quality=True)
    grid = out / f"grid-student-{steps:02d}.png"
    save_grid(trainer.evaluator.samples("student", steps, 32, PREVIEW_SEED), str(grid))
    name = trainer.evaluator.features.metric
    print(
        f"{name} in {steps} steps: {last.quality:.2f}, {last.gap:.2f} of the teacher's; students of {students.known(out)} steps"
    )
    print(f"{grid}\nautotuner sample {recipe.path} --who student --steps {steps}\nautotuner distill report {recipe.path}")
