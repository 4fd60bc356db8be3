"""``python -m autotuner.diffusion.quality CHECKPOINT``: the full table of one checkpoint."""

# ruff: noqa: T201  a command prints

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from autotuner.diffusion import data
from autotuner.diffusion.plain import finite
from autotuner.diffusion.quality.report import STEPS, evaluate_checkpoint
from autotuner.diffusion.quality.table import lines
from autotuner.errors import AutotunerError


def main() -> int:
    """Measure, print, and return the exit status."""
    options = argparse.ArgumentParser(prog="python -m autotuner.diffusion.quality", description=__doc__)
    options.add_argument("checkpoint", type=Path)
    options.add_argument("--data", help="what the checkpoint was trained on; default: Fashion-MNIST")
    options.add_argument("--resolution", type=int, help="edge length it was trained at; default: the images' own")
    options.add_argument("--steps", type=int, nargs="+", help="sampling steps; default: the table's")
    options.add_argument("--images", type=int, help="pictures of each kind; at most as many as are held out")
    options.add_argument("--paired-images", type=int, help="noises of the paired error; 0 leaves it out")
    options.add_argument("--json", action="store_true", help="one line of JSON in place of the table")
    given = options.parse_args()
    try:
        dataset = data.find(given.data, resolution=given.resolution)
        steps = dict.fromkeys(STEPS, tuple(given.steps)) if given.steps else STEPS
        report = evaluate_checkpoint(given.checkpoint, dataset, steps, given.images, given.paired_images)
    except AutotunerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(finite(report.to_dict()), allow_nan=False) if given.json else "\n".join(lines(report)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
