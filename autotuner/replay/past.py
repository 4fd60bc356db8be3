"""A finished run's records on the wall clock: the journal's rows, and the ring's where it still holds them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from autotuner.errors import AutotunerError
from autotuner.hook.ring import RingReader
from autotuner.journal import EvaluationRecord, MachineRecord, Reader, RunRecord, TelemetryRecord
from autotuner.messages import Acknowledgement, Declaration, Evaluation, MachineState, Record, Sample

RING = "telemetry.ring"


@dataclass(frozen=True)
class Past:
    """Everything that a finished run reported, in time order; times are seconds of the wall clock."""

    run: RunRecord
    declaration: Declaration
    records: tuple[Record, ...]
    machine: tuple[MachineState, ...]
    ring_from: float
    """Since when every step is in ``records``; before, one sample a tick of the daemon. Infinity without a ring."""

    @property
    def evaluations(self) -> list[Evaluation]:
        """Measurements with a held-out loss."""
        return [r for r in self.records if isinstance(r, Evaluation) and r.held_out_loss > 0 and math.isfinite(r.held_out_loss)]

    @property
    def end(self) -> float:
        """When the run ended."""
        return self.run.ended_unix if self.run.ended_unix is not None else self.records[-1].time if self.records else 0.0


def read_past(journal: Reader, run: RunRecord, directory: Path | None = None) -> Past:
    """The past of ``run``; ``directory`` is the run's own, where its ring may be.

    Raises JournalError, and DeclarationError or ProtocolError for a declaration that this version cannot read.
    """
    declaration = run.declaration
    telemetry = journal.telemetry(run.run_id)
    rows = [*_samples(declaration, telemetry), *map(_evaluation, journal.evaluations(run.run_id))]
    ring = _ring(directory, telemetry) if directory is not None else []
    ring_from = ring[0].time if ring else math.inf
    told = {record.step for record in ring if isinstance(record, Evaluation)}
    kept = [r for r in rows if (r.step not in told if isinstance(r, Evaluation) else r.time < ring_from)]
    records = sorted([*kept, *ring], key=lambda record: record.time)
    until = run.ended_unix if run.ended_unix is not None else 1e18
    machine = tuple(map(_machine, journal.machine(run.created_unix, until)))
    return Past(run, declaration, tuple(records), machine, ring_from)


def _samples(declaration: Declaration, telemetry: list[TelemetryRecord]) -> list[Sample | Acknowledgement]:
    """A sample a row; where the values in force changed between two rows, an acknowledgement stands before the second."""
    records: list[Sample | Acknowledgement] = []
    held = declaration.start
    for row in telemetry:
        positions = positions_of(declaration, row.values)
        if positions is not None and positions != held:
            records.append(Acknowledgement(row.revision, row.step, row.time_unix, positions=positions))
            held = positions
        records.append(
            Sample(
                row.step, row.time_unix, _number(row.loss), row.images, _number(row.step_seconds), row.active_bytes,
                row.cache_bytes, row.peak_bytes, row.revision, row.stage,
            )
        )  # fmt: skip
    return records


def positions_of(declaration: Declaration, values: tuple[float, ...]) -> tuple[int, ...] | None:
    """Ladder positions of knob values; None when they are not on the ladders."""
    if len(values) != len(declaration.knobs):
        return None
    if any(value not in knob.values for knob, value in zip(declaration.knobs, values, strict=True)):
        return None
    return tuple(knob.values.index(value) for knob, value in zip(declaration.knobs, values, strict=True))


def _ring(directory: Path, telemetry: list[TelemetryRecord]) -> list[Record]:
    """What the ring holds, moved to the wall clock by a step that journal and ring share; nothing when there is none."""
    try:
        reader = RingReader(directory / RING)
    except (AutotunerError, OSError):
        return []
    try:
        records = reader.read()
    except (AutotunerError, OSError):
        return []
    finally:
        reader.close()
    times = {record.step: record.time for record in records if isinstance(record, Sample)}
    shift = next((row.time_unix - times[row.step] for row in reversed(telemetry) if row.step in times), None)
    if shift is None:
        return []
    return [replace(record, time=record.time + shift) for record in records if math.isfinite(record.time)]


def _evaluation(row: EvaluationRecord) -> Evaluation:
    return Evaluation(
        row.step, row.time_unix, _number(row.held_out_loss), _number(row.quality), row.quality_steps,
        _number(row.seconds), row.stage, _number(row.gap),
    )  # fmt: skip


def _machine(row: MachineRecord) -> MachineState:
    return MachineState(
        row.time_unix, row.memory_total_bytes, row.memory_available_bytes, row.memory_pressure, row.swap_used_bytes,
        row.thermal_level, row.celsius, bool(row.injected),
    )  # fmt: skip


def _number(value: float | None) -> float:
    return math.nan if value is None else value
