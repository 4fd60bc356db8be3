"""What a person asks for once: ``accept`` and ``undo`` are done through the guard, or refused with a reason, within one tick.

``save`` and ``restore`` are handed on to the run within a tick, and answered when it answers (``checkpoints``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from autotuner.controller.decision import Decision
from autotuner.daemon import checkpoints
from autotuner.daemon.delivery import carry_out
from autotuner.daemon.modes import OFF
from autotuner.daemon.moment import Moment
from autotuner.daemon.runs import MonitoredRun
from autotuner.journal import ChangeRecord, Journal, PinRecord, RequestRecord
from autotuner.knobs import find

LATEST_SECONDS = 30.0
"""A request that no daemon heard for so long is refused: who asked has long gone on."""
MADE = ("delivered", "acknowledged", "observed")


class RefusedError(Exception):
    """The sentence that tells the person why nothing was done."""


def answer(journal: Journal, live: Mapping[str, MonitoredRun], moment: Moment) -> None:
    """Answer every open request in the journal. Raises JournalError."""
    for request in journal.open_requests():
        try:
            reply = _do(request, live, moment)
            if reply is None:
                continue  # the run answers
            said, done = reply, 1
        except RefusedError as refusal:
            said, done = str(refusal), 0
        journal.write(replace(request, answered_unix=moment.unix, done=done, answer=said))
        run = live.get(request.run_id)
        if run is not None:
            run.log.info("request", kind=request.kind, subject=request.subject, done=bool(done), answer=said)


def _do(request: RequestRecord, live: Mapping[str, MonitoredRun], moment: Moment) -> str | None:
    run = live.get(request.run_id)
    if run is not None and run.checkpoint is not None and run.checkpoint.request.number == request.request_id:
        return None  # it waits already
    if moment.unix - request.asked_unix > LATEST_SECONDS:
        raise RefusedError("no daemon heard it in time; ask again")
    if request.kind not in ANSWERS:
        raise RefusedError(f"this daemon knows no request {request.kind!r}; it knows: {', '.join(ANSWERS)}")
    if run is None:
        raise RefusedError(f"run {request.run_id} is not live: nothing can be asked of it any more")
    if run.mode == OFF:
        raise RefusedError("Autotuner is switched off; switch it on with: autotuner on")
    return ANSWERS[request.kind](run, request, moment)


def hand_on(run: MonitoredRun, request: RequestRecord, moment: Moment) -> None:
    """Ask the run to save or to restore."""
    try:
        checkpoints.put(run, request, moment)
    except checkpoints.CannotError as error:
        raise RefusedError(str(error)) from None


def accept(run: MonitoredRun, request: RequestRecord, moment: Moment) -> str:
    """Make the change that one piece of advice recommends."""
    advice = run.journal.find_advice(request.subject)
    if advice is None or advice.from_value is None or advice.to_value is None:
        raise RefusedError(f"no advice {request.subject} stands any more: it was made, withdrawn, or replaced by newer advice")
    i = run.loop.window.index.get(advice.knob, -1)
    values = run.declaration.knobs[i].values if i >= 0 else ()
    held = values[run.loop.positions[i]] if i >= 0 else None
    if held != advice.from_value or advice.to_value not in values:
        shown = find(advice.knob).shown
        now = f"stands at {shown(held)} now" if held is not None else "is not offered any more"
        raise RefusedError(f"advice {advice.advice_id} is stale: {advice.knob} {now}, the advice was {advice.what}")
    decision = run.loop.accept(advice.knob, values.index(advice.to_value), moment.now)
    said = _carry_out(run, decision, moment)
    run.journal.withdraw_advice(run.run_id, keep=[a.advice_id for a in run.journal.advice(run.run_id) if a != advice])
    run.advice = tuple(standing for standing in run.advice if standing.advice_id != advice.advice_id)
    return said


def undo(run: MonitoredRun, request: RequestRecord, moment: Moment) -> str:
    """Take back the last change that is not taken back yet, and pin its knobs so that it is not made again."""
    changes = last_standing(run.journal.changes(run.run_id))
    if not changes:
        raise RefusedError(f"no change of {run.run_id} is left to take back")
    for change in changes:
        i = run.loop.window.index.get(change.knob, -1)
        held = run.loop.positions[i] if i >= 0 else -1
        if run.loop.pending:
            raise RefusedError(f"the script has not answered {change.what} yet; ask again when it has")
        if held != change.to_position:
            raise RefusedError(f"{change.what} does not stand any more: the script has moved {change.knob} since")
    said = _carry_out(run, run.loop.undo({change.knob: change.from_position for change in changes}, moment.now), moment)
    for change in changes:
        run.loop.pin(change.knob)
        run.journal.pin(PinRecord(run.run_id, change.knob, None, "you", moment.unix))
    release = "; ".join(f"autotuner release {run.run_id} {change.knob}" for change in changes)
    return f"{said}; pinned there, so that it is not made again, until: {release}"


def last_standing(changes: list[ChangeRecord]) -> list[ChangeRecord]:
    """The changes of the newest revision that no ``undo`` has taken back yet."""
    taken_back = 0
    revisions: dict[int, list[ChangeRecord]] = {}
    for change in changes:
        if change.state in MADE:
            revisions.setdefault(change.revision, []).append(change)
    for revision in sorted(revisions, reverse=True):
        if revisions[revision][0].reason == "undone":
            taken_back += 1
        elif taken_back:
            taken_back -= 1
        else:
            return revisions[revision]
    return []


def _carry_out(run: MonitoredRun, decision: Decision, moment: Moment) -> str:
    carry_out(run, decision, moment)
    if decision.vetoed:
        raise RefusedError(decision.why)
    if not run.loop.pending:
        raise RefusedError(f"{decision.what} could not be delivered; the daemon's log says why")
    return f"asked {run.run_id} for {decision.what}"


ANSWERS: dict[str, Callable[[MonitoredRun, RequestRecord, Moment], str | None]] = {
    "accept": accept,
    "undo": undo,
    "save": hand_on,
    "restore": hand_on,
}
"""How each of ``journal.REQUESTS`` is answered, None later; raises RefusedError."""
