"""How a command asks the running daemon for something, and waits for its answer."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from autotuner.cli import FOUND_WRONG, OK, NoDaemonError
from autotuner.cli.output import show
from autotuner.daemon.address import Address, read_address
from autotuner.daemon.wishes import ask
from autotuner.journal import Journal, RequestRecord, journal_path

WAIT_SECONDS = 20.0


def ask_daemon(
    state: Path, request: RequestRecord, monotonic: Callable[[], float] = time.monotonic, wait_seconds: float = WAIT_SECONDS
) -> RequestRecord:
    """The answered request; one that nobody answers is withdrawn. Raises NoDaemonError, JournalError."""
    running(state)
    with Journal(journal_path(state)) as journal:
        return ask(journal, request, wait_seconds, monotonic)


def running(state: Path) -> Address:
    """Where the daemon is; raises NoDaemonError when none is running."""
    address = read_address(state)
    if address is None:
        raise NoDaemonError(f"no daemon is running for {state}, so nothing can be changed; start one with: autotuner daemon")
    return address


def tell(arguments: argparse.Namespace, answered: RequestRecord, **more: str) -> int:
    """Print the answer, with ``more`` in the document; 1 when the request was refused."""
    document = {"done": bool(answered.done), "answer": answered.answer, "run_id": answered.run_id, "kind": answered.kind}
    words = answered.answer if answered.done else f"refused: {answered.answer.removeprefix('refused: ')}"
    show(arguments, document | more, words)
    return OK if answered.done else FOUND_WRONG
