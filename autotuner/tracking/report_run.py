"""One run as a report shows it, from the journal and the trainer's ``result.json``; all times count from the run's start."""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autotuner.journal import ChangeRecord, MachineRecord, Reader, RunRecord, TelemetryRecord
from autotuner.knobs import find
from autotuner.messages import Declaration
from autotuner.tracking.result_file import Grid, LossPoint, QualityPoint, TrainingResult, read_result

MAX_POINTS = 600
"""Most points of one drawn series; of longer ones the extreme of every stretch is kept."""


@dataclass(frozen=True)
class KnobSeries:
    """The values that one knob had, at the times when it changed."""

    name: str
    unit: str
    ladder: tuple[float, ...]
    points: tuple[tuple[float, float], ...]

    @property
    def moved(self) -> bool:
        """Whether it ever changed."""
        return len({value for _, value in self.points}) > 1


@dataclass(frozen=True)
class MemoryPoint:
    """Framework memory of the run at one tick, beside what the machine had for it."""

    seconds: float
    held_bytes: int
    """Active and cached."""
    peak_bytes: int
    """Highest use since the last sample."""
    room_bytes: int | None
    """What the run held and what the machine could still give."""


@dataclass(frozen=True)
class HeatPoint:
    """The machine's heat at one tick."""

    seconds: float
    level: int | None
    celsius: float | None


@dataclass(frozen=True)
class ChangeLine:
    """One change as the journal keeps it, timed from the run's start."""

    seconds: float
    record: ChangeRecord


@dataclass(frozen=True)
class ReportRun:
    """Everything that a report shows of one run. None and empty are unknown."""

    run_id: str
    label: str
    declaration: Declaration
    policy: str
    mode: str
    outcome: str
    steps: int
    images: int
    peak_bytes: int
    result: TrainingResult
    held_out: tuple[LossPoint, ...]
    quality: tuple[QualityPoint, ...]
    knobs: tuple[KnobSeries, ...] = ()
    memory: tuple[MemoryPoint, ...] = ()
    heat: tuple[HeatPoint, ...] = ()
    injected: tuple[tuple[float, float], ...] = ()
    """Spans during which heat or memory readings were scripted."""
    changes: tuple[ChangeLine, ...] = ()
    decisions: int = 0
    vetoes: int = 0
    grids: tuple[Grid, ...] = field(default=())

    @classmethod
    def load(cls, journal: Reader, run_id: str, result_dir: Path | None = None, label: str = "") -> ReportRun:
        """Read one run; ``run_id`` may be a prefix or a name. Raises JournalError or ConfigurationError."""
        record = journal.find_run(run_id)
        declaration = record.declaration
        result = read_result(result_dir) if result_dir else TrainingResult()
        telemetry = journal.telemetry(record.run_id)
        start = _start(journal, record, result, telemetry)
        end = record.ended_unix or (telemetry[-1].time_unix if telemetry else start)
        machine = journal.machine(start, end)
        decisions = journal.decisions(record.run_id)
        return cls(
            run_id=record.run_id,
            label=label or record.name,
            declaration=declaration,
            policy=record.policy,
            mode=record.mode,
            outcome=record.outcome,
            steps=result.steps or record.step,
            images=result.images or record.images,
            peak_bytes=record.peak_bytes or result.peak_bytes,
            result=result,
            held_out=result.held_out or _journal_losses(journal, record, start),
            quality=result.quality or _journal_quality(journal, record, start),
            knobs=_knobs(declaration, telemetry, start),
            memory=_thin(_memory(telemetry, machine, start)),
            heat=_thin_heat([HeatPoint(row.time_unix - start, row.thermal_level, row.celsius) for row in machine]),
            injected=_spans(machine, start),
            changes=tuple(ChangeLine(row.intended_unix - start, row) for row in journal.changes(record.run_id)),
            decisions=len(decisions),
            vetoes=sum(1 for row in decisions if row.vetoed),
            grids=result.grids,
        )


def _start(journal: Reader, record: RunRecord, result: TrainingResult, telemetry: Sequence[TelemetryRecord]) -> float:
    """When the trainer's clock stood at 0: told by evaluations that both sides recorded, else by the first sample."""
    seconds = {point.step: point.seconds for point in result.held_out}
    offsets = [row.time_unix - seconds[row.step] for row in journal.evaluations(record.run_id) if row.step in seconds]
    if offsets:
        return statistics.median(offsets)
    return telemetry[0].time_unix if telemetry else record.created_unix


def _journal_losses(journal: Reader, record: RunRecord, start: float) -> tuple[LossPoint, ...]:
    rows = [row for row in journal.evaluations(record.run_id) if row.held_out_loss is not None]
    return tuple(LossPoint(row.time_unix - start, row.step, 0, row.held_out_loss or 0.0, row.stage) for row in rows)


def _journal_quality(journal: Reader, record: RunRecord, start: float) -> tuple[QualityPoint, ...]:
    rows = [row for row in journal.evaluations(record.run_id) if row.quality is not None]
    return tuple(QualityPoint(row.time_unix - start, row.quality or 0.0, row.quality_steps, row.stage) for row in rows)


def _knobs(declaration: Declaration, telemetry: Sequence[TelemetryRecord], start: float) -> tuple[KnobSeries, ...]:
    series = []
    for index, knob in enumerate(declaration.knobs):
        points = [(0.0, knob.values[knob.start])]
        for row in telemetry:
            value = row.values[index] if index < len(row.values) else points[-1][1]
            if value != points[-1][1]:
                points.append((row.time_unix - start, value))
        if telemetry:
            points.append((telemetry[-1].time_unix - start, points[-1][1]))
        series.append(KnobSeries(knob.name, find(knob.name).unit, knob.values, tuple(points)))
    return tuple(series)


def _memory(telemetry: Sequence[TelemetryRecord], machine: Sequence[MachineRecord], start: float) -> list[MemoryPoint]:
    times = [row.time_unix for row in machine]
    points = []
    for row in telemetry:
        position = bisect_right(times, row.time_unix)
        available = machine[position - 1].memory_available_bytes if position else None
        held = row.active_bytes + row.cache_bytes
        if not held and not row.peak_bytes:  # the script told nothing, which is not zero
            continue
        room = None if available is None else available + held
        points.append(MemoryPoint(row.time_unix - start, held, max(row.peak_bytes, held), room))
    return points


def _thin(points: Sequence[MemoryPoint]) -> tuple[MemoryPoint, ...]:
    stride = max(1, len(points) // MAX_POINTS)
    stretches = (points[first : first + stride] for first in range(0, len(points), stride))
    return tuple(max(stretch, key=lambda point: point.peak_bytes) for stretch in stretches)


def _thin_heat(points: Sequence[HeatPoint]) -> tuple[HeatPoint, ...]:
    stride = max(1, len(points) // MAX_POINTS)
    stretches = (points[first : first + stride] for first in range(0, len(points), stride))
    return tuple(max(stretch, key=lambda point: (point.level or 0, point.celsius or 0.0)) for stretch in stretches)


def _spans(machine: Sequence[MachineRecord], start: float) -> tuple[tuple[float, float], ...]:
    spans: list[tuple[float, float]] = []
    previous = False
    for row in machine:
        seconds = row.time_unix - start
        if row.injected:
            spans = [*spans[:-1], (spans[-1][0], seconds)] if previous else [*spans, (seconds, seconds)]
        previous = bool(row.injected)
    return tuple(span for span in spans if span[1] > span[0])
