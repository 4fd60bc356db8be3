"""What stage S2 injects and what it compares: scenarios drawn from a seed, the pretended machine, and the arms.

Nothing here is measured from the machine: heat and memory are scripted as in the demo, with readings labelled ``injected``.
"""

from __future__ import annotations

import itertools
import math
import zlib
from dataclasses import dataclass, field

import numpy as np

from autotuner.demo.injection import WARN_SHARE
from autotuner.telemetry.heat import HeatModel
from autotuner.telemetry.scripted import InjectedState

SEEDS = {"validation": 2_000_000, "test": 3_000_000}
"""First seed of each split, as in docs/evidence-protocol.md; seeds name model, data order and events."""

# How strong the disturbances are: tuned on validation seeds alone, so that they cost the untouched script time, then frozen.
HEAT_PROFILES = ("limit_cycle", "mbp14_max", "air_fanless")
HEAT_MINUTES = (15.0, 30.0)
"""Minutes of the profile's own time that one budget sees."""
AMBIENT_CELSIUS = (24.0, 34.0)
MEMORY_FROM = (0.05, 0.15)
MEMORY_FOR = (0.30, 0.45)
"""Shares of the budget: when another program begins to take memory, and how long it keeps it."""
MEMORY_LEFT = (0.22, 0.50)
MEMORY_ROOMY = 1.4
"""What is left then and what there is otherwise, as shares of what the untouched script uses."""
MEMORY_RAMP = 0.06
"""Share of the budget in which that program takes what it takes: no program takes gigabytes in no time."""
KILL_SHARE = 1.4
"""Of the limit: memory held at once above it counts as run out, as in the simulator; a cache would be given up before."""
HEAVY_HEAT = 2

START = {
    "resolution": 28.0,
    "micro_batch": 64.0,
    "sampling_steps": 8.0,
    "pace": 1.0,
    "cache_limit": 2.0**30,
    "lr_scale": 1.0,
    "timestep_density": 0.0,
}
"""A script that was set up well, by knob."""
COSTLY_LADDER = (4, 8, 16, 64)


@dataclass(frozen=True)
class Kind:
    """One row of the table of scenario types."""

    sentence: str
    heat: bool = False
    memory: bool = False
    start: dict[str, float] = field(default_factory=dict)
    """What the script chose badly."""
    sampling_ladder: tuple[int, ...] = (4, 8, 16)

    @property
    def group(self) -> str:
        """``disturbed``, ``bad_start`` or ``stationary``."""
        return "disturbed" if self.heat or self.memory else "bad_start" if self.start else "stationary"


KINDS: dict[str, Kind] = {
    "stationary": Kind("nothing happens under a script that was set up well"),
    "heat": Kind("the machine warms up and throttles, by one of three heat models", heat=True),
    "memory": Kind("another program takes memory and gives it back", memory=True),
    "heat_and_memory": Kind("both at once", heat=True, memory=True),
    "small_micro_batch": Kind("the script starts with a micro-batch of 8", start={"micro_batch": 8.0}),
    "low_resolution": Kind("the script starts at 16 of 28 pixels", start={"resolution": 16.0}),
    "poor_lr": Kind("the script starts at a quarter of a good learning rate", start={"lr_scale": 0.25}),
    "costly_previews": Kind(
        "the script draws previews in 64 steps", start={"sampling_steps": 64.0}, sampling_ladder=COSTLY_LADDER
    ),
}


@dataclass(frozen=True)
class Events:
    """What happens to one run; times are shares of the budget."""

    heat_profile: str = ""
    """Empty: the machine stays cool."""
    ambient_celsius: float = 24.0
    heat_minutes: float = 0.0
    memory_from: float = math.inf
    memory_until: float = math.inf
    memory_left: float = 1.0

    def limit_share(self, used: float) -> float:
        """What the run may use at this share of the budget, in the unit of what the untouched script uses."""
        if not self.memory_from <= used < self.memory_until:
            return MEMORY_ROOMY
        taken = min(1.0, (used - self.memory_from) / MEMORY_RAMP)
        return MEMORY_ROOMY + taken * (self.memory_left - MEMORY_ROOMY)


def draw(kind: str, seed: int) -> Events:
    """The events that this kind and seed name: the same ones every time, for every arm."""
    random, row, drawn = np.random.default_rng([zlib.crc32(kind.encode()), seed]), KINDS[kind], {}
    if row.heat:
        drawn["heat_profile"] = HEAT_PROFILES[int(random.integers(len(HEAT_PROFILES)))]
        drawn["heat_minutes"] = round(float(random.uniform(*HEAT_MINUTES)), 3)
        drawn["ambient_celsius"] = round(float(random.uniform(*AMBIENT_CELSIUS)), 2)
    if row.memory:
        drawn["memory_from"] = round(float(random.uniform(*MEMORY_FROM)), 4)
        drawn["memory_until"] = round(drawn["memory_from"] + float(random.uniform(*MEMORY_FOR)), 4)
        drawn["memory_left"] = round(float(random.uniform(*MEMORY_LEFT)), 4)
    return Events(**drawn)


