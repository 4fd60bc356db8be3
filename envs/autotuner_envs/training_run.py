"""The environment: one training run, steered through the product's own control loop."""

from __future__ import annotations

from typing import Any, ClassVar, SupportsFloat

import gymnasium
import numpy as np
from numpy.typing import NDArray

from autotuner.controller.actions import ACTION_COUNT, HOLD
from autotuner.controller.decision import Decision
from autotuner.controller.hold import Hold
from autotuner.controller.loop import ControlLoop
from autotuner.controller.observation import FEATURES
from autotuner.controller.policy import Choice
from autotuner_envs.rewards import Costs, potential, reward
from autotuner_envs.scenario import Scenario
from autotuner_envs.scenarios import SEEDS, draw, families
from autotuner_envs.simulator import Simulator

SLICES = 4
"""Samples an interval; the steps between them are counted, not reported."""

Observation = NDArray[np.float32]


class TrainingRun(gymnasium.Env[Observation, np.int64]):
    """One simulated diffusion training, from its first step to the end of its budget.

    Observation: ``Box(-1.5, 1.5, (len(FEATURES),), float32)``, the vector that ``autotuner.controller.observation.observe``
    builds in the daemon, feature by feature named in ``FEATURES``.

    Actions: ``Discrete(len(ACTIONS))``, the table ``autotuner.controller.actions.ACTIONS``. 0 holds; each other action moves
    one knob one position. ``action_masks()`` says which are legal; an illegal one is refused by the guard and counts as hold.
    In an emergency the guard acts by itself, whatever the action was, also between two decisions.

    Reward: the sum of the terms in ``rewards.reward`` over one decision interval; ``info["terms"]`` has them apart.

    Starting state: ``options={"scenario": Scenario}``, or ``{"family": name, "seed": int}``, or else a family and a seed of
    this environment's split, drawn from the environment's generator. One interval at the script's own values passes before
    the first observation.

    Episode end: terminated when the budget is spent or the machine killed the run. Never truncated. 20 to 240 decisions,
    drawn with the scenario.

    Version history: v0, first.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self, split: str = "train", render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.split = split
        self.observation_space = gymnasium.spaces.Box(-1.5, 1.5, (len(FEATURES),), np.float32)
        self.action_space = gymnasium.spaces.Discrete(ACTION_COUNT)
        self.decisions: list[Decision] = []
        self.pressure_seconds = self.heat_seconds = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """Begin a run and let its first interval pass."""
        super().reset(seed=seed)
        self.scenario = self._scenario(options or {})
        self.simulator = Simulator(self.scenario)
        self.loop = ControlLoop(self.scenario.declaration, Hold(), interval_seconds=self.scenario.interval_seconds)
        self.decisions = []
        self.pressure_seconds = self.heat_seconds = 0.0
        self._potential = potential(self.simulator)
        self._advance(0)
        return self._observe(), {"family": self.scenario.family, "scenario_seed": self.scenario.seed}

    def _scenario(self, options: dict[str, Any]) -> Scenario:
        if "scenario" in options:
            return options["scenario"]
        names = families(self.split)
        family = options.get("family") or names[int(self.np_random.integers(len(names)))]
        return draw(family, options.get("seed", SEEDS[self.split] + int(self.np_random.integers(900_000))))

    def step(self, action: np.int64) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        """Make one decision and let one interval pass."""
        decision = self.loop.act(Choice(int(action), "policy"), self.simulator.state.time)
        self.decisions.append(decision)
        terms = self._advance(len(decision.changes))
        return self._observe(), sum(terms.values()), self.simulator.ended, False, {"terms": terms}

    def _advance(self, changes: int) -> dict[str, float]:
        """Let an interval pass in slices; between two of them the guard may act, as it may between two ticks of the daemon."""
        seconds = self.loop.interval_seconds / SLICES
        passed = pressure = heat = 0.0
        out_of_memory = 0
        before, elapsed = self._potential, self.simulator.elapsed
        for part in range(SLICES):
            progress = self.simulator.advance(self.loop.asked, seconds)
            for record in progress.records:
                self.loop.feed(record)
            if progress.machine is not None:
                self.loop.machine(progress.machine)
            passed += progress.seconds
            pressure += progress.pressure_seconds
            heat += progress.heat_seconds
            out_of_memory += progress.out_of_memory
            if self.simulator.ended:
                break
            if part < SLICES - 1 and self.loop.due(self.simulator.state.time):
                decision = self.loop.act(Choice(HOLD, "hold"), self.simulator.state.time)
                self.decisions.append(decision)
                changes += len(decision.changes)
        self._potential = potential(self.simulator)
        self.pressure_seconds += pressure
        self.heat_seconds += heat
        total = Costs(elapsed, passed, pressure, heat, out_of_memory, self.simulator.state.killed, changes)
        return reward(before, self._potential, total, self.scenario.budget_seconds)

    def _observe(self) -> Observation:
        return np.asarray(self.loop.observe(self.simulator.state.time), dtype=np.float32)

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions are legal now; the first always is."""
        return np.asarray(self.loop.mask(self.simulator.state.time), dtype=bool)
