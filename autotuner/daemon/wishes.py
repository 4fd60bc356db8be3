"""What people may ask of a daemon, by the command line or over HTTP: rows of the journal that it reads within a tick."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from autotuner.errors import AutotunerError
from autotuner.journal import AdviceRecord, Journal, PinRecord, Reader, RequestRecord, RunRecord
from autotuner.knobs import KnobDeclaration, find
from autotuner.messages import MODES

MACHINE = "machine"
"""A run follows the machine's mode again."""
POLL_SECONDS = 0.05


def pin(journal: Journal, run: RunRecord, name: str, value: float | None, unix: float) -> str:
    """Hold a knob where it is, or at ``value``; says what was done. Raises AutotunerError."""
    knob = knob_of(run, name)
    if value is not None and value not in knob.values:
        shown = find(name).shown
        ladder = " ".join(shown(allowed) for allowed in knob.values)
        raise AutotunerError(f"{name} = {shown(value)} is not on the run's ladder; allowed: {ladder}")
    journal.pin(PinRecord(run.run_id, name, value, "you", unix))
    return f"pinned {name} of {run.run_id}" + (f" at {find(name).shown(value)}" if value is not None else " where it is")


def release(journal: Journal, run: RunRecord, name: str) -> str:
    """End a pin; says what was done. Raises AutotunerError."""
    knob_of(run, name)
    if name not in {pin.knob for pin in journal.pins(run.run_id)}:
        return f"{name} of {run.run_id} was not pinned"
    journal.release(run.run_id, name)
    return f"released {name} of {run.run_id}"


def take_mode(journal: Journal, run: RunRecord, mode: str) -> str:
    """Give a run a mode of its own, or (MACHINE) the machine's again; says what was done. Raises AutotunerError."""
    if mode not in (*MODES, MACHINE):
        raise AutotunerError(f"mode is {mode!r:.80}; allowed: {', '.join((*MODES, MACHINE))}")
    if not run.live:
        raise AutotunerError(f"run {run.run_id} has ended ({run.outcome}): no decision is made for it any more")
    journal.update_run(run.run_id, own_mode="" if mode == MACHINE else mode)
    return (
        f"{run.run_id} follows the machine's mode again" if mode == MACHINE else f"{run.run_id} is in mode {mode} from now on"
    )


def knob_of(run: RunRecord, name: str) -> KnobDeclaration:
    """The knob of a live run; raises AutotunerError."""
    if not run.live:
        raise AutotunerError(f"run {run.run_id} has ended ({run.outcome}): its knobs do not move any more")
    knob = run.declaration.knob(name)
    if knob is None:
        offered = ", ".join(declared.name for declared in run.declaration.knobs) or "none"
        raise AutotunerError(f"run {run.run_id} offers no knob {name!r:.80}; it offers: {offered}")
    return knob


def advice_of(reader: Reader, text: str) -> AdviceRecord:
    """The standing advice with this id, or whose id begins so; raises AutotunerError."""
    standing = reader.advice()
    found = [advice for advice in standing if advice.advice_id.startswith(text)] if text else []
    if len(found) == 1:
        return found[0]
    known = "; ".join(f"{advice.advice_id} ({advice.run_id}: {advice.what})" for advice in (found or standing)) or "none"
    fact = f"{text!r:.80} means {len(found)} pieces of advice"
    if not found:
        fact = f"no advice {text!r:.80} stands (it may have been withdrawn)"
    raise AutotunerError(f"{fact}; standing advice: {known}")


def ask(
    journal: Journal, request: RequestRecord, wait_seconds: float, monotonic: Callable[[], float] = time.monotonic
) -> RequestRecord:
    """The request with the daemon's answer; one that nobody answers is withdrawn. Raises JournalError."""
    number = journal.ask(request)
    until = monotonic() + wait_seconds
    while monotonic() < until:
        found = journal.request(number)
        if found is not None and found.answered_unix is not None:
            return found
        time.sleep(POLL_SECONDS)
    said = f"the daemon did not answer within {wait_seconds:.0f} s; the request is withdrawn, and nothing was changed"
    withdrawn = replace(request, request_id=number, answered_unix=time.time(), answer=said)
    journal.write(withdrawn)
    journal.commit()
    return withdrawn