class Machine:
    """The pretended machine of one run; ``unit_bytes`` is what the untouched script uses (0: memory is not limited)."""

    def __init__(self, events: Events, budget_seconds: float, unit_bytes: int) -> None:
        self.events = events
        self.pressure_seconds = 0.0
        """Time with more in use than the limit."""
        self.heat_seconds = 0.0
        """Time at heavy heat and above."""
        self.limit_bytes: int | None = None
        self._budget = budget_seconds
        self._unit = unit_bytes
        self._heat = (
            HeatModel(events.heat_profile, events.ambient_celsius, events.heat_minutes * 60.0 / budget_seconds)
            if events.heat_profile
            else None
        )

    def step(self, now: float, elapsed: float, seconds: float, used_bytes: int, pace: float) -> InjectedState:
        """The machine ``elapsed`` seconds into the run, ``seconds`` after the last call; ``now`` is monotonic time."""
        self.limit_bytes = int(self._unit * self.events.limit_share(elapsed / self._budget)) if self._unit else None
        pressure = None
        if self.limit_bytes is not None:
            pressure = 2 if used_bytes > self.limit_bytes else 1 if used_bytes > WARN_SHARE * self.limit_bytes else 0
        level, celsius, ratio = 0, 45.0, 1.0
        if self._heat is not None:
            state = self._heat.step(pace, seconds)
            level, celsius, ratio = state.level, round(state.die_celsius, 1), max(0.05, min(1.0, state.frequency_ratio))
        self.pressure_seconds += seconds * (pressure == 2)
        self.heat_seconds += seconds * (level >= HEAVY_HEAT)
        return InjectedState(
            time=now,
            thermal_level=level,
            celsius=celsius,
            frequency_ratio=ratio,
            memory_limit_bytes=self.limit_bytes,
            memory_available_bytes=None if self.limit_bytes is None else max(0, self.limit_bytes - used_bytes),
            memory_pressure=pressure,
        )

    def out_of_memory(self, peak_bytes: int) -> bool:
        """Whether a step that held so much at once would have run out of memory."""
        return self.limit_bytes is not None and peak_bytes > KILL_SHARE * self.limit_bytes


@dataclass(frozen=True)
class Arm:
    """One row of the table of arms."""

    policy: str = ""
    """The daemon's; empty: no Autotuner, no guard."""
    values: dict[str, float] = field(default_factory=dict)
    """Knobs that the script sets for the whole run, whatever the scenario's start."""
    coarse_until: float = 0.0
    """Share of the budget in which the script's own plan stays at its lowest resolution."""


STATICS: dict[str, Arm] = {
    f"static:{micro_batch:g}-{pace:g}-{lr_scale:g}-{cache_limit / 2**20:g}": Arm(
        values={
            "micro_batch": micro_batch, "sampling_steps": 4.0, "pace": pace,
            "lr_scale": lr_scale, "cache_limit": cache_limit, "timestep_density": 0.0,
        }
    )
    for micro_batch, pace, lr_scale, cache_limit in itertools.product(
        (64.0, 32.0, 16.0), (1.0, 0.85), (1.0, 2.0), (2.0**30, 2.0**26)
    )
}  # fmt: skip
"""Candidates for the best static, by micro-batch, pace, learning-rate scale and MiB of cache; previews are cheap in all."""


def hand() -> Arm:
    """The simulator's hand-tuned schedule, as the script's own plan and without Autotuner."""
    from autotuner_envs.schedules import HAND_TUNED

    chosen = {"sampling_steps": HAND_TUNED.sampling_steps, "pace": HAND_TUNED.pace, "lr_scale": HAND_TUNED.lr_scale}
    return Arm(values={"micro_batch": 64.0, "resolution": 28.0, **chosen}, coarse_until=HAND_TUNED.coarse_until)


ARMS = ("learned", "rules", "forecast", "hold", "alone", "best_static", "hand")
AGAIN = " again"
"""Ends the name of an arm that is the same as the one without it: A/A."""


def arm(name: str, best_static: str = "") -> Arm:
    """The arm called ``name``; raises ValueError with the known names, or where no best static was chosen."""
    name = name.removesuffix(AGAIN)
    if name == "best_static":
        if best_static not in STATICS:
            raise ValueError(f"best static {best_static!r}; --tune chooses one of {len(STATICS)} first")
        return STATICS[best_static]
    if name in STATICS:
        return STATICS[name]
    if name == "hand":
        return hand()
    if name == "alone":
        return Arm()
    if name in ARMS:
        return Arm(policy=name)
    raise ValueError(f"arm {name!r}; allowed: {', '.join(ARMS)}")


def start(kind: str, chosen: Arm) -> dict[str, float]:
    """Knob values of the first step: a good start, what the scenario spoils of it, what the arm's script sets."""
    return {**START, **KINDS[kind].start, **chosen.values}


def rotated(arms: tuple[str, ...], turn: int) -> tuple[str, ...]:
    """The order of the arms in one pair: a Latin square over the pairs, so that drift meets every arm alike."""
    turn %= len(arms)
    return arms[turn:] + arms[:turn]
