"""One training run as the daemon follows it: listen to its ring, keep its journal, show its state."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable

from autotuner.controller.decision import Change, Decision
from autotuner.controller.loop import ControlLoop, RunSummary
from autotuner.controller.memory import used_bytes
from autotuner.daemon.checkpoints import Waited, told
from autotuner.daemon.log import get_log
from autotuner.daemon.moment import Moment
from autotuner.daemon.run_files import RunFiles
from autotuner.daemon.snapshot import AdviceSnapshot, KnobSnapshot, RunSnapshot
from autotuner.errors import AutotunerError
from autotuner.hook.process import process_start
from autotuner.journal import EvaluationRecord, Journal, PinRecord, RunRecord, TelemetryRecord, model_key
from autotuner.knobs import find
from autotuner.messages import (
    FLAG_OUT_OF_MEMORY,
    REFUSALS,
    Acknowledgement,
    Declaration,
    Evaluation,
    Goodbye,
    Record,
    Sample,
)

STALLED_SECONDS = 60.0
STALLED_STEPS = 10.0
"""A run without a sample for the longer of these (in steps of its usual duration) is shown as stalled."""


class MonitoredRun:
    """A live run: its declaration, its files, its control loop, and what it has done so far."""

    def __init__(self, declaration: Declaration, files: RunFiles, loop: ControlLoop, journal: Journal) -> None:
        self.declaration = declaration
        self.files = files
        self.loop = loop
        self.journal = journal
        self.arm = ""
        """``treated``, ``held_out`` or neither (see ``holdout``)."""
        self.served_policy = loop.policy.name
        self.mode = ""
        """What happens to decisions: ``observe``, ``advise``, ``act`` or ``off`` (see ``modes``)."""
        self.mode_why = ""
        """Why it is not the machine's mode; empty when it is."""
        self.own_mode = ""
        """A person's mode for this run; empty follows the machine's."""
        self.advice: tuple[AdviceSnapshot, ...] = ()
        """What is recommended since the last decision."""
        self.first_here = False
        """Whether no run has ended on this machine before."""
        self.given_back: tuple[int, ...] = ()
        """The script's own values that were asked for since everything was switched off."""
        self.log = get_log().bind(run=declaration.run_id)
        self.pins: list[PinRecord] = []
        """Pins that hold a value."""
        self.tried_pins: set[PinRecord] = set()
        """Pins whose value was asked for once: what guard or script refuse is not asked for again."""
        self.latest: RunSnapshot | None = None
        """The last tick's snapshot."""
        self.goodbye: Goodbye | None = None
        self.ended_at: float | None = None
        self.outcome = ""
        self.connected_at = math.inf
        """When a run over the socket was last seen with a connection; infinite before the first look."""
        self.last_decision: Decision | None = None
        self.decisions = 0
        self.changes: Counter[tuple[str, str, str]] = Counter()
        self.vetoes: Counter[str] = Counter()
        self.checkpoint: Waited | None = None
        """What people have asked the script for, while its answer can still come."""
        self.checkpoint_said = ""
        """What became of the last request to save or to restore."""
        self.checkpoints_unanswered = 0
        self.peak_bytes = 0
        self.out_of_memory_at = -math.inf
        self.memory_share: float | None = None
        """Peak plus cache at the last sample, as a share of what the run could have had then."""
        self._told_problem = ""
        self._recorded_step = -1

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.declaration.run_id

    def take_mode(self, mode: str, why: str) -> None:
        """Be in this mode from now on; a new one is journaled and logged."""
        if self.mode and mode != self.mode:
            self.journal.withdraw_advice(self.run_id)
            self.advice = ()
        if mode != self.mode and (self.mode or why):
            self.log.info("mode", mode=mode, why=why)
        if (mode, why) != (self.mode, self.mode_why):
            self.journal.update_run(self.run_id, mode=mode, mode_why=why)
        self.mode, self.mode_why = mode, why

    def listen(self, moment: Moment) -> None:
        """Take what the run wrote since the last tick."""
        lost_before = self.files.lost
        for record in self.files.read():
            self.take(record, moment)
        if self.files.lost > lost_before and self.loop.pending:
            self._infer_answer(moment)
        self._tell_problem()
        declaration = self.files.redeclared()
        if declaration is not None and declaration.knobs == self.declaration.knobs:
            self.declaration = declaration
            columns = {"declaration_json": declaration.to_json(), "model": model_key(declaration)}
            self.journal.update_run(self.run_id, **columns)

    def take(self, record: Record, moment: Moment) -> None:
        """Feed one record to the loop, and the journal with what it settles."""
        pinned_before = set(self.loop.pinned)
        self.loop.feed(record)
        if isinstance(record, Sample):
            self._take_sample(record)
        elif isinstance(record, Acknowledgement):
            self._take_acknowledgement(record, moment)
            self._keep_script_pins(self.loop.pinned.keys() - pinned_before, record, moment)
        elif isinstance(record, Evaluation):
            self.journal.write(evaluation_record(self.run_id, record, moment))
        else:
            self.goodbye = record

    def _infer_answer(self, moment: Moment) -> None:
        """An acknowledgement may be among the lost records: samples tell whether the ask is in force; else it is forgotten."""
        try:
            sample, asked = self.loop.window.last_sample, self.files.asked
        except (AutotunerError, OSError):
            return
        if sample is None or asked is None or sample.time <= asked.time:
            return
        if sample.revision == asked.number:
            self.take(Acknowledgement(asked.number, sample.step, sample.time, positions=asked.positions), moment)
        else:
            self.loop.abandon()

    def _take_sample(self, sample: Sample) -> None:
        self.peak_bytes = max(self.peak_bytes, used_bytes(sample))
        if sample.flags & FLAG_OUT_OF_MEMORY:
            self.out_of_memory_at = sample.time

    def _take_acknowledgement(self, message: Acknowledgement, moment: Moment) -> None:
        time = moment.unix_at(message.time)
        self.journal.supersede(self.run_id, message.revision)
        if message.refused:
            refusal = REFUSALS.get(message.detail, f"code {message.detail}")
            self.journal.advance(self.run_id, message.revision, "refused", time, step=message.step, refusal=refusal)
            self.log.warning("refused", revision=message.revision, step=message.step, why=refusal)
        elif message.revision:
            self.journal.advance(self.run_id, message.revision, "acknowledged", time, step=message.step)
            self.log.info("acknowledged", revision=message.revision, step=message.step)

    def _keep_script_pins(self, knobs: Iterable[str], message: Acknowledgement, moment: Moment) -> None:
        for knob in knobs:
            self.journal.write(PinRecord(self.run_id, knob, None, "script", moment.unix_at(message.time)))
            self.log.info("pinned", knob=knob, origin="script", step=message.step)

    def measure(self, moment: Moment) -> None:
        """Journal measured effects, and this tick's telemetry when there is a new sample."""
        while (effect := self.loop.effect(moment.now)) is not None:
            self.journal.advance(
                self.run_id, effect.revision, "observed", moment.unix,
                images_per_second_before=known(effect.images_per_second_before),
                images_per_second_after=known(effect.images_per_second_after),
                peak_bytes_before=known(effect.peak_bytes_before),
                peak_bytes_after=known(effect.peak_bytes_after),
            )  # fmt: skip
        sample = self.loop.window.last_sample
        if sample is None or sample.step == self._recorded_step:
            return
        self._recorded_step = sample.step
        limit = self.loop.window.limit_bytes
        self.memory_share = (sample.peak_bytes + sample.cache_bytes) / limit if limit else None
        self.journal.write(self._telemetry(self.loop.summary(moment.now), moment.unix_at(sample.time)))

    def _telemetry(self, summary: RunSummary, time_unix: float) -> TelemetryRecord:
        return TelemetryRecord(
            self.run_id, time_unix, summary.step, summary.images, summary.loss, summary.step_seconds,
            summary.images_per_second, summary.active_bytes, summary.cache_bytes, summary.peak_bytes,
            summary.predicted_bytes, summary.revision, summary.stage, json.dumps(self.values(self.loop.positions)),
        )  # fmt: skip

    def delivered(self, changes: Iterable[Change]) -> None:
        """Count changes that were put on the page."""
        for change in changes:
            self.changes[change.knob, change.direction, change.reason] += 1

    def values(self, positions: tuple[int, ...]) -> list[float]:
        """Knob values at ladder positions."""
        return [knob.values[position] for knob, position in zip(self.declaration.knobs, positions, strict=True)]

    @property
    def process_lives(self) -> bool:
        """Whether the training process is the one that made this run, and still runs."""
        return process_start(self.declaration.pid) == self.declaration.pid_start

    def state(self, now: float) -> str:
        """``live``, ``stalled`` or ``ended``."""
        if self.ended_at is not None:
            return "ended"
        sample = self.loop.window.last_sample
        if sample is None:
            return "live"
        step_seconds = sample.step_seconds if math.isfinite(sample.step_seconds) else 0.0
        return "stalled" if now - sample.time > max(STALLED_SECONDS, STALLED_STEPS * step_seconds) else "live"

    def snapshot(self, now: float) -> RunSnapshot:
        """The run for metrics, status page and command line."""
        summary = self.loop.summary(now)
        shared = {name: getattr(summary, name) for name in summary.__slots__}
        decision = self.last_decision
        return RunSnapshot(
            run_id=self.run_id, name=self.declaration.name, framework=self.declaration.framework,
            state=self.state(now), started_unix=self.declaration.created_unix, knobs=tuple(self._knobs()),
            policy=decision.policy if decision else self.loop.policy.name,
            last_what=decision.what if decision else "", last_why=decision.why if decision else "",
            decisions=self.decisions, changes=dict(self.changes), vetoes=dict(self.vetoes),
            lost_records=self.files.lost, held_out=self.arm == "held_out", mode=self.mode, mode_why=self.mode_why,
            advice=self.advice, checkpoint=told(self, now), checkpoints_unanswered=self.checkpoints_unanswered, **shared,
        )  # fmt: skip

    def _knobs(self) -> Iterable[KnobSnapshot]:
        for knob, asked, held in zip(self.declaration.knobs, self.loop.asked, self.loop.positions, strict=True):
            pinned = knob.name in self.loop.pinned
            yield KnobSnapshot(knob.name, find(knob.name).unit, knob.values, knob.values[asked], knob.values[held], pinned)

    def record(self, moment: Moment, mode: str) -> RunRecord:
        """The run's row when it is first seen."""
        return RunRecord(
            self.run_id, self.declaration.name, self.declaration.framework, model_key(self.declaration),
            self.declaration.to_json(), self.declaration.created_unix, moment.unix,
            self.loop.policy.name, mode,
            memory_available_bytes=self.loop.window.machine.memory_available_bytes,
            arm=self.arm, served_policy=self.served_policy, own_mode=self.own_mode, mode_why=self.mode_why,
        )  # fmt: skip

    def keep_totals(self, moment: Moment) -> None:
        """Bring the run's row up to date."""
        summary, window = self.loop.summary(moment.now), self.loop.window
        self.journal.update_run(
            self.run_id, step=summary.step, images=summary.images, loss=summary.loss,
            final_held_out_loss=summary.held_out_loss, best_held_out_loss=known(window.best_held_out),
            final_quality=summary.quality, peak_bytes=self.peak_bytes, not_finite_steps=summary.not_finite_steps,
            last_values_json=json.dumps(self.values(self.loop.positions)), lost_records=self.files.lost,
        )  # fmt: skip

    def _tell_problem(self) -> None:
        if self.files.problem != self._told_problem:
            self._told_problem = self.files.problem
            if self.files.problem:
                self.log.warning("run_files", why=self.files.problem)


def evaluation_record(run_id: str, evaluation: Evaluation, moment: Moment) -> EvaluationRecord:
    """The journal's row of one evaluation."""
    return EvaluationRecord(
        run_id, moment.unix_at(evaluation.time), evaluation.step, known(evaluation.held_out_loss), known(evaluation.quality),
        evaluation.quality_steps, known(evaluation.seconds), evaluation.stage, known(evaluation.gap),
    )  # fmt: skip


def known(value: float | None) -> float | None:
    """None for what is not finite: the journal tells unknown by NULL."""
    return value if value is not None and math.isfinite(value) else None
