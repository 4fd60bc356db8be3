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
from autotuner.errors import AutotunerError
from autotuner.journal import Journal, PinRecord, Reader, RunRecord, journal_path
from autotuner.knobs import KnobDeclaration


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
    knob = _knob(found, arguments.KNOB)
    with Journal(journal_path(state)) as journal:
        said = _release(journal, found, knob) if arguments.command == "release" else _pin(journal, found, knob, arguments.value)
    daemon = read_address(state) is not None
    pinned = arguments.command == "pin"
    document = {"run_id": found.run_id, "knob": knob.name, "pinned": pinned, "daemon_running": daemon}
    show(arguments, document | ({"value": arguments.value} if pinned else {}), said)
    if pinned and arguments.value is not None and found.mode == "observe" and (found.own_mode or not found.mode_why):
        print(f"{found.run_id} is in mode observe: the value is asked for in another mode", file=sys.stderr)
    if off_notice(state):
        print("Autotuner is switched off: it takes effect after: autotuner on", file=sys.stderr)
    elif not daemon:
        print(f"no daemon is running for {state}: it takes effect when one starts", file=sys.stderr)
    return OK


def _knob(found: RunRecord, name: str) -> KnobDeclaration:
    if not found.live:
        raise AutotunerError(f"run {found.run_id} has ended ({found.outcome}): its knobs do not move any more")
    knob = found.declaration.knob(name)
    if knob is None:
        offered = ", ".join(declared.name for declared in found.declaration.knobs) or "none"
        raise AutotunerError(f"run {found.run_id} offers no knob {name!r}; it offers: {offered}")
    return knob


def _pin(journal: Journal, found: RunRecord, knob: KnobDeclaration, value: float | None) -> str:
    if value is not None and value not in knob.values:
        ladder = " ".join(f"{allowed:g}" for allowed in knob.values)
        raise AutotunerError(f"{knob.name} = {value:g} is not on the run's ladder; allowed: {ladder}")
    journal.pin(PinRecord(found.run_id, knob.name, value, "you", time.time()))
    return f"pinned {knob.name} of {found.run_id}" + (f" at {value:g}" if value is not None else " where it is")


def _release(journal: Journal, found: RunRecord, knob: KnobDeclaration) -> str:
    if knob.name not in {pin.knob for pin in journal.pins(found.run_id)}:
        return f"{knob.name} of {found.run_id} was not pinned"
    journal.release(found.run_id, knob.name)
    return f"released {knob.name} of {found.run_id}"
