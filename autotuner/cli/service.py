"""``autotuner service``: the daemon as a login service of launchd or systemd, and its log."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from autotuner.cli import FOUND_WRONG, OK
from autotuner.cli.output import add_json, show
from autotuner.cli.settings import add_state_directory, configuration
from autotuner.daemon.service import platform_service
from autotuner.errors import AutotunerError

ACTIONS = ("install", "uninstall", "remove", "status", "restart", "logs", "print")
LINES = 50
FOLLOW_SECONDS = 0.5
CHUNK_CHARACTERS = 65_536
LARGEST_TAIL_BYTES = 20_000_000
"""What is looked at of a log's end; one that the daemon rotates is smaller."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "action", choices=ACTIONS, metavar="ACTION",
        help="install, uninstall (also: remove), status, restart, logs, or print: the file that install would write",
    )  # fmt: skip
    parser.add_argument(
        "--lines", type=int, default=LINES, metavar="N", help="logs: how many of the last lines (default: %(default)s)"
    )
    parser.add_argument("--follow", action="store_true", help="logs: go on with new lines until Ctrl-C")
    add_json(parser)
    add_state_directory(parser)


def run(arguments: argparse.Namespace) -> int:
    """Do it, and print what was done. ``status`` is 1 unless the service runs."""
    state = configuration(arguments).state_directory
    if arguments.action == "logs":
        from autotuner.daemon.log import log_path

        return _logs(arguments, log_path(state))
    service = platform_service(state)
    if arguments.action == "status":
        status = service.status()
        show(arguments, {"running": status.running, "said": status.sentence}, status.sentence)
        return OK if status.running else FOUND_WRONG
    verbs = {"install": service.install, "restart": service.restart, "print": service.print}
    said = verbs.get(arguments.action, service.uninstall)().rstrip("\n")
    show(arguments, {"action": arguments.action, "said": said, "file": service.path}, said)
    return OK


def _logs(arguments: argparse.Namespace, path: Path) -> int:
    lines = tail(path, arguments.lines)
    show(arguments, {"file": path, "lines": lines}, "\n".join(lines))
    if arguments.follow and not arguments.json:
        for line in follow(path):
            print(line, flush=True)
    return OK


def tail(path: Path, count: int) -> list[str]:
    """The last lines of the log, also from the file before it, and of LARGEST_TAIL_BYTES at most. Raises AutotunerError."""
    lines: list[str] = []
    for file in (path.with_name(path.name + ".1"), path):
        try:
            lines += _end(file).splitlines()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise AutotunerError(f"{file} cannot be read: {error.strerror}") from None
    if not lines and not path.exists():
        raise AutotunerError(f"no log at {path}: no daemon has run with this state directory yet")
    return lines[-count:] if count > 0 else []


def _end(path: Path) -> str:
    """The whole lines at the end of a file; raises OSError."""
    with path.open("rb") as file:
        skipped = max(0, os.fstat(file.fileno()).st_size - LARGEST_TAIL_BYTES)
        file.seek(skipped)
        data = file.read(LARGEST_TAIL_BYTES)
    return (data.partition(b"\n")[2] if skipped else data).decode("utf-8", errors="replace")


def follow(path: Path, wait: Callable[[float], None] = time.sleep) -> Iterator[str]:
    """New whole lines of the log as they come, also after it was rotated."""
    from_end, rest = True, ""
    while True:
        with path.open(encoding="utf-8", errors="replace") as file:
            file.seek(0, os.SEEK_END if from_end else os.SEEK_SET)
            while (said := file.read(CHUNK_CHARACTERS)) or not _rotated(path, file.fileno()):
                *whole, rest = (rest + said).split("\n")
                yield from whole
                if not said:
                    wait(FOLLOW_SECONDS)
        from_end = False


def _rotated(path: Path, descriptor: int) -> bool:
    """Whether another file has this name by now."""
    try:
        return path.stat().st_ino != os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False  # the new one is not there yet
