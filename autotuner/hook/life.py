"""The runs that are open in this process: said goodbye to at its end, silenced in a forked child."""

from __future__ import annotations

import atexit
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from autotuner.hook.run import Run

OPEN: set[Run] = set()
"""Runs that report and are not closed."""


def outcome(kind: type[BaseException] | None, error: BaseException | None = None) -> str:
    """A member of OUTCOMES for the exception that ended a run."""
    if kind is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return "finished"
    return "interrupted" if issubclass(kind, KeyboardInterrupt) else "failed"


def _close_all() -> None:
    # The interpreter leaves an uncaught exception here before it runs atexit functions; last_exc since Python 3.12.
    error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    for run in list(OPEN):
        run.close(outcome(type(error) if error is not None else None, error))


def _silence_all() -> None:
    for run in list(OPEN):
        run.silence()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_silence_all)
