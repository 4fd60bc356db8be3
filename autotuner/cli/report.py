"""``autotuner report RUN...``: one self-contained page with the course of one or more runs."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from autotuner.cli import OK
from autotuner.cli.output import add_json, show
from autotuner.cli.settings import add_state_directory, configuration
from autotuner.errors import AutotunerError
from autotuner.journal import Reader, journal_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "RUN", nargs="+", help="runs by id, beginning of an id, or name; the first is what others are compared with"
    )
    parser.add_argument("-o", "--out", type=Path, default=Path("autotuner-report"), metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--results", type=Path, action="append", metavar="DIR", help="the trainer's result directory, once a run"
    )
    add_json(parser)
    add_state_directory(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the page and print its path."""
    if importlib.util.find_spec("matplotlib") is None:
        raise AutotunerError("reports need matplotlib; install it with: pip install 'diffusion-autotuner[tracking]'")
    from autotuner.tracking.report import ReportRun, write_report

    results: list[Path | None] = [*(arguments.results or ()), *[None] * len(arguments.RUN)]
    with Reader(journal_path(configuration(arguments).state_directory)) as journal:
        ids = [journal.find_run(name).run_id for name in arguments.RUN]
        runs = [ReportRun.load(journal, run_id, directory) for run_id, directory in zip(ids, results, strict=False)]
    path = write_report(runs, arguments.out)
    show(arguments, {"report": path, "runs": ids}, str(path))
    return OK
