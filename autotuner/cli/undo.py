"""``autotuner undo RUN``: take back the last change of a run, and pin its knob so that it is not made again."""

from __future__ import annotations

import argparse
import time

from autotuner.cli.output import add_json
from autotuner.cli.request import ask_daemon, running, tell
from autotuner.cli.settings import RUN_HELP, add_state_directory, configuration
from autotuner.journal import Reader, RequestRecord, journal_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("RUN", help=RUN_HELP)
    add_json(parser)
    add_state_directory(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ask the daemon; it checks whether the way back is safe."""
    state = configuration(arguments).state_directory
    running(state)
    with Reader(journal_path(state)) as reader:
        found = reader.find_run(arguments.RUN)
    return tell(arguments, ask_daemon(state, RequestRecord("undo", found.run_id, "", time.time())))
