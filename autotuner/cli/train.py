"""``autotuner train CONFIG``: train, or continue, what one TOML file describes; sample grids and measurements at the end."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotuner.cli import FOUND_WRONG, OK
from autotuner.cli.output import add_json, words_aside
from autotuner.errors import ConfigurationError

if TYPE_CHECKING:
    from autotuner.diffusion.config import TrainerConfig
    from autotuner.diffusion.data import Dataset
    from autotuner.diffusion.progress import Progress
    from autotuner.diffusion.recipe import Recipe
    from autotuner.diffusion.trainer import Trainer

KEPT = ("checkpoint.safetensors", "result.json")
"""What says that a directory already holds a training."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_recipe(parser)
    add_json(parser, "words to standard error, and one JSON document at the end")
    parser.add_argument(
        "--restart", action="store_true", help="begin anew where the output directory holds a training; it is kept aside"
    )
    parser.add_argument("--no-hook", action="store_true", help="do not tell any daemon of this run")
    parser.add_argument("--dry-run", action="store_true", help="print the whole configuration and stop")


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """The file and its changes: the options that train, sample and evaluate share."""
    parser.add_argument("CONFIG", type=Path, help="TOML file; docs/engine.md lists its sections")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="replace one value of the file, e.g. budget.seconds=60",
    )


def positive(text: str) -> int:
    """A whole number from 1 on, as argparse wants it."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}; allowed is 1 or more")
    return value


def not_negative(text: str) -> int:
    """A whole number from 0 on."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value}; allowed is 0 or more")
    return value


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """The checked file with the changes of the command line. Raises ConfigurationError."""
    from autotuner.diffusion import recipe

    changes = {}
    for text in arguments.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigurationError(f"--set {text!r}; expected SECTION.KEY=VALUE, e.g. budget.seconds=60")
        changes[name.strip()] = value.strip()
    return recipe.read(arguments.CONFIG, changes)


def run(arguments: argparse.Namespace) -> int:
    """Train to the end of the budget; running the same command again continues, or says that it is finished."""
    recipe = recipe_of(arguments)
    dataset, config = recipe.prepared()
    if arguments.dry_run:
        print(json.dumps({"out": str(recipe.out), "images": dataset.origin, **config.to_dict()}, indent=1))
        return OK
    with words_aside(arguments) as tell:
        code = _begin(arguments, recipe, dataset, config)
        tell({"out": recipe.out, "finished": code == OK, "result": _result(recipe.out)})
    return code


def _begin(arguments: argparse.Namespace, recipe: Recipe, dataset: Dataset, config: TrainerConfig) -> int:
    from autotuner.diffusion import checkpoint

    if arguments.restart:
        _set_aside(recipe.out)
    if _finished(recipe.out, config):
        print(f"{recipe.out} holds the finished training; a larger budget continues it, --restart begins anew")
        return OK
    recipe.out.mkdir(parents=True, exist_ok=True)
    path = recipe.out / checkpoint.FILE_NAME
    return _train(recipe, config, dataset, path if path.is_file() else None, hook=recipe.hook and not arguments.no_hook)


def _result(out: Path) -> Any:
    """``result.json`` of a finished training; None before."""
    path = out / "result.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _train(recipe: Recipe, config: TrainerConfig, dataset: Dataset, resumed: Path | None, *, hook: bool) -> int:
    from autotuner.diffusion import checkpoint, finetune, launch, result
    from autotuner.diffusion.blas import status
    from autotuner.diffusion.inert import NoRun
    from autotuner.diffusion.trainer import Trainer

    attached: Any = NoRun()
    planned = config
    if hook:
        config, attached = launch.attached(
            config, dataset, state_directory=recipe.state_directory, keep_architecture=recipe.keep_architecture, resumed=resumed
        )
    if config.model != planned.model:
        print(f"{'the checkpoint has' if resumed else 'the search proposes'} {config.model}, the file {planned.model}")
    print(f"{dataset.origin}; {status().sentence}")
    with attached:
        trainer = Trainer(config, dataset, attached, out=recipe.out)
        if resumed is not None:
            checkpoint.restore(trainer, resumed)
        at = f"continues at step {trainer.step}" if resumed else "begins"
        print(f"{config.name} {at}: {trainer.stages.teacher.layout.size:,} parameters, results in {recipe.out}")
        with Bar(trainer) as bar, stopping_on_signals(trainer):
            launch.drive(trainer, recipe.out / checkpoint.FILE_NAME, bar.show)
        if trainer.budget_used < 1:
            attached.close("interrupted")
            print(f"stopped at step {trainer.step}; the same command continues")
            return FOUND_WRONG
        print("measuring and drawing ...", flush=True)
        document = result.conclude(trainer, recipe.out)
        exported = finetune.export(trainer, recipe.out)
    _summarise(document, recipe.out)
    if exported is not None:
        print(f"for diffusers: {exported}")
    return OK


