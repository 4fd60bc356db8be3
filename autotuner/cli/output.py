"""What every command shares when it answers: words for people, or one JSON document for programs."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


def add_json(parser: argparse.ArgumentParser, sentence: str = "print one JSON document in place of words") -> None:
    """The option ``--json``."""
    parser.add_argument("--json", action="store_true", help=sentence)


def show(arguments: argparse.Namespace, document: Any, words: str) -> None:
    """Print the document with ``--json``, else the words."""
    print(json.dumps(_plain(document), indent=1, allow_nan=False) if arguments.json else words)


@contextlib.contextmanager
def words_aside(arguments: argparse.Namespace) -> Iterator[Callable[[Any], None]]:
    """For commands that speak while they work: with ``--json`` their words go to standard error.

    What it yields prints the one document at the end, and without ``--json`` nothing.
    """
    if not arguments.json:
        yield lambda document: None
        return
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        yield lambda document: print(json.dumps(_plain(document), indent=1, allow_nan=False), file=out)


def _plain(value: Any) -> Any:
    """As JSON can hold it: unknown numbers are null, paths are text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
