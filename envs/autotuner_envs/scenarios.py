"""The table of scenario families: what happens to a run, drawn from a seed, split into train, validation and test."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from autotuner.diffusion.plan import teacher_rate
from autotuner.knobs import declare
from autotuner_envs.curves import WARM_UP
from autotuner_envs.scenario import BATCH, LADDERS, HeatSetting, MemoryLimit, Scenario, Span, base, plain_evaluations, scaled

Change = Callable[[Scenario, np.random.Generator], Scenario]


@dataclass(frozen=True)
class Family:
    """One row of the table."""

    name: str
    splits: tuple[str, ...]
    change: Change
    sentence: str


def _plain(scenario: Scenario) -> float:
    """Bytes that the run needs as its script starts it."""
    return scenario.memory.resident(0, 1) + scenario.memory.activations(BATCH, 1.0, 0)


def _stationary(scenario: Scenario, random: np.random.Generator) -> Scenario:
    return scenario


def _heats(profiles: tuple[str, ...], minutes: tuple[float, float]) -> Change:
    """Heat whose profile's tens of minutes are compressed so that the budget sees ``minutes`` of it."""

    def change(scenario: Scenario, random: np.random.Generator) -> Scenario:
        scale = max(0.25, float(random.uniform(*minutes)) * 60.0 / scenario.budget_seconds)
        profile = profiles[int(random.integers(len(profiles)))]
        return replace(scenario, heat=HeatSetting(profile, float(random.uniform(18.0, 34.0)), scale))

    return change


def _memory_taken(returned: bool, begins: tuple[float, float] = (0.1, 0.7), left: tuple[float, float] = (0.45, 0.95)) -> Change:
    """From a share of the budget on, the run has a part of what its script uses."""

    def change(scenario: Scenario, random: np.random.Generator) -> Scenario:
        start = float(random.uniform(*begins)) * scenario.budget_seconds
        limits = [*scenario.limits, MemoryLimit(start, _plain(scenario) * float(random.uniform(*left)))]
        if returned:
            end = start + float(random.uniform(0.1, 0.4)) * scenario.budget_seconds
            limits.append(MemoryLimit(end, scenario.total_bytes))
        return replace(scenario, limits=tuple(limits))

    return change


def _leak(scenario: Scenario, random: np.random.Generator) -> Scenario:
    room = scenario.total_bytes - _plain(scenario)
    return replace(scenario, leak_bytes_per_second=room / (scenario.budget_seconds * float(random.uniform(0.4, 0.9))))


def _noisy(scenario: Scenario, random: np.random.Generator) -> Scenario:
    return replace(scenario, step_noise=float(random.uniform(0.15, 0.4)))


def _sized(low: float, high: float) -> Change:
    def change(scenario: Scenario, random: np.random.Generator) -> Scenario:
        scale = float(random.uniform(low, high))
        step = replace(
            scenario.step, pass_seconds=scenario.step.pass_seconds * scale, image_seconds=scenario.step.image_seconds * scale
        )
        return replace(scenario, step=step, image_scale=scenario.image_scale / scale)

    return change


def _budget(low: float, high: float) -> Change:
    """Another budget with the same number of steps, so that only the clock of heat and decisions differs."""

    def change(scenario: Scenario, random: np.random.Generator) -> Scenario:
        budget = float(np.exp(random.uniform(math.log(low), math.log(high))))
        scale = budget / scenario.budget_seconds
        step = scenario.step
        return replace(
            scenario,
            budget_seconds=budget,
            declaration=replace(scenario.declaration, budget_seconds=budget),
            step=replace(step, pass_seconds=step.pass_seconds * scale, image_seconds=step.image_seconds * scale),
            evaluation=scaled(scenario.evaluation, scale),
        )

    return change


def _gaps(scenario: Scenario, random: np.random.Generator) -> Scenario:
    spans = []
    for start in sorted(random.uniform(0.05, 0.9, size=int(random.integers(1, 4)))):
        begin = float(start) * scenario.budget_seconds
        spans.append(Span(begin, begin + float(random.uniform(0.02, 0.15)) * scenario.budget_seconds))
    return replace(_memory_taken(True)(scenario, random), gaps=tuple(spans))


