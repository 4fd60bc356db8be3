"""``autotuner top``: machine, runs, knobs and the last decisions, live on a terminal."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from itertools import zip_longest
from pathlib import Path
from typing import Any

from autotuner.cli import NO_DAEMON, OK
from autotuner.cli.frame import frame, painted
from autotuner.cli.output import add_json, show
from autotuner.cli.settings import add_state_directory, configuration
from autotuner.cli.status import ask
from autotuner.daemon.address import read_address
from autotuner.errors import AutotunerError
from autotuner.journal import Reader, journal_path
from autotuner.journal.records import ChangeRecord, DecisionRecord

EVENTS = 60
"""Changes and refusals that are looked up of each run."""
SECONDS = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--once", action="store_true", help="print one view and stop, as when the output is no terminal")
    parser.add_argument(
        "--seconds", type=_seconds, default=SECONDS, metavar="S", help="between two looks (default: %(default)g)"
    )
    add_json(parser, "print one view as a JSON document and stop")
    add_state_directory(parser)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.1 and 3600 seconds")
    return seconds


def run(arguments: argparse.Namespace) -> int:
    """Show the view until q or Ctrl-C, or once."""
    state = configuration(arguments).state_directory
    if arguments.json or arguments.once or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        columns, seen = shutil.get_terminal_size().columns, view(state)
        show(arguments, seen, "\n".join(painted(line, columns, coloured()) for line in frame(seen, columns)))
        return OK if seen["daemon"] else NO_DAEMON
    from autotuner.cli.screen import Screen

    with Screen(coloured()) as screen:
        while screen.shown(lambda columns, rows: frame(view(state), columns, rows), arguments.seconds):
            pass
    return OK


def coloured() -> bool:
    """Whether colours are wanted: on a terminal, and unless NO_COLOR says otherwise (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def view(state: Path) -> dict[str, Any]:
    """All that one look shows: the daemon's document or why there is none, and the journal's last events and advice."""
    address = read_address(state)
    document = ask(address) if address else None
    why = (
        ""
        if document
        else f"the daemon (pid {address.pid}) does not answer"
        if address
        else f"no daemon is running for {state}"
    )
    found: dict[str, Any] = {"unix_time": time.time(), "why": why, "daemon": document, "labels": {}, "events": [], "advice": []}
    try:
        with Reader(journal_path(state)) as journal:
            names = {run["run_id"]: run["name"] for run in (document or {}).get("runs", ())}
            names |= {run.run_id: run.name for run in journal.runs(live=True)}
            found["labels"] = _labels(names)
            found["events"] = [event for run_id in names for event in _events(journal, run_id)]
            found["events"].sort(key=lambda event: event["time_unix"])
            found["advice"] = [vars(advice) for advice in journal.advice()]
    except AutotunerError as error:
        if document:
            found["why"] = str(error)
    return found


def _labels(names: dict[str, str]) -> dict[str, str]:
    """What to call each run: its name, unless another run that is shown has it too."""
    shown = list(names.values())
    return {run_id: name if shown.count(name) == 1 else run_id for run_id, name in names.items()}


def _events(journal: Reader, run_id: str) -> list[dict[str, Any]]:
    """Changes and refusals; what was wished again and again without being made is one event, the newest."""
    changes = journal.changes(run_id, EVENTS)
    told = {change.intended_unix for change in changes}
    decisions = [d for d in journal.decisions(run_id, EVENTS, changed_only=True) if d.time_unix not in told]
    events = sorted([*map(_change, changes), *map(_decision, decisions)], key=lambda event: event["time_unix"])
    return [event for event, newer in zip_longest(events, events[1:]) if newer is None or _told(event) != _told(newer)]


def _told(event: dict[str, Any]) -> tuple[str, ...]:
    return event["what"], event["state"], event["why"]


def _change(change: ChangeRecord) -> dict[str, Any]:
    words = {"run_id": change.run_id, "what": change.what, "state": change.state, "why": change.why, "by": change.policy}
    return {"time_unix": change.intended_unix, **words}


def _decision(decision: DecisionRecord) -> dict[str, Any]:
    state = "refused" if decision.vetoed else f"not made: {decision.mode}"
    words = {"run_id": decision.run_id, "what": decision.what, "state": state, "why": decision.why, "by": decision.policy}
    return {"time_unix": decision.time_unix, **words}
