"""``autotuner run -- COMMAND``: tune a training script that was not written for it, and start it again after a crash."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from pathlib import Path

from autotuner.adapters import environment
from autotuner.adapters.child import program_of, run_child, startup_environment
from autotuner.adapters.supervise import RESUMABLE, Cause, Remains, cause_of, read_remains, safer, shown
from autotuner.adapters.table import EFFECTS
from autotuner.cli import USAGE
from autotuner.cli.settings import add_state_directory, configuration
from autotuner.errors import ConfigurationError
from autotuner.hook.files import LARGEST_NOTE_BYTES, read_text

OFFERED = tuple(row.knob for row in EFFECTS if row.adapter == "accelerate" and row.effect != "none")
COMMAND_NOT_FOUND = 127


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        "example:\n  autotuner run --resume='--resume_from_checkpoint latest' -- accelerate launch train.py\n\n"
        "The exit code is the command's own, 128 and the signal's number when a signal ended it."
    )
    parser.add_argument("--name", help="what the run is called (default: as the script)")
    parser.add_argument(
        "--knobs",
        metavar="NAMES",
        help=f"what may be changed, of {','.join(OFFERED)} (default: {','.join(environment.DEFAULT_KNOBS)})",
    )
    parser.add_argument(
        "--resume",
        metavar="ARGS",
        help="what to add to the command so that it goes on from its checkpoint; without it, a crash is final",
    )
    parser.add_argument("--restarts", type=int, default=1, metavar="N", help="most restarts after crashes (default: 1)")
    parser.add_argument(
        "--json", action="store_true", help="write one JSON object about each attempt to stderr, instead of sentences"
    )
    add_state_directory(parser)
    parser.add_argument("COMMAND", nargs=argparse.REMAINDER, help="the training command, after --")


def run(arguments: argparse.Namespace) -> int:
    """Run the command until it ends for good; its exit code."""
    command = arguments.COMMAND[1:] if arguments.COMMAND[:1] == ["--"] else arguments.COMMAND
    if not command:
        raise ConfigurationError("no command is given; allowed is: autotuner run [options] -- COMMAND ARGUMENTS")
    if arguments.restarts < 0:
        raise ConfigurationError(f"--restarts {arguments.restarts}; allowed is 0 or more")
    more = _environment(arguments)
    values: dict[str, float] = {}
    for attempt in range(arguments.restarts + 1):
        again = shlex.split(arguments.resume or "") if attempt else []
        with tempfile.TemporaryDirectory(prefix="autotuner-run-") as directory:
            note = Path(directory) / "note"
            told = {**more, environment.NOTE: str(note), environment.START: json.dumps(values)}
            try:
                ending = run_child([*program_of(command), *again], startup_environment(os.environ, told))
            except OSError as error:
                print(f"autotuner: {command[0]}: {error.strerror or error}", file=sys.stderr)
                return COMMAND_NOT_FOUND
            remains = read_remains(_run_noted(note))
        cause = cause_of(ending.code, ending.said)
        next_values = _next(arguments, attempt, cause, remains)
        _tell(arguments, attempt, cause, remains, next_values)
        if next_values is None:
            return ending.code if ending.code >= 0 else 128 - ending.code
        values = next_values
    return USAGE  # not reached: the last attempt has no next one


def _run_noted(note: Path) -> Path | None:
    """The directory of the run that the command has made; None when it has made none that can be told."""
    try:
        return Path(read_text(note, LARGEST_NOTE_BYTES))
    except (OSError, ValueError):
        return None


def _environment(arguments: argparse.Namespace) -> dict[str, str]:
    more = {"AUTOTUNER_STATE_DIR": str(configuration(arguments).state_directory)}
    if arguments.name:
        more[environment.NAME] = arguments.name
    if arguments.knobs is not None:
        wrong = [name for name in arguments.knobs.split(",") if name and name not in OFFERED]
        if wrong:
            raise ConfigurationError(
                f"--knobs {arguments.knobs}: {wrong[0]!r} is not offered; allowed are {', '.join(OFFERED)}"
            )
        more[environment.KNOBS] = arguments.knobs
    return more


def _next(arguments: argparse.Namespace, attempt: int, cause: Cause, remains: Remains) -> dict[str, float] | None:
    """Knob values for the next attempt; None when there is none."""
    if cause.kind not in RESUMABLE or arguments.resume is None or attempt >= arguments.restarts:
        return None
    return safer(cause, remains)


def _tell(arguments: argparse.Namespace, attempt: int, cause: Cause, remains: Remains, values: dict[str, float] | None) -> None:
    if arguments.json:
        document = {
            "name": remains.name,
            "changes": remains.changes,
            "attempt": attempt + 1,
            "cause": cause.kind,
            "sentence": cause.sentence,
            "knobs": remains.values,
            "next": values,
        }
        print(json.dumps(document, sort_keys=True), file=sys.stderr)
    elif cause.kind == "finished":
        if remains.changes:
            times = "once" if remains.changes == 1 else f"{remains.changes} times"
            print(
                f"autotuner: {remains.name}: knobs moved {times}: {remains.moved or 'back to where they began'}",
                file=sys.stderr,
            )
    elif cause.kind not in ("finished", "stopped"):
        print(f"autotuner: {_sentence(arguments, attempt, cause, remains, values)}", file=sys.stderr)


def _sentence(
    arguments: argparse.Namespace, attempt: int, cause: Cause, remains: Remains, values: dict[str, float] | None
) -> str:
    knobs = f" with {shown(remains.values)}" if remains.knobs else ""
    if values is not None:
        return f"{cause.sentence}{knobs}; it goes on from its checkpoint with {shown(values)}"
    if cause.kind not in RESUMABLE:
        return f"{cause.sentence}; it is not started again, since it would end the same way"
    if arguments.resume is None:
        return f"{cause.sentence}{knobs}; with --resume ARGS it would have gone on from its checkpoint"
    if attempt >= arguments.restarts:
        return f"{cause.sentence}{knobs}; it has been started again {attempt} times, as --restarts {arguments.restarts} allows"
    return f"{cause.sentence}{knobs}; no knob could be set to a safer value, so it is not started again"