def _bursts(scenario: Scenario, random: np.random.Generator) -> Scenario:
    spans = []
    for start in sorted(random.uniform(0.05, 0.9, size=int(random.integers(1, 3)))):
        begin = float(start) * scenario.budget_seconds
        spans.append(
            Span(begin, begin + float(random.uniform(0.03, 0.1)) * scenario.budget_seconds, float(random.uniform(0.2, 0.8)))
        )
    return replace(scenario, bursts=tuple(spans))


def _start(name: str, positions: tuple[int, ...], values: tuple[float, ...] = ()) -> Change:
    """The script starts ``name`` badly: at one of these positions of its ladder, or of ``values``."""

    def change(scenario: Scenario, random: np.random.Generator) -> Scenario:
        position = positions[int(random.integers(len(positions)))]
        ladder = values or LADDERS[name]
        bad = declare(name, ladder[position], ladder)
        others = tuple(knob for knob in scenario.declaration.knobs if knob.name != name)
        fixed = {key: value for key, value in scenario.fixed.items() if key != name}
        return replace(scenario, declaration=replace(scenario.declaration, knobs=(bad, *others)), fixed=fixed)

    return change


def _poor_density(scenario: Scenario, random: np.random.Generator) -> Scenario:
    """The script draws its noise levels where they teach less: by as much as was recorded, or up to a third more."""
    scenario = _start("timestep_density", (1,))(scenario, random)
    first, second, *more = scenario.density_efficiency
    return replace(scenario, density_efficiency=(first, min(second, 0.95) * float(random.uniform(0.67, 1.0)), *more))


def _scattered(scenario: Scenario, random: np.random.Generator) -> Scenario:
    """Every knob that was declared starts anywhere on its ladder: what a policy must have seen to repair any start."""
    knobs = tuple(replace(knob, start=int(random.integers(len(knob.values)))) for knob in scenario.declaration.knobs)
    first, *more = scenario.density_efficiency
    worse = tuple(value * float(random.uniform(0.4, 1.0)) for value in more)
    return replace(
        scenario,
        declaration=replace(
            scenario.declaration, knobs=tuple(k if k.name != "distill" else replace(k, start=0) for k in knobs)
        ),
        density_efficiency=(first, *worse),
    )


def _costly_previews(scenario: Scenario, random: np.random.Generator) -> Scenario:
    scenario = _start("sampling_steps", (3,))(scenario, random)
    cost = scenario.evaluation
    share = float(random.uniform(0.1, 0.3))  # of the budget, spent on previews
    return replace(
        scenario, evaluation=replace(cost, preview_step_seconds=share * scenario.budget_seconds / scenario.evaluations / 32)
    )


def _tight_start(scenario: Scenario, random: np.random.Generator) -> Scenario:
    """The first micro-batch does not fit: the machine has less than the script assumed."""
    limit = _plain(scenario) * float(random.uniform(0.5, 0.95))
    return replace(scenario, limits=(MemoryLimit(0.0, limit),), total_bytes=limit)


def _both(*changes: Change) -> Change:
    def change(scenario: Scenario, random: np.random.Generator) -> Scenario:
        for each in changes:
            scenario = each(scenario, random)
        return scenario

    return change


_SLOW = ("air_fanless", "mbp13_fan", "mbp14_max", "mbp16_max", "mini_m4pro")
_SEEN = ("train", "validation", "test")

