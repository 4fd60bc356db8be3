"""``autotuner accept ID``: make the change that one piece of advice recommends."""

from __future__ import annotations

import argparse
import time

from autotuner.cli.output import add_json
from autotuner.cli.request import ask_daemon, running, tell
from autotuner.cli.settings import add_state_directory, configuration
from autotuner.errors import AutotunerError
from autotuner.journal import AdviceRecord, Reader, RequestRecord, journal_path


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
        advice = _find(reader, arguments.ID)
    return tell(arguments, ask_daemon(state, RequestRecord("accept", advice.run_id, advice.advice_id, time.time())))


def _find(reader: Reader, text: str) -> AdviceRecord:
    standing = reader.advice()
    found = [advice for advice in standing if advice.advice_id.startswith(text)] if text else []
    if len(found) == 1:
        return found[0]
    known = "; ".join(f"{advice.advice_id} ({advice.run_id}: {advice.what})" for advice in (found or standing)) or "none"
    fact = (
        f"{text!r} means {len(found)} pieces of advice" if found else f"no advice {text!r} stands (it may have been withdrawn)"
    )
    raise AutotunerError(f"{fact}; standing advice: {known}")
