"""``autotuner distill report CONFIG``: what fewer steps cost, as a table, a JSON file and a picture."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path

from autotuner.cli import OK
from autotuner.cli.train import add_recipe, not_negative, positive, recipe_of

FILE_NAME, PICTURE_NAME = "distill-report.json", "distill-report.png"
TEACHER_STEPS = (1, 2, 4, 8, 16, 64)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the action."""
    add_recipe(parser)
    parser.add_argument(
        "--runs",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="directories of more runs on the same images, to compare",
    )
    parser.add_argument(
        "--steps",
        type=positive,
        nargs="+",
        default=TEACHER_STEPS,
        metavar="N",
        help="sampling steps of the teacher; ratios are to the most (default: 1 2 4 8 16 64)",
    )
    parser.add_argument("--images", type=positive, metavar="N", help="pictures of a draw; at most as many as are held out")
    parser.add_argument("--seeds", type=positive, default=5, metavar="N", help="draws, 3 or more (default: %(default)s)")
    parser.add_argument("--paired-images", type=not_negative, metavar="N", help="noises of the paired error; 0 leaves it out")
    parser.add_argument("--json", action="store_true", help="one line of JSON in place of the table")


def run(arguments: argparse.Namespace) -> int:
    """Measure what is not in the file yet; print the table and where the picture is."""
    from autotuner.diffusion.distillation import chart
    from autotuner.diffusion.distillation.contenders import contenders
    from autotuner.diffusion.distillation.ledger import Ledger
    from autotuner.diffusion.distillation.measurements import Plan
    from autotuner.diffusion.distillation.report import measure
    from autotuner.diffusion.distillation.table import lines

    recipe = recipe_of(arguments)
    plan = Plan(arguments.images, arguments.seeds, arguments.paired_images)
    dataset = recipe.prepared()[0]
    found = contenders([recipe.out, *arguments.runs], dataset, sorted(set(arguments.steps)))
    ledger = Ledger(recipe.out / FILE_NAME)
    report = measure(found, dataset, plan, ledger, _tell)
    _tell(1.0, "measured")
    ledger.conclude(report.to_dict())
    print(json.dumps(ledger.report) if arguments.json else "\n".join(lines(report)))
    if importlib.util.find_spec("matplotlib") is None:
        print("no picture: it needs matplotlib; pip install 'diffusion-autotuner[tracking]'", file=sys.stderr)
        return OK
    chart.save(report, recipe.out / PICTURE_NAME)
    print(recipe.out / PICTURE_NAME, file=sys.stderr if arguments.json else sys.stdout)
    return OK


def _tell(share: float, what: str) -> None:
    """One line, which the next one replaces on a terminal."""
    before, after = ("\r\x1b[K", "" if share < 1 else "\n") if sys.stderr.isatty() else ("", "\n")
    print(f"{before}{share * 100:3.0f} %  {what}", end=after, file=sys.stderr, flush=True)
