"""The table of metrics, and the collector that turns one snapshot into the text of ``/metrics``.

A scrape reads one immutable snapshot, so it can never show half a tick. What is unknown is not emitted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2s
from typing import Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from autotuner.daemon.holdout import EVIDENCE_LIMIT
from autotuner.daemon.snapshot import GainSnapshot, KnobSnapshot, RunSnapshot, SensorSnapshot, Snapshot
from autotuner.messages import MachineState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_RUNS = 64
"""Most runs in one scrape; the rest is counted in ``autotuner_runs_not_exported``."""
MAX_LABEL = 64
"""Longest label value in characters."""

Subject = TypeVar("Subject")
Clock = Callable[[], float]


@dataclass(frozen=True)
class Row(Generic[Subject]):
    """One metric: its name, kind, help sentence, and how its value is read from the subject (None is not emitted)."""

    name: str
    kind: str
    sentence: str
    value: Callable[[Subject], float | None]


@dataclass(frozen=True)
class Tick:
    """A snapshot and the monotonic time at which it is looked at."""

    snapshot: Snapshot
    now: float

    @property
    def age_seconds(self) -> float:
        """How long ago the daemon finished sampling; on the monotonic clock, so a machine that slept is not late."""
        return max(0.0, self.now - self.snapshot.machine.time)


def _framework_bytes(read: Callable[[RunSnapshot], int]) -> Callable[[RunSnapshot], float | None]:
    """A byte count of 0 means unknown, unless the framework reports other memory."""
    return lambda run: read(run) if run.active_bytes or run.peak_bytes else None


def _gain(read: Callable[[GainSnapshot], float]) -> Callable[[Tick], float | None]:
    """Nothing while too few runs have ended to tell a gain."""
    return lambda tick: read(tick.snapshot.gain) if tick.snapshot.gain else None


DAEMON: tuple[Row[Tick], ...] = (
    Row("uptime_seconds", "gauge", "Time since the daemon started.", lambda t: t.snapshot.unix_time - t.snapshot.started_unix),
    Row("tick_seconds", "gauge", "Duration of the last tick's work.", lambda t: t.snapshot.tick_seconds),
    Row("tick_interval_seconds", "gauge", "Planned time between two ticks.", lambda t: t.snapshot.tick_interval_seconds),
    Row("tick_age_seconds", "gauge", "Time since the last tick; it grows when the daemon hangs.", lambda t: t.age_seconds),
    Row(
        "problems", "gauge", "What keeps the daemon from doing all it was told; 0 is good.", lambda t: len(t.snapshot.problems)
    ),
    Row("journal_bytes", "gauge", "Size of the journal on disk.", lambda t: t.snapshot.journal_bytes),
    Row("holdout_runs", "gauge", "Ended runs that were left at their script's values.", lambda t: t.snapshot.holdout_runs),
    Row("gain_ratio", "gauge", "Share of time that tuned runs save to the same held-out loss.", _gain(lambda g: g.ratio)),
    Row("gain_ratio_low", "gauge", "Lower end of the gain's 95 % bootstrap interval.", _gain(lambda g: g.low)),
    Row("gain_ratio_high", "gauge", "Upper end of the gain's 95 % bootstrap interval.", _gain(lambda g: g.high)),
    Row("demoted", "gauge", "Whether it only advises, as it loses by its own measurement.", lambda t: t.snapshot.demoted),
    Row(
        "demotion_evidence",
        "gauge",
        f"Evidence that tuned runs lose: 1 is none, at {EVIDENCE_LIMIT:.0f} the daemon only advises.",
        lambda t: t.snapshot.evidence,
    ),
    Row(
        "runs_not_exported",
        "gauge",
        f"Runs left out of this page because it shows at most {MAX_RUNS}.",
        lambda t: max(0, len(t.snapshot.runs) - MAX_RUNS),
    ),
)

SENSOR: tuple[Row[SensorSnapshot], ...] = (
    Row("sensor_up", "gauge", "Whether the sensor's last reading succeeded.", lambda s: s.up),
    Row("sensor_age_seconds", "gauge", "Age of the sensor's last good reading.", lambda s: s.age_seconds),
    Row("sensor_read_seconds", "gauge", "How long the last reading took.", lambda s: s.seconds),
    Row("sensor_failures_total", "counter", "Readings that failed or came too late.", lambda s: s.failures),
)

MACHINE: tuple[Row[MachineState], ...] = (
    Row(
        "machine_thermal_level",
        "gauge",
        "Heat level: 0 nominal, 1 moderate, 2 heavy, 3 trapping, 4 sleeping.",
        lambda m: m.thermal_level,
    ),
    Row("machine_celsius", "gauge", "Temperature of the hottest processor sensor.", lambda m: m.celsius),
    Row("machine_memory_total_bytes", "gauge", "Memory that this machine or container has.", lambda m: m.memory_total_bytes),
    Row(
        "machine_memory_available_bytes",
        "gauge",
        "Memory that the machine can still give out without swapping.",
        lambda m: m.memory_available_bytes,
    ),
    Row(
        "machine_memory_pressure_level",
        "gauge",
        "Memory pressure: 0 normal, 1 warn, 2 critical.",
        lambda m: m.memory_pressure,
    ),
    Row("machine_swap_used_bytes", "gauge", "Swap in use.", lambda m: m.swap_used_bytes),
    Row("machine_injected", "gauge", "Whether any machine value is scripted for an experiment.", lambda m: m.injected),
)

RUN: tuple[Row[RunSnapshot], ...] = (
    Row("run_stalled", "gauge", "Whether a live run has sent no sample for long.", lambda r: r.state == "stalled"),
    Row("run_step", "gauge", "Optimizer steps done.", lambda r: r.step),
    Row("run_images_total", "counter", "Images seen since the run began.", lambda r: r.images),
    Row("run_stage", "gauge", "Distillation stage; 0 trains the teacher.", lambda r: r.stage),
    Row("run_revision", "gauge", "Knob revision in force.", lambda r: r.revision),
    Row("run_loss", "gauge", "Training loss at the current resolution.", lambda r: r.loss),
    Row("run_held_out_loss", "gauge", "Loss on fixed data and noise at full resolution.", lambda r: r.held_out_loss),
    Row(
        "run_quality",
        "gauge",
        "Distance of samples from the data by the run's own metric; lower is better.",
        lambda r: r.quality,
    ),
    Row(
        "run_student_gap",
        "gauge",
        "Distance of the student's samples in the steps of its stage over its teacher's in many; 1 is as good.",
        lambda r: r.gap,
    ),
    Row("run_step_seconds", "gauge", "Recent duration of one optimizer step.", lambda r: r.step_seconds),
    Row(
        "run_slowdown_ratio",
        "gauge",
        "Recent step time over the best with the same knobs; 1 is as fast as ever.",
        lambda r: r.slowdown_ratio,
    ),
    Row(
        "run_slow",
        "gauge",
        "Whether steps take longer than at their best beyond noise, whatever the system says of heat.",
        lambda r: None if r.slowdown_ratio is None or r.state == "ended" else r.slow,
    ),
    Row("run_images_per_second", "gauge", "Recent training throughput.", lambda r: r.images_per_second),
    Row("run_active_bytes", "gauge", "Memory that the framework uses now.", _framework_bytes(lambda r: r.active_bytes)),
    Row("run_cache_bytes", "gauge", "Memory that the framework keeps for reuse.", _framework_bytes(lambda r: r.cache_bytes)),
    Row("run_peak_bytes", "gauge", "Largest framework memory of the last sample.", _framework_bytes(lambda r: r.peak_bytes)),
    Row(
        "run_predicted_bytes",
        "gauge",
        "Framework memory that the run's own model expects at the knobs asked for.",
        lambda r: r.predicted_bytes,
    ),
    Row("run_budget_used_ratio", "gauge", "Share of the run's time or step budget that is used.", lambda r: r.budget_used),
    Row(
        "run_last_sample_age_seconds",
        "gauge",
        "Time since the run's last sample, while it has not ended.",
        lambda r: None if r.state == "ended" else r.last_sample_age_seconds,
    ),
    Row("run_decisions_total", "counter", "Decisions taken for the run, holds included.", lambda r: r.decisions),
    Row("run_not_finite_steps_total", "counter", "Steps whose loss or gradient was not finite.", lambda r: r.not_finite_steps),
    Row(
        "run_checkpoints_unanswered_total",
        "counter",
        "Requests to save or to restore that the run did not answer in time.",
        lambda r: r.checkpoints_unanswered,
    ),
    Row("run_lost_records_total", "counter", "Telemetry records overwritten before they were read.", lambda r: r.lost_records),
)

KNOB: tuple[Row[KnobSnapshot], ...] = (
    Row("run_knob_asked", "gauge", "Value that the daemon asked for, in the knob's unit.", lambda k: k.asked),
    Row(
        "run_knob_acknowledged",
        "gauge",
        "Value that the script said is in force, in the knob's unit.",
        lambda k: k.acknowledged,
    ),
    Row("run_knob_maximum", "gauge", "Top of the knob's ladder, in the knob's unit.", lambda k: max(k.values, default=None)),
    Row("run_knob_pinned", "gauge", "Whether a human or the script holds the knob.", lambda k: k.pinned),
)

CHANGES: Row[int] = Row("run_changes_total", "counter", "Knob changes asked for, by knob, direction and reason.", lambda n: n)
VETOES: Row[int] = Row("run_vetoes_total", "counter", "Wishes of the policy that the guard refused, by reason.", lambda n: n)
BUILD: Row[str] = Row("build_info", "gauge", "Version of this Autotuner.", lambda _: 1)
MODE: Row[str] = Row("daemon_info", "gauge", "Mode and policy of the daemon.", lambda _: 1)
DEMOTION: Row[bool] = Row("demotion_info", "gauge", "1 when the policy lost and the daemon only advises, and why.", lambda d: d)
RUN_INFO: Row[str] = Row("run_info", "gauge", "Name, framework and policy of the run.", lambda _: 1)


def short_id(run_id: str) -> str:
    """The run id as a label value: itself, or its beginning and a hash when it is long."""
    if len(run_id) <= 40:
        return run_id
    return f"{run_id[:32]}-{blake2s(run_id.encode(errors='replace'), digest_size=4).hexdigest()[:7]}"


def exported(runs: Sequence[RunSnapshot]) -> list[RunSnapshot]:
    """At most MAX_RUNS runs: those that have not ended first, then the newest."""
    return sorted(runs, key=lambda run: (run.state == "ended", -run.started_unix))[:MAX_RUNS]


class SnapshotCollector(Collector):
    """Yields every family of the table from the snapshot of the moment."""

    def __init__(self, get_snapshot: Callable[[], Snapshot], monotonic: Clock = time.monotonic) -> None:
        self._get_snapshot = get_snapshot
        self._monotonic = monotonic

    def collect(self) -> Iterator[Metric]:
        """The families of one scrape, in the order of the tables."""
        snapshot = self._get_snapshot()
        tick = Tick(snapshot, self._monotonic())
        runs = [(short_id(run.run_id), run) for run in exported(snapshot.runs)]
        knobs = [((label, knob.name), knob) for label, run in runs for knob in run.knobs]
        yield from _families((BUILD,), ("version",), [((snapshot.version,), "")])
        yield from _families((MODE,), ("mode", "policy"), [((snapshot.mode, snapshot.policy), "")])
        yield from _families(DAEMON, (), [((), tick)])
        why = (snapshot.policy, snapshot.demoted_why.split(" (")[0])
        yield from _families((DEMOTION,), ("policy", "why"), [(why, snapshot.demoted)])
        yield from _families(SENSOR, ("sensor", "source"), [((s.name, s.source), s) for s in snapshot.sensors])
        yield from _families(MACHINE, (), [((), snapshot.machine)])
        info = [((label, run.name, run.framework, run.policy), "") for label, run in runs]
        yield from _families((RUN_INFO,), ("run", "name", "framework", "policy"), info)
        yield from _families(RUN, ("run",), [((label,), run) for label, run in runs])
        yield from _families(KNOB, ("run", "knob"), knobs)
        changes = [((label, *key), count) for label, run in runs for key, count in sorted(run.changes.items())]
        yield from _families((CHANGES,), ("run", "knob", "direction", "reason"), changes)
        vetoes = [((label, reason), count) for label, run in runs for reason, count in sorted(run.vetoes.items())]
        yield from _families((VETOES,), ("run", "reason"), vetoes)


def _families(
    rows: Iterable[Row[Subject]], labels: Sequence[str], subjects: Sequence[tuple[tuple[str, ...], Subject]]
) -> Iterator[Metric]:
    for row in rows:
        family_class = CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily
        family = family_class(f"autotuner_{row.name}", row.sentence, labels=labels)
        seen: set[tuple[str, ...]] = set()  # one duplicate would make Prometheus refuse the whole page
        for label_values, subject in subjects:
            key = tuple(_clean(value) for value in label_values)
            value = row.value(subject)
            if value is not None and math.isfinite(value) and key not in seen:
                seen.add(key)
                family.add_metric(key, float(value))
        if family.samples:
            yield family


def _clean(label_value: str) -> str:
    """Bounded, and without lone surrogates: names come from other processes, and the page must encode."""
    return label_value[:MAX_LABEL].encode(errors="replace").decode()


def render(get_snapshot: Callable[[], Snapshot], monotonic: Clock = time.monotonic) -> bytes:
    """The text of ``/metrics``, from a registry that holds this collector and nothing else."""
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(get_snapshot, monotonic))
    return generate_latest(registry)
