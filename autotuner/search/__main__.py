"""``python -m autotuner.search propose|show --state-dir DIR [--study NAME]``: exit 0 done, 1 could not, 2 wrong usage."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from autotuner.config import state_directory
from autotuner.errors import AutotunerError
from autotuner.hook.files import slug
from autotuner.search.show import read_tables, render
from autotuner.search.turn import Turn, propose, unstudied


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    options = _parser().parse_args(arguments)
    project = None if options.study is None else slug(options.study)
    try:
        return {"propose": _propose, "show": _show}[options.command](options.state_dir, project, options.json)
    except AutotunerError as error:
        print(f"autotuner.search: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m autotuner.search", description="Proposes the architecture of the next run.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, sentence in {
        "propose": "tell the study what has ended and write the next proposal of each project",
        "show": "print every trial of every study",
    }.items():
        command = commands.add_parser(name, help=sentence, description=sentence)
        command.add_argument("--state-dir", type=Path, default=state_directory(), help="default: %(default)s")
        command.add_argument("--study", help="only this project (the name given to attach)")
        command.add_argument("--json", action="store_true", help="one JSON document instead of text")
    return parser


def _propose(state: Path, project: str | None, as_json: bool) -> int:
    turns, note = propose(state, time.time(), project)
    if note:
        print(f"autotuner.search: {note}", file=sys.stderr)
    if as_json:
        print(json.dumps([asdict(turn) for turn in turns]))
        return 0
    for turn in turns:
        print(_line(turn))
    for sentence in [] if turns else unstudied(state)[-1:]:
        print(f"nothing to propose: {sentence}")
    if not turns and not unstudied(state):
        print("nothing to propose: no run in the journal declares a search space")
    return 0


def _line(turn: Turn) -> str:
    told = f"{turn.told} new results told" if turn.told else "no new result"
    if turn.proposal is None:
        return f"{turn.project}: {told}; {turn.what}"
    parameters = " ".join(f"{name}={value}" for name, value in turn.proposal.parameters.items())
    return f"{turn.project}: {told}; {turn.what}: {parameters}"


def _show(state: Path, project: str | None, as_json: bool) -> int:
    tables = read_tables(state, project)
    if as_json:
        print(json.dumps([asdict(table) for table in tables]))
    else:
        print("\n\n".join(render(table) for table in tables) or "no study yet")
    return 0


if __name__ == "__main__":
    sys.exit(main())
