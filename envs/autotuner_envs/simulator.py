"""One simulated training run: advanced by a slice of time at given knob values, it speaks the product's own messages."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from autotuner.diffusion.plan import TEACHER_SHARE, student_rate, teacher_rate
from autotuner.messages import (
    FLAG_FIRST_OF_SHAPE,
    FLAG_NOT_FINITE,
    FLAG_OUT_OF_MEMORY,
    NAN,
    Acknowledgement,
    Evaluation,
    MachineState,
    Record,
    Sample,
)
from autotuner.telemetry.heat import HeatModel
from autotuner.telemetry.scripted import InjectedState, slowdown
from autotuner_envs.curves import WARM_UP
from autotuner_envs.draws import EVALUATION, FINITE, KILL, LOSS, QUALITY, STEP, normal, uniform
from autotuner_envs.machine import QUALITY_EVERY
from autotuner_envs.scenario import Scenario

START_TIME = 1000.0
QUALITY_STEPS = 4
WARN_SHARE = 0.9  # of the memory limit: pressure 1 above it, 2 above the limit itself
KILL_SHARE = 1.4  # of the memory limit: above it the script meets out of memory
KILL_HAZARD = 0.06  # chance a slice above it that the machine kills the run
LOSS_NOISE = 0.06  # relative deviation of one training loss from the smooth curve
EVALUATION_NOISE = 0.002
QUALITY_NOISE = 0.02


@dataclass(slots=True)
class RunState:
    """Everything that changes while a run trains; hidden from policies."""

    time: float = START_TIME
    step: float = 0.0
    images: float = 0.0
    coarse_seen: float = 0.0
    fine_seen: float = 0.0
    transient: float = 0.0
    student_ratio: float = NAN
    """Quality of the best student so far, relative to the undistilled teacher; NaN before there is one."""
    student_of: float = NAN
    """How much its teacher had seen."""
    stage_entered: float = 0.0
    student_base: float = NAN
    """Quality at the target steps of the undistilled teacher that the student learns from."""
    teacher_rate: float = 0.0
    """Learning rate that the schedule had at the teacher's last step, as a share of its peak."""
    owed_seconds: float = 0.0
    """Time that compiles and evaluations still take from training."""
    cached_bytes: float = 0.0
    """What the framework keeps for reuse."""
    leaked_bytes: float = 0.0
    used_bytes: float = 0.0
    peak_bytes: float = 0.0
    shapes: set[tuple[float, float, bool]] = field(default_factory=set)
    next_evaluation: float = 0.0
    evaluations: int = 0
    thermal_level: int = 0
    memory_pressure: int = 0
    frequency_ratio: float = 1.0
    slices: int = 0
    """Slices of time so far: names the draws of the present one."""
    killed: bool = False
    out_of_memory: int = 0
    """Slices in which memory ran out."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What one slice of time brought: the messages that the daemon would have got, and costs for the reward."""

    records: tuple[Record, ...]
    machine: MachineState | None
    seconds: float
    pressure_seconds: float
    heat_seconds: float
    out_of_memory: int


