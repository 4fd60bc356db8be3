"""``autotuner checkpoint RUN``: ask a run to save a checkpoint, or to go back to one, at its own safe point."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from autotuner.cli.output import add_json
from autotuner.cli.request import WAIT_SECONDS, ask_daemon, running, tell
from autotuner.cli.settings import RUN_HELP, add_state_directory, configuration
from autotuner.errors import AutotunerError
from autotuner.hook.checkpoint import LONGEST_TEXT_BYTES, RESTORE, SAVE
from autotuner.journal import Reader, RequestRecord, journal_path

LAST = ""
"""The run's own last checkpoint."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("RUN", help=RUN_HELP)
    parser.add_argument(
        "--restore",
        nargs="?",
        const=LAST,
        metavar="PATH",
        help="go back to the checkpoint at PATH, or without one to the run's last checkpoint",
    )
    add_json(parser)
    add_state_directory(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ask the daemon, which asks the run, and wait for what the run says."""
    config = configuration(arguments)
    state = config.state_directory
    path = "" if arguments.restore in (None, LAST) else _checked(arguments.restore)
    running(state)
    with Reader(journal_path(state)) as reader:
        found = reader.find_run(arguments.RUN)
    request = RequestRecord(SAVE if arguments.restore is None else RESTORE, found.run_id, path, time.time())
    answered = ask_daemon(state, request, wait_seconds=config.checkpoint_seconds + WAIT_SECONDS)
    return tell(arguments, answered, path=answered.subject)


def _checked(text: str) -> str:
    """The path as the script will see it, which may run in another directory. Raises AutotunerError."""
    path = str(Path(text).expanduser().absolute())
    length = len(path.encode("utf-8", "replace"))
    if length > LONGEST_TEXT_BYTES or not path.isprintable():
        raise AutotunerError(f"--restore {path!r:.80} has {length} bytes; allowed are {LONGEST_TEXT_BYTES}, all printable")
    return path