@contextmanager
def stopping_on_signals(trainer: Trainer) -> Iterator[None]:
    """A signal ends the training after the present step; a second one ends it at once, and the last checkpoint stays."""

    def stop(number: int, _: object) -> None:
        trainer.stop()
        signal.signal(number, signal.default_int_handler)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _summarise(document: dict[str, Any], out: Path) -> None:
    print(f"{document['steps']} steps in {document['seconds']:.0f} s, held-out loss {document['held_out_loss']:.4f}")
    for row in document["final_qualities"]:
        print(f"  {row['who']:8} {row['steps']:3d} steps  {document['quality_metric']} {row['quality']:.1f}")
    floor = document["quality_floor"]
    if floor == floor:
        print(f"  real images         {document['quality_metric']} {floor:.1f}")
    print(f"grids: {', '.join(row['file'] for row in document['grids'])} in {out}")


def _finished(out: Path, config: TrainerConfig) -> bool:
    """Whether the training in ``out`` has ended and spent this budget."""
    if not (out / "result.json").is_file():
        return False
    done = json.loads((out / "result.json").read_text(encoding="utf-8"))
    bounds = ((done["seconds"], config.seconds), (done["steps"], config.steps))
    return any(bound is not None and spent >= bound for spent, bound in bounds)


def _set_aside(out: Path) -> None:
    if any((out / name).exists() for name in KEPT):
        number = next(n for n in range(1, 10_000) if not out.with_name(f"{out.name}.{n}").exists())
        shutil.move(out, out.with_name(f"{out.name}.{number}"))


class Bar:
    """The progress bar of a terminal, and one line for each evaluation everywhere."""

    def __init__(self, trainer: Trainer) -> None:
        from tqdm import tqdm

        self._trainer = trainer
        self._bar = tqdm(
            total=100, disable=None, file=sys.stdout, bar_format="{percentage:3.0f} %|{bar:24}| {elapsed}<{remaining}{postfix}"
        )
        self._bar.update(round(trainer.budget_used * 100, 1))

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, progress: Progress) -> None:
        """One optimizer step."""
        evaluation = progress.evaluation
        if evaluation is not None:
            quality = (
                ""
                if evaluation.quality != evaluation.quality
                else f"  {evaluation.quality_of} quality {evaluation.quality:.1f}"
            )
            if evaluation.gap == evaluation.gap:
                quality += (
                    f", {evaluation.gap:.2f} of its teacher's in the {self._trainer.stages.student_steps} steps it learns"
                )
            self._bar.write(
                f"{progress.seconds:8.1f} s  step {progress.step:6d}  held out {evaluation.held_out_loss:.4f}{quality}",
                file=sys.stdout,
            )
            sys.stdout.flush()
        if self._bar.disable:
            return
        self._bar.set_postfix_str(
            f"step {progress.step}  loss {progress.loss:.3f}  {progress.resolution} px x {progress.micro_batch}"
            f"  stage {progress.stage}  {progress.step_seconds * 1e3:.0f} ms  {progress.peak_bytes / 2**20:.0f} MiB",
            refresh=False,
        )
        self._bar.update(max(min(self._trainer.budget_used, 1.0) * 100 - self._bar.n, 0))