class Simulator:
    """One run of one scenario; deterministic given the scenario, its seed and the knob positions asked."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.state = RunState()
        self.positions = scenario.declaration.start
        self.revision = 0
        self._index = {knob.name: i for i, knob in enumerate(scenario.declaration.knobs)}
        self._heat = (
            HeatModel(scenario.heat.profile, scenario.heat.ambient_celsius, scenario.heat.time_scale) if scenario.heat else None
        )
        self.state.next_evaluation = START_TIME + self._evaluation_interval / 4

    @property
    def _evaluation_interval(self) -> float:
        return self.scenario.budget_seconds / self.scenario.evaluations

    def value(self, name: str) -> float:
        """The value in force of knob ``name``, or what an undeclared knob stands at."""
        index = self._index.get(name)
        if index is None:
            return self.scenario.fixed[name]
        return self.scenario.declaration.knobs[index].values[self.positions[index]]

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return self.state.time - START_TIME

    @property
    def ended(self) -> bool:
        """Whether the budget is spent or the run was killed."""
        return self.state.killed or self.elapsed >= self.scenario.budget_seconds - 1e-6

    def held_out_loss(self) -> float:
        """What a noiseless evaluation at full resolution would show now."""
        state = self.state
        return self.scenario.curve.held_out_loss(state.coarse_seen, state.fine_seen, state.transient, state.teacher_rate)

    def quality(self) -> float:
        """What a noiseless measurement at the target steps would show now: the student's in its stages, else the teacher's."""
        state = self.state
        if self.value("distill") == 0:
            return self.scenario.distillation.undistilled(self.held_out_loss())
        return state.student_base * state.student_ratio

    def advance(self, asked: tuple[int, ...], seconds: float) -> Progress:
        """Let ``seconds`` pass with the knobs at ``asked``, applied before the first step."""
        records: list[Record] = []
        self._apply(asked, records)
        seconds = min(seconds, self.scenario.budget_seconds - self.elapsed)
        before = self.state.out_of_memory
        self._slice(seconds, records)
        self.state.slices += 1
        pressure = seconds * (self.state.memory_pressure >= 2)
        heat = seconds * (self.state.thermal_level >= 2)
        return Progress(tuple(records), self._machine(), seconds, pressure, heat, self.state.out_of_memory - before)

    def _uniform(self, purpose: int) -> float:
        return uniform(self.scenario.seed, self.state.slices, purpose)

    def _normal(self, purpose: int) -> float:
        return normal(self.scenario.seed, self.state.slices, purpose)

    def _apply(self, asked: tuple[int, ...], records: list[Record]) -> None:
        if asked == self.positions:
            return
        was, shape = self.value("distill"), self._shape()
        self.positions = asked
        self.revision += 1
        if self.value("distill") > 0 and was == 0 and self.state.student_of != self.state.fine_seen:
            self._new_student()
        if self.value("distill") != was:
            self.state.stage_entered = self.elapsed
        if self._shape() != shape:
            self.state.cached_bytes = 0.0  # the trainer clears the cache when shapes change
        records.append(Acknowledgement(self.revision, int(self.state.step), self.state.time, positions=asked))

    def _new_student(self) -> None:
        """A student starts from the teacher as it is now; an old one goes on only while its teacher has not learned."""
        self.state.student_of = self.state.fine_seen
        self.state.student_ratio = self.scenario.distillation.start_ratio
        self.state.student_base = self.scenario.distillation.undistilled(self.held_out_loss())

    def _slice(self, seconds: float, records: list[Record]) -> None:
        """Heat and memory, then training in the time that is left, then what is reported."""
        state, scenario = self.state, self.scenario
        stage = int(self.value("distill"))
        first = self._meet_shape(stage)
        self._use_memory(stage, seconds)
        pace = self.value("pace")
        factor = slowdown(self._injected(), state.used_bytes)
        noise = math.exp(scenario.step_noise * self._normal(STEP))
        cool = scenario.step.seconds(scenario.batch, self.value("micro_batch"), self._ratio(), stage)
        step_seconds = cool * self._cache_penalty() * factor * noise / pace
        paid = min(seconds, state.owed_seconds)
        state.owed_seconds -= paid
        steps = (seconds - paid) / step_seconds
        lost = self._not_finite_share()
        self._learn(steps * (1.0 - lost), stage)
        state.step += steps
        state.images += steps * scenario.batch
        state.time += seconds
        self._warm(pace, seconds)
        self._report(records, stage, step_seconds, first, lost)
        if state.time >= state.next_evaluation:
            self._evaluate(records, stage, factor)

    def _shape(self) -> tuple[float, float]:
        return self.value("resolution"), self.value("micro_batch")

    def _ratio(self) -> float:
        return self.value("resolution") / self.scenario.full_resolution

    def _meet_shape(self, stage: int) -> bool:
        shape = (self.value("resolution"), self.value("micro_batch"), stage > 0)
        if shape in self.state.shapes:
            return False
        self.state.shapes.add(shape)
        self.state.owed_seconds += self.scenario.step.compile_seconds
        return True

    def _transient(self, stage: int) -> float:
        return self.scenario.memory.activations(self.value("micro_batch"), self._ratio(), stage)

    def _use_memory(self, stage: int, seconds: float) -> None:
        """Bytes in use now; the cache grows to what the shape needs, unless limited."""
        state, cost = self.state, self.scenario.memory
        transient = self._transient(stage)
        state.leaked_bytes += self.scenario.leak_bytes_per_second * seconds
        resident = cost.resident(stage, len(state.shapes)) + state.leaked_bytes
        state.cached_bytes = min(max(state.cached_bytes, cost.cached_share * transient), self.value("cache_limit"))
        state.peak_bytes = resident + transient
        state.used_bytes = max(state.peak_bytes, resident + state.cached_bytes)
        limit = self.scenario.limit(self.elapsed)
        state.memory_pressure = 2 if state.used_bytes > limit else 1 if state.used_bytes > WARN_SHARE * limit else 0
        if state.peak_bytes > KILL_SHARE * limit:  # a cache is given up before an allocation fails
            state.out_of_memory += 1
            state.killed = state.killed or self._uniform(KILL) < KILL_HAZARD

    def _cache_penalty(self) -> float:
        """A cache smaller than one pass needs makes the framework allocate anew: up to 10 % (assumed)."""
        wanted = self.scenario.memory.cached_share * self._transient(int(self.value("distill")))
        return 1.0 + 0.1 * max(0.0, 1.0 - self.value("cache_limit") / max(wanted, 1.0))

    def _injected(self) -> InjectedState:
        limit = int(self.scenario.limit(self.elapsed))
        return InjectedState(self.state.time, frequency_ratio=self.state.frequency_ratio, memory_limit_bytes=limit)

    def _not_finite_share(self) -> float:
        elapsed = self.elapsed
        share = sum(burst.share for burst in self.scenario.bursts if burst.start <= elapsed < burst.end)
        return min(0.9, share * self.value("lr_scale"))

    def _learn(self, steps: float, stage: int) -> None:
        state, scenario = self.state, self.scenario
        images = steps * scenario.batch / scenario.image_scale
        ratio = self._ratio()
        coarse, fine = scenario.curve.weights(ratio)
        if stage:
            useful = images * fine * self._student_rate() ** scenario.curve.rate_exponent
            state.student_ratio = scenario.distillation.moved(state.student_ratio, stage, useful)
            return
        rate = teacher_rate(self.elapsed / scenario.budget_seconds, scenario.stages, WARM_UP)
        useful = images * rate**scenario.curve.rate_exponent * self._efficiency()
        state.teacher_rate = rate
        state.coarse_seen += useful * coarse
        state.fine_seen += useful * fine
        state.transient = scenario.curve.moved(state.transient, ratio, images)

    def _student_rate(self) -> float:
        """The script's own decay of the student's learning rate within a stage."""
        planned = (1 - TEACHER_SHARE) / max(self.scenario.stages, 1)
        return student_rate((self.elapsed - self.state.stage_entered) / self.scenario.budget_seconds / planned)

    def _efficiency(self) -> float:
        """What learning rate and noise density make of an image."""
        scenario = self.scenario
        octaves = math.log2(self.value("lr_scale"))
        return scenario.density_efficiency[int(self.value("timestep_density"))] * scenario.curve.efficiency(octaves)

    def _warm(self, pace: float, seconds: float) -> None:
        if self._heat is None:
            return
        heat = self._heat.step(pace, seconds)
        self.state.frequency_ratio = heat.frequency_ratio
        self.state.thermal_level = heat.level

    def _report(self, records: list[Record], stage: int, step_seconds: float, first: bool, lost: float) -> None:
        state = self.state
        if self._in_gap():
            return
        finite = self._uniform(FINITE) >= lost
        flags = (FLAG_FIRST_OF_SHAPE if first else 0) | (0 if finite else FLAG_NOT_FINITE)
        if state.peak_bytes > KILL_SHARE * self.scenario.limit(self.elapsed):
            flags |= FLAG_OUT_OF_MEMORY
        loss = self._training_loss(stage) if finite else NAN
        resident = state.peak_bytes - self._transient(stage)
        records.append(
            Sample(
                step=int(state.step),
                time=state.time,
                loss=loss,
                images=int(state.images),
                step_seconds=step_seconds,
                active_bytes=int(resident),
                cache_bytes=int(state.cached_bytes),
                peak_bytes=int(state.peak_bytes),
                revision=self.revision,
                stage=stage,
                flags=flags,
            )
        )

    def _training_loss(self, stage: int) -> float:
        """Loss on the batch at its own resolution: no transient there, and easier at lower resolution."""
        noise = math.exp(LOSS_NOISE * self._normal(LOSS))
        if stage:
            return 0.1 * self.state.student_ratio * noise
        return (self.held_out_loss() - self.state.transient) * self._ratio() ** 0.3 * noise

    def _evaluate(self, records: list[Record], stage: int, factor: float) -> None:
        state, scenario = self.state, self.scenario
        cost = scenario.evaluation
        state.evaluations += 1
        state.next_evaluation += self._evaluation_interval
        with_quality = state.evaluations % QUALITY_EVERY == 0
        seconds = (
            cost.held_out_seconds
            + cost.preview_step_seconds * self.value("sampling_steps")
            + with_quality * cost.quality_seconds
        )
        state.owed_seconds += seconds * factor
        loss = self.held_out_loss() * math.exp(EVALUATION_NOISE * self._normal(EVALUATION))
        quality = self.quality() * math.exp(QUALITY_NOISE * self._normal(QUALITY)) if with_quality else NAN
        gap = scenario.distillation.gap(quality / state.student_base) if with_quality and stage else NAN
        if not self._in_gap():
            steps = QUALITY_STEPS if with_quality else 0
            records.append(Evaluation(int(state.step), state.time, loss, quality, steps, seconds * factor, stage, gap))

    def _in_gap(self) -> bool:
        elapsed = self.elapsed
        return any(gap.start <= elapsed < gap.end for gap in self.scenario.gaps)

    def _machine(self) -> MachineState | None:
        """What the sensors say; nothing while they are silent."""
        if self._in_gap():
            return None
        state, limit = self.state, self.scenario.limit(self.elapsed)
        return MachineState(
            time=state.time,
            memory_total_bytes=int(self.scenario.total_bytes),
            memory_available_bytes=int(max(0.0, limit - state.used_bytes)),
            memory_pressure=state.memory_pressure,
            swap_used_bytes=int(max(0.0, state.used_bytes - limit)),
            thermal_level=state.thermal_level if self.scenario.tells_heat else None,
            celsius=self._heat.state.die_celsius if self._heat and self.scenario.tells_heat else None,
            injected=True,
        )
