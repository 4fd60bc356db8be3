"""``autotuner sample CONFIG``: images of the teacher or student that a training has reached, as one grid."""

from __future__ import annotations

import argparse
from pathlib import Path

from autotuner.cli import OK
from autotuner.cli.train import add_recipe, not_negative, positive, recipe_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_recipe(parser)
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
    parser.add_argument("-o", "--out", type=Path, metavar="PNG", help="default: sample-WHO-STEPS.png in the run's directory")


def run(arguments: argparse.Namespace) -> int:
    """Draw the grid and print its path."""
    from autotuner.diffusion import checkpoint
    from autotuner.diffusion.sample import save_grid

    out = recipe_of(arguments).out
    images = checkpoint.samples(
        out / checkpoint.FILE_NAME, arguments.who, arguments.steps, arguments.count, arguments.seed, arguments.sigma_rel
    )
    target = arguments.out or out / f"sample-{arguments.who}-{arguments.steps:02d}.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    save_grid(images, str(target))
    print(target)
    return OK
