"""Checkpoints that people ask a run for: put on its page once, waited for, reported when nobody answers, never forced.

The number on the page is the request's number in the journal, so that a restarted daemon knows what was asked already.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autotuner.daemon.moment import Moment
from autotuner.errors import AutotunerError
from autotuner.hook.checkpoint import KINDS, Answer, Request, ability_on, answer_on, ask, request_on, withdraw
from autotuner.journal import RequestRecord

if TYPE_CHECKING:
    from autotuner.daemon.runs import MonitoredRun


class CannotError(Exception):
    """The sentence that tells the person why the run was not asked."""


@dataclass(frozen=True)
class Waited:
    """What the page of a run asks for."""

    record: RequestRecord
    request: Request
    since: float
    """Monotonic seconds at which this daemon put it there, or found it there: patience begins again with a restart."""
    overdue: bool = False
    """It was reported as not answered; an answer that comes all the same is written down."""


def put(run: MonitoredRun, record: RequestRecord, moment: Moment) -> None:
    """Ask the run to save or to restore; raises CannotError."""
    before = run.checkpoint
    if before is not None and not before.overdue:
        since = moment.now - before.since
        raise CannotError(f"{run.run_id} has not answered the request to {before.request.kind} of {since:.0f} s ago yet")
    assert record.request_id is not None
    request = Request(record.request_id, record.asked_unix, record.kind, record.subject)
    try:
        page = run.files.page.read()
        can, last = ability_on(page), request_on(page)
        if record.kind not in can:
            able = f"it can only {can[0]}" if can else "its script has declared neither (run.on_save, run.on_restore)"
            raise CannotError(f"{run.run_id} cannot {record.kind}: {able}")
        if last is not None and last.number == request.number:  # of a journal that is lost
            raise CannotError("its number was used before; ask again")
        ask(run.files.page, request)
    except (AutotunerError, OSError) as error:
        raise CannotError(f"the request could not be put on the page of {run.run_id}: {error}") from None
    run.checkpoint = Waited(record, request, moment.now)
    run.log.info("checkpoint_asked", kind=request.kind, request=request.number, path=request.path)


def recall(run: MonitoredRun, moment: Moment) -> None:
    """After a restart: wait on for what is on the page, and ask for nothing again. Raises JournalError."""
    try:
        request = request_on(run.files.page.read())
    except (AutotunerError, OSError):
        return
    record = run.journal.request(request.number) if request is not None else None
    if request is None or record is None or (record.run_id, record.asked_unix) != (run.run_id, request.asked_unix):
        return
    overdue = not request.kind  # it was withdrawn
    if record.kind in KINDS and not record.done and (overdue or record.answered_unix is None):
        run.checkpoint = Waited(record, replace(request, kind=record.kind), moment.now, overdue)


def follow(run: MonitoredRun, patience_seconds: float, moment: Moment) -> None:
    """Write down an answer, or that there is none in time. Raises JournalError."""
    waited = run.checkpoint
    if waited is None:
        return
    try:
        answer = answer_on(run.files.page.read())
    except (AutotunerError, OSError):
        answer = None  # the run's files tell this fault themselves
    if answer is not None and _is_of(answer, waited.request):
        run.checkpoint = None
        _settle(run, waited, answer.done, sentence(waited, answer), answer.text if answer.done else "", moment)
    elif not waited.overdue and moment.now - waited.since > patience_seconds:
        _give_up(run, waited, patience_seconds, moment)


def _is_of(answer: Answer, request: Request) -> bool:
    return (answer.number, answer.asked_unix) == (request.number, request.asked_unix)


def sentence(waited: Waited, answer: Answer) -> str:
    """What the run said."""
    late = ", after the request was withdrawn" if waited.overdue else ""
    if not answer.done:
        return (
            f"{waited.record.run_id} could not {waited.record.kind} at step {answer.step}{late}: {answer.text or 'no reason'}"
        )
    verb, where = ("saved", "to") if waited.record.kind == "save" else ("restored", "from")
    place = f" {where} {answer.text}" if answer.text else ""
    return f"{waited.record.run_id} {verb} step {answer.step}{place}{late}"


def _give_up(run: MonitoredRun, waited: Waited, patience_seconds: float, moment: Moment) -> None:
    run.checkpoint = replace(waited, overdue=True)
    run.checkpoints_unanswered += 1
    said = f"{run.run_id} did not answer within {patience_seconds:g} s; the request is withdrawn, and nothing is forced"
    try:
        withdraw(run.files.page, waited.request)
    except (AutotunerError, OSError) as error:
        run.log.warning("not_withdrawn", request=waited.request.number, why=str(error))
    _settle(run, waited, False, said, "", moment)


def end(run: MonitoredRun, outcome: str, moment: Moment) -> None:
    """The run is over: what it was asked for last is settled. Raises JournalError."""
    waited, run.checkpoint = run.checkpoint, None
    if waited is not None and not waited.overdue:
        _settle(run, waited, False, f"{run.run_id} ended ({outcome}) before it answered", "", moment)


def _settle(run: MonitoredRun, waited: Waited, done: bool, said: str, path: str, moment: Moment) -> None:
    run.checkpoint_said = said
    subject = path or waited.record.subject
    run.journal.write(replace(waited.record, answered_unix=moment.unix, done=int(done), answer=said, subject=subject))
    tell = run.log.info if done else run.log.warning
    tell("checkpoint", kind=waited.record.kind, request=waited.request.number, done=done, answer=said)


def told(run: MonitoredRun, now: float) -> str:
    """The sentence for status and status page; empty while nobody has asked for anything."""
    waited = run.checkpoint
    if waited is None or waited.overdue:
        return run.checkpoint_said
    return f"asked to {waited.request.kind} {now - waited.since:.0f} s ago"
