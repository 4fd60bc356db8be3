"""``autotuner evaluate CONFIG``: the whole table of what a training has reached, each value beside its noise floor."""

from __future__ import annotations

import argparse
import json

from autotuner.cli import OK
from autotuner.cli.output import add_json
from autotuner.cli.train import add_recipe, not_negative, positive, recipe_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_recipe(parser)
    parser.add_argument("--steps", type=positive, nargs="+", metavar="N", help="sampling steps to measure at")
    parser.add_argument("--images", type=positive, metavar="N", help="pictures of each kind; at most as many as are held out")
    parser.add_argument("--paired-images", type=not_negative, metavar="N", help="noises of the paired error; 0 leaves it out")
    add_json(parser, "one line of JSON in place of the table")


def run(arguments: argparse.Namespace) -> int:
    """Measure the last checkpoint and print the table."""
    from autotuner.diffusion import checkpoint
    from autotuner.diffusion.quality.report import STEPS, evaluate_checkpoint
    from autotuner.diffusion.quality.table import lines

    recipe = recipe_of(arguments)
    steps = dict.fromkeys(STEPS, tuple(arguments.steps)) if arguments.steps else STEPS
    path = recipe.out / checkpoint.FILE_NAME
    report = evaluate_checkpoint(path, recipe.prepared()[0], steps, arguments.images, arguments.paired_images)
    print(json.dumps(report.to_dict()) if arguments.json else "\n".join(lines(report)))
    return OK
