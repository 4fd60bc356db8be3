"""``autotuner accept ID``: make the change that one piece of advice recommends."""

from __future__ import annotations

import argparse
import time

from autotuner.cli.output import add_json
from autotuner.cli.request import ask_daemon, running, tell
from autotuner.cli.settings import add_state_directory, configuration
from autotuner.daemon.wishes import advice_of
from autotuner.journal import Reader, RequestRecord, journal_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("ID", help="the advice, as autotuner status names it, or the beginning of its id")
    add_json(parser)
    add_state_directory(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ask the daemon; it checks again whether the change is safe."""
    state = configuration(arguments).state_directory
    running(state)
    with Reader(journal_path(state)) as reader:
        advice = advice_of(reader, arguments.ID)
    return tell(arguments, ask_daemon(state, RequestRecord("accept", advice.run_id, advice.advice_id, time.time())))