FAMILIES: tuple[Family, ...] = (
    Family("stationary", _SEEN, _stationary, "nothing happens"),
    Family("slow_heat", _SEEN, _heats(_SLOW, (10.0, 30.0)), "a machine with or without fan warms up over the run"),
    Family("fast_heat", _SEEN, _heats(("mbp14_max", "mbp13_fan"), (30.0, 90.0)), "heat comes early and stays"),
    Family("fanless", _SEEN, _heats(("air_fanless",), (15.0, 60.0)), "a laptop without a fan"),
    Family("memory_taken", _SEEN, _memory_taken(False), "another program takes memory and keeps it"),
    Family("tight_start", _SEEN, _tight_start, "the script's first micro-batch does not fit"),
    Family("noisy", _SEEN, _noisy, "step times vary by a fifth and more"),
    Family("small_model", _SEEN, _sized(0.3, 0.6), "steps are quick: more are done in the budget"),
    Family("large_model", _SEEN, _sized(1.6, 3.0), "steps are slow: few are done in the budget"),
    Family("short", _SEEN, _budget(120.0, 200.0), "a budget of two or three minutes"),
    Family("small_micro_batch", _SEEN, _start("micro_batch", (0, 1)), "the script starts with too small a micro-batch"),
    Family("low_resolution", _SEEN, _start("resolution", (0, 1)), "the script starts below full resolution"),
    Family("gaps", _SEEN, _gaps, "telemetry stops for a while as memory is taken"),
    Family("scattered", ("train",), _scattered, "every knob starts anywhere on its ladder"),
    Family("hours", ("train",), _budget(3600.0, 14400.0), "a budget of one to four hours"),
    Family("squeezed", ("train",), _memory_taken(False, (0.03, 0.4), (0.2, 0.6)), "another program takes most memory, early"),
    Family("memory_returned", ("validation", "test"), _memory_taken(True), "another program takes memory and gives it back"),
    Family("costly_previews", ("validation", "test"), _costly_previews, "previews take a tenth of the time and more"),
    Family("learning_rate", _SEEN, _start("lr_scale", (0, 3), (0.25, 0.5, 1.0, 2.0)), "the script's learning rate is far off"),
    Family("poor_density", ("validation", "test"), _poor_density, "the script draws noise levels that teach little"),
    Family("long", ("validation", "test"), _budget(5400.0, 28800.0), "a budget of hours, decided on once a minute"),
    Family("leak", ("test",), _leak, "the run's memory grows without end"),
    Family(
        "limit_cycle", ("test",), _heats(("limit_cycle",), (15.0, 60.0)), "the governor drops the clock, cools, ramps again"
    ),
    Family("clamshell", ("test",), _heats(("air_clamshell",), (15.0, 45.0)), "the case caps the power after a while"),
    Family("not_finite", ("test",), _bursts, "bursts of losses that are not finite"),
    Family(
        "heat_and_memory",
        ("test",),
        _both(_heats(("mbp14_max", "air_fanless"), (20.0, 60.0)), _memory_taken(True)),
        "both at once",
    ),
)
"""Every family; a family that is only in test has never been seen by a policy or by whoever chose one."""

_BY_NAME = {family.name: family for family in FAMILIES}
SEEDS = {"train": 1_000_000, "validation": 2_000_000, "test": 3_000_000}
"""First seed of each split; splits never share a seed."""


CALM = ("stationary", "noisy", "small_model", "large_model", "short", "long")
"""Families in which nothing changes under a run that was set up well."""
BAD_STARTS = ("small_micro_batch", "low_resolution", "costly_previews", "learning_rate", "poor_density")
"""Families whose scripts chose a knob badly."""


def families(split: str) -> tuple[str, ...]:
    """Names of the families of one split."""
    return tuple(family.name for family in FAMILIES if split in family.splits)


def draw(family: str, seed: int) -> Scenario:
    """The scenario of a family that this seed names: the same one every time."""
    random = np.random.default_rng([zlib.crc32(family.encode()), seed])
    return targeted(_BY_NAME[family].change(base(family, seed, random), random))


def frozen(split: str, count: int) -> list[Scenario]:
    """The first ``count`` scenarios of each family of a split."""
    return [draw(name, SEEDS[split] + i) for name in families(split) for i in range(count)]


TARGET_SHARE = 0.4
_TARGET_SLICES = 50


def targeted(scenario: Scenario) -> Scenario:
    """Set the target: what the plain run, undisturbed at full resolution, has reached at TARGET_SHARE of its budget."""
    training = 1.0 - plain_evaluations(scenario.evaluation, scenario.evaluations) / scenario.budget_seconds
    step = scenario.step.seconds(scenario.batch, scenario.batch, 1.0, 0) / max(training, 0.5)
    images = TARGET_SHARE / _TARGET_SLICES * scenario.budget_seconds / step * scenario.batch / scenario.image_scale
    seen = rate = 0.0
    for i in range(_TARGET_SLICES):
        rate = teacher_rate(TARGET_SHARE * (i + 0.5) / _TARGET_SLICES, scenario.stages, WARM_UP)
        seen += images * rate**scenario.curve.rate_exponent
    target = scenario.curve.held_out_loss(seen, seen, 0.0, rate)
    declared = target if scenario.target_declared else None
    return replace(scenario, target=target, declaration=replace(scenario.declaration, target=declared))
