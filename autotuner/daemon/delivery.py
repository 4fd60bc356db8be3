"""From a decision to a knob page: journal the intent, write the page, journal the delivery, in this order only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

from autotuner.controller.decision import Change, Decision
from autotuner.controller.observation import OBSERVATION_VERSION
from autotuner.daemon.moment import Moment
from autotuner.daemon.runs import MonitoredRun
from autotuner.daemon.snapshot import AdviceSnapshot
from autotuner.errors import AutotunerError
from autotuner.journal import AdviceRecord, ChangeRecord, DecisionRecord, PinRecord

OBSERVATION_DIGITS = 6


def decide(run: MonitoredRun, mode: str, moment: Moment) -> None:
    """Let the loop decide, journal the decision, and do with its changes what the mode says."""
    decision = run.loop.decide(moment.now)
    run.last_decision = decision
    run.decisions += 1
    if decision.vetoed:
        run.vetoes[decision.vetoed] += 1
    run.journal.write(_decision_record(run.run_id, decision, mode, moment))
    run.keep_totals(moment)
    ACTS[mode](run, decision, moment)


def hold_pinned_values(run: MonitoredRun, pins: list[PinRecord], moment: Moment) -> None:
    """Deliver, once, the value that a person pinned a knob to."""
    for pin in pins:
        if pin.value is None or run.loop.pending or pin in run.tried_pins:
            continue
        i = run.loop.window.index[pin.knob]
        position = run.declaration.knobs[i].values.index(pin.value)
        if position != run.loop.positions[i]:
            _force(run, pin, position, moment)


def _force(run: MonitoredRun, pin: PinRecord, position: int, moment: Moment) -> None:
    decision = run.loop.force(pin.knob, position, "pinned", moment.now)
    if decision.vetoed:
        run.log.warning("pin_not_possible", knob=pin.knob, value=pin.value, why=decision.why)
    carry_out(run, decision, moment)
    if decision.vetoed or run.loop.pending:  # otherwise the journal failed: the next tick tries again
        run.tried_pins.add(pin)


def carry_out(run: MonitoredRun, decision: Decision, moment: Moment) -> None:
    """Journal and deliver what a person asked for, whatever the mode is."""
    run.last_decision = decision
    run.journal.write(_decision_record(run.run_id, decision, "act", moment))
    if decision.vetoed:
        run.vetoes[decision.vetoed] += 1
    deliver(run, decision, moment)


def give_back(run: MonitoredRun, moment: Moment) -> None:
    """Switched off: ask, once, for the script's own values; what the script moved itself stays as it is."""
    run.tried_pins.clear()  # what they hold is asked for again after: autotuner on
    wished = run.loop.own_values
    if run.loop.window.last_sample is None or wished in (run.loop.positions, run.given_back):
        return
    run.given_back = wished
    carry_out(run, run.loop.give_back(moment.now), moment)
    if not run.loop.pending:  # the journal failed: the next tick tries again
        run.given_back = ()


def deliver(run: MonitoredRun, decision: Decision, moment: Moment) -> None:
    """Intent, page, delivery. What cannot be journaled first is not delivered, and not later either."""
    if not decision.changes:
        return
    try:
        revision = run.files.next_revision
        run.journal.intend([_change_record(run.run_id, revision, change, decision, moment) for change in decision.changes])
    except (AutotunerError, OSError) as error:
        run.loop.abandon()
        run.log.error("not_delivered", what=decision.what, why=str(error))
        return
    try:
        run.files.write(decision.positions, moment.now)
    except (AutotunerError, OSError) as error:
        run.loop.abandon()
        run.journal.advance(run.run_id, revision, "lost", moment.unix)
        run.log.error("not_delivered", what=decision.what, why=str(error))
        return
    run.loop.delivered(revision)
    run.journal.advance(run.run_id, revision, "delivered", moment.unix)
    run.delivered(decision.changes)
    run.log.info(
        "delivered", revision=revision, what=decision.what, reason=decision.reason, why=decision.why, policy=decision.policy
    )


def shadow(run: MonitoredRun, decision: Decision, moment: Moment) -> None:
    """Mode ``observe``: the decision is journaled, and nothing else happens."""
    if decision.changes:  # else an ask that a person made may be waiting for its answer
        run.loop.abandon()


def advise(run: MonitoredRun, decision: Decision, moment: Moment) -> None:
    """Mode ``advise``: a change is written down for people; advice that is no longer wished is withdrawn."""
    shadow(run, decision, moment)
    advice = [_advice_record(run.run_id, change, decision, moment) for change in decision.changes]
    standing = {record.advice_id: record.first_unix for record in run.journal.advice(run.run_id)}
    run.journal.withdraw_advice(run.run_id, keep=[record.advice_id for record in advice])
    run.advice = tuple(AdviceSnapshot(record.advice_id, record.what, record.why) for record in advice)
    for record in advice:
        first_unix = standing.get(record.advice_id, record.first_unix)
        run.journal.write(AdviceRecord(**{**vars(record), "first_unix": first_unix}))
        if record.advice_id not in standing:
            run.log.info("advice", id=record.advice_id, what=record.what, reason=decision.reason, why=record.why)


ACTS: dict[str, Callable[[MonitoredRun, Decision, Moment], None]] = {"observe": shadow, "advise": advise, "act": deliver}
"""What each mode does with a decision."""


def _change_record(run_id: str, revision: int, change: Change, decision: Decision, moment: Moment) -> ChangeRecord:
    return ChangeRecord(
        run_id, revision, change.knob, change.from_position, change.to_position, change.from_value, change.to_value,
        change.reason, change.what, decision.why, decision.policy, moment.unix,
        json.dumps(decision.positions), decision.predicted_bytes,
    )  # fmt: skip


def _decision_record(run_id: str, decision: Decision, mode: str, moment: Moment) -> DecisionRecord:
    observation = [float(f"{value:.{OBSERVATION_DIGITS}g}") for value in decision.observation]
    return DecisionRecord(
        run_id, moment.unix, mode, decision.action, decision.reason, decision.what, decision.why, decision.policy,
        decision.vetoed, len(decision.changes), decision.predicted_bytes, json.dumps(decision.positions),
        "".join("01"[allowed] for allowed in decision.mask), json.dumps(observation), OBSERVATION_VERSION,
    )  # fmt: skip


def _advice_record(run_id: str, change: Change, decision: Decision, moment: Moment) -> AdviceRecord:
    identity = f"{run_id} {change.knob} {change.from_value:g} {change.to_value:g}"
    advice_id = hashlib.sha256(identity.encode()).hexdigest()[:10]
    return AdviceRecord(
        advice_id, run_id, change.knob, change.what, decision.why, moment.unix, moment.unix, change.from_value, change.to_value
    )
