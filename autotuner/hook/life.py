"""The runs that are open in this process: said goodbye to when they end, silenced in a forked child."""

from __future__ import annotations

import atexit
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from autotuner.hook.run import Run

OPEN: dict[Run, int] = {}
"""Runs that report and are not closed, with the identity of the last error that nobody caught before they began."""


def opened(run: Run) -> None:
    """``run`` reports from now on."""
    OPEN[run] = id(_last_error())


def outcome(kind: type[BaseException] | None, error: BaseException | None = None) -> str:
    """A member of OUTCOMES for the exception that ended a run."""
    if kind is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return "finished"
    return "interrupted" if issubclass(kind, KeyboardInterrupt) else "failed"


def end_earlier(name: str) -> None:
    """In a notebook or at a prompt, a cell that is run again means that its earlier run is over; a script may have several."""
    if hasattr(sys, "ps1"):  # what Python and IPython set for an interactive session
        _close([run for run in OPEN if run.name == name])


def _close(runs: list[Run]) -> None:
    error = _last_error()
    for run in runs:
        own = error if id(error) != OPEN.get(run) else None  # else it belongs to something before the run
        run.close(outcome(type(own) if own is not None else None, own))


def _last_error() -> BaseException | None:
    """What nobody caught last: Python leaves it here before atexit functions run, and at a prompt; last_exc since 3.12."""
    error: BaseException | None = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    return error


def _close_all() -> None:
    _close(list(OPEN))


def _silence_all() -> None:
    for run in list(OPEN):
        run.silence()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_silence_all)
