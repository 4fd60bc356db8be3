"""``autotuner sample CONFIG``: images of the teacher or student that a training has reached, as one grid."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from autotuner.cli import OK
from autotuner.cli.output import add_json, words_aside
from autotuner.cli.train import add_recipe, not_negative, positive, recipe_of
from autotuner.errors import ConfigurationError

if TYPE_CHECKING:
    from autotuner.diffusion.schedules.ways import Way


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_recipe(parser)
    add_json(parser, "words to standard error, and one JSON document at the end")
    parser.add_argument("--who", choices=("teacher", "student"), default="teacher")
    parser.add_argument("--steps", type=positive, default=16, help="sampling steps (default: %(default)s)")
    parser.add_argument("--count", type=positive, default=32, help="images (default: %(default)s)")
    parser.add_argument(
        "--seed", type=not_negative, default=3, help="the same seed draws the same noise (default: %(default)s)"
    )
    parser.add_argument(
        "--sigma-rel",
        type=float,
        metavar="W",
        help="width of the average of weights, where training.ema is power (default: the one evaluated)",
    )
    add_ways(parser)
    parser.add_argument("-o", "--out", type=Path, metavar="PNG", help="default: sample-WHO-STEPS.png in the run's directory")


def add_ways(parser: argparse.ArgumentParser) -> None:
    """How the teacher samples, where not as ``autotuner schedule`` has learned for these steps."""
    parser.add_argument("--solver", metavar="NAME", help="default: what was learned for --steps, else the run's")
    parser.add_argument("--schedule", metavar="NAME", help="grid of noise levels (default: as for --solver; with it karras)")
    parser.add_argument("--within", metavar="TIME", help="of the learned schedules the best that is fast enough, e.g. 200ms")
    parser.add_argument(
        "--adaptive", action="store_true", help="with what autotuner schedule --adaptive has learned for --steps"
    )


def run(arguments: argparse.Namespace) -> int:
    """Draw the grid and print how it was drawn, and its path."""
    with words_aside(arguments) as tell:
        target, sentence = _draw(arguments)
        tell({"file": target, "way": sentence})
    return OK


def _draw(arguments: argparse.Namespace) -> tuple[Path, str]:
    """The picture's path and how it was drawn."""
    from autotuner.diffusion import checkpoint
    from autotuner.diffusion.sample import save_grid

    out = recipe_of(arguments).out
    path, steps = out / checkpoint.FILE_NAME, arguments.steps
    way, sentence = _way(arguments, path), "as configured"
    if way is None:
        images = checkpoint.samples(path, arguments.who, steps, arguments.count, arguments.seed, arguments.sigma_rel)
    else:
        images, steps = way.draw(arguments.count, arguments.seed), way.table.evaluations
        sentence = way.sentence
        print(sentence)
    target = arguments.out or out / f"sample-{arguments.who}-{steps:02d}.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    save_grid(images, str(target))
    print(target)
    return target, sentence


def _way(arguments: argparse.Namespace, path: Path) -> Way | None:
    from autotuner.diffusion.schedules import artefact, ways

    if arguments.who != "teacher":
        return _refuse_ways(arguments)
    if arguments.adaptive:
        _only_one(arguments, "--adaptive")
        for option, value in (("within", arguments.within), ("sigma-rel", arguments.sigma_rel)):
            if value is not None:
                raise ConfigurationError(f"--{option} {value} with --adaptive; allowed is one of them")
        return ways.adapted(path, arguments.steps)
    if arguments.within is not None:
        _only_one(arguments, "--within")
        return ways.within(path, arguments.within, arguments.count, arguments.sigma_rel)
    if arguments.solver is not None or arguments.schedule is not None:
        return ways.by_hand(path, arguments.steps, arguments.solver, arguments.schedule, arguments.sigma_rel)
    try:
        return ways.learned(path, arguments.steps, arguments.sigma_rel)
    except artefact.ScheduleError as error:  # as after more training: no reason to draw nothing
        print(f"{error}; drawn as configured")
        return None


def _only_one(arguments: argparse.Namespace, option: str) -> None:
    if arguments.solver is not None or arguments.schedule is not None:
        raise ConfigurationError(f"{option} chooses among learned schedules; allowed is either it or --solver and --schedule")


def _refuse_ways(arguments: argparse.Namespace) -> Way | None:
    for option in ("solver", "schedule", "within"):
        if getattr(arguments, option) is not None:
            raise ConfigurationError(f"--{option} {getattr(arguments, option)} with --who student; allowed is --who teacher")
    if arguments.adaptive:
        raise ConfigurationError("--adaptive with --who student; allowed is --who teacher")
    return None
