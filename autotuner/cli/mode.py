"""``autotuner mode [RUN [MODE]]``: what is done with decisions, on this machine and in each run."""

from __future__ import annotations

import argparse
from pathlib import Path

from autotuner.cli import OK
from autotuner.cli.output import add_json, show
from autotuner.cli.settings import RUN_HELP, add_state_directory, configuration
from autotuner.cli.text import table
from autotuner.daemon.address import read_address
from autotuner.daemon.modes import off_notice
from autotuner.daemon.wishes import MACHINE, take_mode
from autotuner.journal import Journal, Reader, RunRecord, journal_path
from autotuner.messages import MODES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("RUN", nargs="?", help=f"{RUN_HELP}; without one, the modes in force are shown")
    parser.add_argument(
        "MODE", nargs="?", choices=(*MODES, MACHINE), help=f"{', '.join(MODES)}, or {MACHINE} to follow the machine"
    )
    add_json(parser)
    add_state_directory(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show, or set, the mode of a run; the machine's is the setting ``mode``."""
    config = configuration(arguments)
    state = config.state_directory
    if arguments.RUN is None:
        return _show_all(arguments, state, config.mode)
    with Reader(journal_path(state)) as reader:
        found = reader.find_run(arguments.RUN)
    if arguments.MODE is None:
        show(arguments, _document(found), f"{found.run_id}: {found.mode}{_why(found)}")
        return OK
    with Journal(journal_path(state)) as journal:
        words = take_mode(journal, found, arguments.MODE)
    if read_address(state) is None:
        words += f"\nno daemon is running for {state}: it takes effect when one starts"
    show(arguments, {**_document(found), "own_mode": "" if arguments.MODE == MACHINE else arguments.MODE}, words)
    return OK


def _show_all(arguments: argparse.Namespace, state: Path, configured: str) -> int:
    path = journal_path(state)
    runs: list[RunRecord] = []
    if path.exists():
        with Reader(path) as reader:
            runs = reader.runs(live=True)
    off = off_notice(state)
    words = [off or f"this machine: {configured} (setting mode; autotuner config show tells where it comes from)"]
    if runs:
        words.append(table(("RUN", "MODE", "WHY"), [(run.run_id, run.mode, run.mode_why or "the machine's") for run in runs]))
    show(arguments, {"machine": configured, "off": bool(off), "runs": [_document(run) for run in runs]}, "\n".join(words))
    return OK


def _document(run: RunRecord) -> dict[str, str]:
    return {"run_id": run.run_id, "mode": run.mode, "own_mode": run.own_mode, "why": run.mode_why}


def _why(run: RunRecord) -> str:
    return f" ({run.mode_why})" if run.mode_why else " (the machine's)"
