"""``autotuner pin`` and ``autotuner release``: a person's word on one knob of one run, left in the journal."""

from __future__ import annotations

import argparse
import sys
import time

from autotuner.cli import OK
from autotuner.cli.output import add_json, show
from autotuner.cli.settings import RUN_HELP, add_state_directory, configuration
from autotuner.daemon.address import read_address
from autotuner.daemon.modes import off_notice
from autotuner.daemon.wishes import pin, release
from autotuner.journal import Journal, Reader, journal_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of both commands."""
    parser.add_argument("RUN", help=RUN_HELP)
    parser.add_argument("KNOB", help="one of the run's knobs")
    if parser.prog.endswith(" pin"):
        parser.add_argument(
            "--value", type=float, metavar="V", help="hold it at this value of its ladder (default: where it is)"
        )
    add_json(parser)
    add_state_directory(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write or delete the pin."""
    state = configuration(arguments).state_directory
    with Reader(journal_path(state)) as reader:
        found = reader.find_run(arguments.RUN)
    with Journal(journal_path(state)) as journal:
        if arguments.command == "release":
            said = release(journal, found, arguments.KNOB)
        else:
            said = pin(journal, found, arguments.KNOB, arguments.value, time.time())
    daemon = read_address(state) is not None
    pinned = arguments.command == "pin"
    document = {"run_id": found.run_id, "knob": arguments.KNOB, "pinned": pinned, "daemon_running": daemon}
    show(arguments, document | ({"value": arguments.value} if pinned else {}), said)
    if pinned and arguments.value is not None and found.mode == "observe" and (found.own_mode or not found.mode_why):
        print(f"{found.run_id} is in mode observe: the value is asked for in another mode", file=sys.stderr)
    if off_notice(state):
        print("Autotuner is switched off: it takes effect after: autotuner on", file=sys.stderr)
    elif not daemon:
        print(f"no daemon is running for {state}: it takes effect when one starts", file=sys.stderr)
    return OK
