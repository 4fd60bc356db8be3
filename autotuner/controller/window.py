"""The bounded history of one run: everything that observation and guard may know."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import median

from autotuner.controller.memory import MemoryModel, used_bytes
from autotuner.controller.slowdown import Slowdown
from autotuner.knobs import KNOB_NAMES
from autotuner.messages import (
    FLAG_CHECKPOINT,
    FLAG_FIRST_OF_SHAPE,
    FLAG_NOT_FINITE,
    FLAG_OUT_OF_MEMORY,
    Acknowledgement,
    Declaration,
    Evaluation,
    MachineState,
    Sample,
)

HISTORY = 32
"""Decision intervals kept."""
STEPS_KEPT = 128
"""Step durations kept of one interval; a median needs no more."""
NO_ORDINARY_STEP = FLAG_FIRST_OF_SHAPE | FLAG_CHECKPOINT | FLAG_OUT_OF_MEMORY | FLAG_NOT_FINITE
"""Steps with one of these flags tell nothing of the machine's speed."""
NOT_IN_STEP_TIME = frozenset({"pace", "lr_scale", "timestep_density", "sampling_steps"})
"""Knobs that leave a step's computing as it is; the pauses of ``pace`` are reckoned apart."""


@dataclass(frozen=True, slots=True)
class Interval:
    """What happened between two decisions."""

    end: float
    steps: int
    images: int
    log_loss: float
    """Mean natural logarithm of the finite losses; NaN when there was none."""
    log_loss_deviation: float
    step_seconds: float
    """Median of ordinary steps; NaN when there was none."""
    images_per_second: float
    used_bytes: int
    not_finite: int
    thermal_level: int | None
    memory_share: float = math.nan
    """``used_bytes`` of what the run may use; NaN is unknown."""


