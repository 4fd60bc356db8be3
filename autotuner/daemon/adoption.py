"""Rebuilds a run that was live before this daemon was: from the ring's history, the journal and the page."""

from __future__ import annotations

import math

from autotuner.controller.loop import ControlLoop
from autotuner.daemon.checkpoints import recall
from autotuner.daemon.moment import Moment
from autotuner.daemon.runs import MonitoredRun
from autotuner.errors import AutotunerError
from autotuner.hook.page import Revision
from autotuner.journal import ChangeRecord, EvaluationRecord, TelemetryRecord, model_key
from autotuner.messages import Acknowledgement, Evaluation, MachineState, Record, Sample


def adopt(run: MonitoredRun, machine: MachineState, mode: str, moment: Moment) -> None:
    """Bring a run up to date with all that is known of it; a new run is one of which nothing is known yet.

    Raises JournalError.
    """
    row = run.journal.run(run.run_id)
    run.loop.machine(machine)
    if row is None:
        run.journal.write(run.record(moment, mode))
    history = run.files.read()
    _recall(run, history, moment)
    _replay(run, history, moment)
    if row is not None:
        run.files.lost = row.lost_records
        run.peak_bytes = max(run.peak_bytes, row.peak_bytes)
    _settle_open_changes(run, moment)
    run.own_mode = row.own_mode if row is not None else ""
    apply_pins(run, known=row is not None)
    recall(run, moment)
    for quarantined in run.journal.quarantine(model_key(run.declaration)):
        quarantine(run.loop, quarantined.values)
    verb = "adopted" if row is not None else "discovered"
    knobs = ",".join(knob.name for knob in run.declaration.knobs)
    run.log.info(verb, name=run.declaration.name, pid=run.declaration.pid, knobs=knobs)


def apply_pins(run: MonitoredRun, known: bool = True) -> None:
    """Make the loop's pins those of the journal; a run that it did not know keeps the script's own."""
    if known:
        run.loop.pinned.clear()
    run.pins = []
    for pin in run.journal.pins(run.run_id):
        declared = run.declaration.knob(pin.knob)
        if declared is None:
            continue
        run.loop.pin(pin.knob, pin.origin)
        if pin.value in declared.values:
            run.pins.append(pin)


def quarantine(loop: ControlLoop, values: dict[str, float]) -> None:
    """Quarantine knob values, when this run's ladders have them."""
    knobs = loop.declaration.knobs
    if all(values.get(knob.name) in knob.values for knob in knobs):
        loop.quarantine(tuple(knob.values.index(values[knob.name]) for knob in knobs))


def _recall(run: MonitoredRun, history: list[Record], moment: Moment) -> None:
    """What the ring has forgotten: knobs in force, evaluations, and when the run began."""
    first = min((record.time for record in history), default=math.inf)
    oldest = next((record for record in history if isinstance(record, Sample)), None)
    # By step, since wall clocks jump. Newer rows speak of answers that the ring still has: heard after them, a change of ours
    # would look like one of the script's.
    past = run.journal.telemetry(run.run_id, last=1, before_step=oldest.step if oldest else math.inf)
    in_force = _in_force(run, past, oldest)
    if in_force is not None:
        time = min(first, moment.now)
        run.loop.feed(Acknowledgement(in_force.number, 0, time, positions=in_force.positions))
    for evaluation in run.journal.evaluations(run.run_id):
        time = moment.monotonic_at(evaluation.time_unix)
        if time < first:
            run.loop.feed(_evaluation(evaluation, time))
    began = run.journal.first_telemetry_unix(run.run_id)
    if began is not None:
        run.loop.window.first_time = moment.monotonic_at(began)


def _in_force(run: MonitoredRun, past: list[TelemetryRecord], oldest: Sample | None) -> Revision | None:
    """The positions in force before the ring's oldest record: the page's if it was followed by then, else the journal's."""
    asked = _asked(run)
    journaled = past[-1].revision if past else 0
    if oldest is not None and asked is not None and asked.number == oldest.revision > journaled:
        return asked
    values, knobs = (past[-1].values if past else ()), run.declaration.knobs
    if len(values) != len(knobs) or any(v not in knob.values for v, knob in zip(values, knobs, strict=True)):
        return None
    return Revision(journaled, 0.0, tuple(knob.values.index(v) for v, knob in zip(values, knobs, strict=True)))


def _asked(run: MonitoredRun) -> Revision | None:
    try:
        return run.files.asked
    except (AutotunerError, OSError):
        return None


def _replay(run: MonitoredRun, history: list[Record], moment: Moment) -> None:
    """Feed the past in the rhythm in which it would have been heard, so that the intervals are what they would have been."""
    interval = run.loop.interval_seconds
    ends = math.inf
    for record in history:
        if record.time >= ends:
            run.loop.observe(ends)
            run.loop.window.out_of_memory = False  # it was answered then
            ends = max(ends + interval, record.time)
        ends = min(ends, record.time + interval)
        run.take(record, moment)


def _settle_open_changes(run: MonitoredRun, moment: Moment) -> None:
    """Nothing is delivered late: an intent that is not on the page is lost; one that is there waits for its answer."""
    asked, sample = _asked(run), run.loop.window.last_sample
    answered = max(run.loop.window.revision, sample.revision if sample else 0)
    waiting: list[ChangeRecord] = []
    for change in run.journal.open_changes(run.run_id):
        on_page = asked is not None and asked.number == change.revision
        if change.revision <= answered:
            state = "acknowledged" if change.revision == answered else "lost"
            run.journal.advance(run.run_id, change.revision, state, moment.unix)
        elif on_page:
            run.journal.advance(run.run_id, change.revision, "delivered", moment.unix)
            waiting.append(change)
        else:
            run.journal.advance(run.run_id, change.revision, "lost", moment.unix)
            run.log.warning("lost", revision=change.revision, what=change.what, why="the intent never reached the knob page")
    if waiting and asked is not None:
        run.loop.resume(asked.positions, tuple(change.knob for change in waiting))
        run.loop.delivered(asked.number)


def _evaluation(record: EvaluationRecord, time: float) -> Evaluation:
    def number(value: float | None) -> float:
        return math.nan if value is None else value

    return Evaluation(
        record.step, time, number(record.held_out_loss), number(record.quality), record.quality_steps,
        number(record.seconds), record.stage, number(record.gap),
    )  # fmt: skip