class RunWindow:
    """Fed with a run's records in time order; cheap a record, bounded in size."""

    def __init__(self, declaration: Declaration, interval_seconds: float) -> None:
        self.declaration = declaration
        self.interval_seconds = interval_seconds
        self.index = {knob.name: i for i, knob in enumerate(declaration.knobs)}
        self.table_index = [self.index.get(name, -1) for name in KNOB_NAMES]
        self.positions = declaration.start
        self.pinned: dict[str, str] = {}
        """Knob to who pinned it: ``you`` or ``script``."""
        self.revision = 0
        self.intervals: deque[Interval] = deque(maxlen=HISTORY)
        self.interval_count = 0
        self.closed_at = -math.inf
        self.changed: dict[str, tuple[int, int]] = {}  # knob -> (interval number, direction)
        self.changed_at = -math.inf  # time of the newest change
        self.loss_comparable_from = 0  # interval number since when training losses measure the same thing
        self.first_time: float | None = None
        self.first_step: int | None = None
        self.last_sample: Sample | None = None
        self.first_evaluation: Evaluation | None = None
        self.best_held_out = math.inf
        self.evaluations: deque[Evaluation] = deque(maxlen=HISTORY)
        self.qualities: deque[Evaluation] = deque(maxlen=HISTORY)
        self.evaluation_seconds = 0.0
        self.evaluation_interval = 0
        self.machine = MachineState(time=-math.inf)
        self.swap_grew = False
        self.shapes = {self.shape(self.positions)}
        self.best_rate: dict[tuple[float, float, int], float] = {}
        self.memory = MemoryModel()
        self.slowdown = Slowdown()
        self._timed = [i for i, knob in enumerate(declaration.knobs) if knob.name not in NOT_IN_STEP_TIME]
        self._evaluated = False
        self.not_finite_steps = 0
        self.out_of_memory = False
        self.largest_cache = 0
        self._used = 0
        self._step_before = 0
        self._reset_accumulators()

    def _reset_accumulators(self) -> None:
        self._losses: list[float] = []
        self._step_seconds: list[float] = []
        self._steps = 0
        self._not_finite = 0
        self._interval_used = 0

    def free(self, name: str) -> bool:
        """Whether anything but an emergency may move knob ``name``: declared, not fixed by the script, pinned by nobody."""
        i = self.index.get(name, -1)
        return i >= 0 and self.declaration.knobs[i].tunable and name not in self.pinned

    def value(self, name: str, default: float, positions: tuple[int, ...] | None = None) -> float:
        """The value of knob ``name`` at ``positions`` (default: in force), or ``default`` when undeclared."""
        i = self.index.get(name, -1)
        if i < 0:
            return default
        return self.declaration.knobs[i].values[(positions or self.positions)[i]]

    def shape(self, positions: tuple[int, ...]) -> tuple[float, float]:
        """The (resolution, micro_batch) that decides tensor shapes; 0 for what is undeclared."""
        return self.value("resolution", 0.0, positions), self.value("micro_batch", 0.0, positions)

    def pixels(self, positions: tuple[int, ...]) -> int:
        """micro_batch x resolution^2; an undeclared factor counts as 1."""
        resolution, micro_batch = self.shape(positions)
        return int((resolution or 1.0) ** 2 * (micro_batch or 1.0))

    def student(self, positions: tuple[int, ...]) -> bool:
        """Whether a student is trained beside its teacher."""
        return self.value("distill", 0.0, positions) > 0

    def sample(self, sample: Sample) -> None:
        """Take one optimizer step."""
        if self.first_time is None:
            self.first_time = sample.time
        if self.first_step is None:
            self.first_step = sample.step
        before, self.last_sample = self.last_sample, sample
        self._steps += 1
        if sample.flags & FLAG_OUT_OF_MEMORY:
            self.out_of_memory = True
        if sample.flags & FLAG_NOT_FINITE or not math.isfinite(sample.loss):
            self._not_finite += 1
            self.not_finite_steps += 1
        elif sample.loss > 0:
            self._losses.append(math.log(sample.loss))
        seconds = _step_seconds(sample, before)
        if not sample.flags & FLAG_FIRST_OF_SHAPE and seconds > 0 and len(self._step_seconds) < STEPS_KEPT:
            self._step_seconds.append(seconds)
        held_up = self._evaluated and not sample.step_seconds > 0  # the time between two reports holds the evaluation
        self._evaluated = False
        if not held_up and not sample.flags & NO_ORDINARY_STEP:
            vector = (sample.stage, *[self.positions[i] for i in self._timed])
            self.slowdown.step(vector, self.value("pace", 1.0), seconds)
        self.largest_cache = max(self.largest_cache, sample.cache_bytes)
        used = used_bytes(sample)
        if used:
            self._used = used
            if used > self._interval_used:
                self._interval_used = used
            self.memory.observe(self.pixels(self.positions), self.student(self.positions), used)

    def evaluation(self, evaluation: Evaluation) -> None:
        """Take one measurement on fixed data."""
        self.evaluation_interval = self.interval_count
        self._evaluated = True
        if evaluation.seconds > 0:
            self.evaluation_seconds += evaluation.seconds
        if evaluation.held_out_loss > 0 and math.isfinite(evaluation.held_out_loss):
            self.first_evaluation = self.first_evaluation or evaluation
            self.best_held_out = min(self.best_held_out, evaluation.held_out_loss)
            self.evaluations.append(evaluation)
        if evaluation.quality > 0 and math.isfinite(evaluation.quality):
            self.qualities.append(evaluation)

    def acknowledged(self, message: Acknowledgement) -> None:
        """Take the positions that are in force from now on."""
        self.revision = max(self.revision, message.revision)
        positions = tuple(message.positions)
        if message.refused or len(positions) != len(self.positions) or not self._on_ladders(positions):
            return
        for knob, old, new in zip(self.declaration.knobs, self.positions, positions, strict=True):
            if old == new:
                continue
            self.changed[knob.name] = (self.interval_count, 1 if new > old else -1)
            self.changed_at = message.time
            if knob.name in ("resolution", "distill", "timestep_density"):
                self.loss_comparable_from = self.interval_count + 1
        self.positions = positions
        self.shapes.add(self.shape(positions))

    def _on_ladders(self, positions: tuple[int, ...]) -> bool:
        return all(0 <= p < len(knob.values) for p, knob in zip(positions, self.declaration.knobs, strict=True))

    def take_machine(self, state: MachineState) -> None:
        """Take what the sensors said."""
        if state.swap_used_bytes is not None and self.machine.swap_used_bytes is not None:
            self.swap_grew = state.swap_used_bytes > self.machine.swap_used_bytes
        self.machine = state

    def close(self, now: float) -> None:
        """End the current interval; a second call at the same time does nothing."""
        if now <= self.closed_at:
            return
        seconds = now - self.closed_at if math.isfinite(self.closed_at) else self.interval_seconds
        interval = self._interval(now, seconds)
        self.intervals.append(interval)
        self.interval_count += 1
        self.closed_at = now
        if interval.images_per_second > 0:
            key = self.rate_key()
            self.best_rate[key] = max(self.best_rate.get(key, 0.0), interval.images_per_second)
        self._reset_accumulators()

    def _interval(self, now: float, seconds: float) -> Interval:
        losses = self._losses
        mean = sum(losses) / len(losses) if losses else math.nan
        variance = sum((x - mean) ** 2 for x in losses) / len(losses) if losses else math.nan
        step_seconds = median(self._step_seconds) if self._step_seconds else math.nan
        images = self.last_sample.images if self.last_sample else 0
        before = self.intervals[-1].images if self.intervals else 0
        step = self.last_sample.step if self.last_sample else 0
        taken = step - self._step_before  # by number, not by records: some may be lost, or never written
        self._step_before = step
        per_step = max(0, images - before) / taken if taken > 0 else 0.0
        return Interval(
            end=now,
            steps=self._steps,
            images=images,
            log_loss=mean,
            log_loss_deviation=math.sqrt(variance) if losses else math.nan,
            step_seconds=step_seconds,
            images_per_second=per_step / step_seconds if step_seconds > 0 else 0.0,
            used_bytes=self._interval_used,
            not_finite=self._not_finite,
            thermal_level=self.machine.thermal_level if now - self.machine.time < 3 * max(seconds, 5.0) else None,
            memory_share=self._interval_used / self.limit_bytes if self._interval_used and self.limit_bytes else math.nan,
        )

    def rate_key(self) -> tuple[float, float, int]:
        """What images/s may be compared across: resolution, micro-batch and stage."""
        resolution, micro_batch = self.shape(self.positions)
        return resolution, micro_batch, int(self.value("distill", 0.0))

    @property
    def used(self) -> int:
        """Framework memory of the newest sample that told it, in bytes; 0 is unknown."""
        return self._used

    @property
    def limit_bytes(self) -> float | None:
        """What this run may use in all: its own memory plus what the machine can still give; None is unknown."""
        if self.machine.memory_available_bytes is None or not self._used:
            return None
        return float(self.machine.memory_available_bytes + self._used)

    def budget_used(self, now: float) -> float | None:
        """Share of the declared budget that is spent, by time or steps, whichever is nearer its end; None without a budget."""
        declared = self.declaration
        shares = [0.0] if declared.budget_seconds or declared.budget_steps else []
        if declared.budget_seconds and self.first_time is not None:
            shares.append((now - self.first_time) / declared.budget_seconds)
        if declared.budget_steps and self.last_sample is not None:
            shares.append(self.last_sample.step / declared.budget_steps)
        return max(0.0, min(1.0, max(shares))) if shares else None

    def since_change(self, knob: str) -> int:
        """Decision intervals since ``knob`` last changed; a large number when it never did."""
        return self.interval_count - self.changed[knob][0] if knob in self.changed else 1_000_000


def _step_seconds(sample: Sample, before: Sample | None) -> float:
    """What the script told, else the time since the report of the step before; NaN is unknown."""
    if sample.step_seconds > 0 or before is None or sample.step != before.step + 1:
        return sample.step_seconds
    return sample.time - before.time
