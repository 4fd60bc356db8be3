"""The compiled environments as Stable-Baselines3 wants them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from autotuner_envs.batch.layout import Runs
from autotuner_envs.batch.runs import BatchedRuns, encoded
from autotuner_envs.scenarios import SEEDS, draw, families
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from autotuner.controller.actions import ACTION_COUNT
from autotuner.controller.observation import FEATURES


def pool(count: int, first: int = 0, split: str = "train") -> Runs:
    """``count`` encoded scenarios of a split, its families in turn, from its seed number ``first`` on."""
    names = families(split)
    return encoded([draw(names[i % len(names)], SEEDS[split] + first + i) for i in range(count)])


class VectorisedRuns(VecEnv):
    """``environments`` runs in lockstep, each replaced by a random one of ``scenarios`` when it ends."""

    render_mode = None

    def __init__(self, environments: int, scenarios: Runs, seed: int) -> None:
        super().__init__(
            environments,
            gymnasium.spaces.Box(-1.5, 1.5, (len(FEATURES),), np.float32),
            gymnasium.spaces.Discrete(ACTION_COUNT),
        )
        self._random = np.random.default_rng(seed)
        self._scenarios = scenarios
        self._batch = BatchedRuns(scenarios[self._drawn(environments)])
        self._actions = np.zeros(environments, np.int64)
        self._returns = np.zeros(environments)
        self._lengths = np.zeros(environments, np.int64)

    def _drawn(self, count: int) -> NDArray[np.integer[Any]]:
        return self._random.integers(len(self._scenarios), size=count)

    def reset(self) -> NDArray[np.float32]:
        """Begin other runs everywhere; their first observations."""
        self._batch.replace(self._scenarios[self._drawn(self.num_envs)], np.arange(self.num_envs))
        self._returns[:], self._lengths[:] = 0.0, 0
        return self._batch.observations.copy()

    def step_async(self, actions: NDArray[np.integer[Any]]) -> None:
        """Keep the actions for ``step_wait``."""
        self._actions = np.asarray(actions, np.int64)

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """One decision in every run; where one ended, the observation is the next run's first."""
        batch = self._batch
        batch.step(self._actions)
        rewards, done = batch.rewards.astype(np.float32), batch.ended.copy()
        self._returns += batch.rewards
        self._lengths += 1
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        ended = np.flatnonzero(done)
        for i in ended:
            infos[i] = {
                "terminal_observation": batch.observations[i].copy(),
                "episode": {"r": float(self._returns[i]), "l": int(self._lengths[i]), "t": 0.0},
            }
        if len(ended):
            self._returns[ended], self._lengths[ended] = 0.0, 0
            batch.replace(self._scenarios[self._drawn(len(ended))], ended)
        return batch.observations.copy(), rewards, done, infos

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions are legal now, (environments, ACTION_COUNT)."""
        return self._batch.masks

    def close(self) -> None:
        """Nothing to close."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The same attribute for every environment; raises AttributeError if there is none."""
        return [getattr(self, attr_name)] * len(self._which(indices))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Not supported: the runs are records, not objects."""
        raise NotImplementedError(f"attribute {attr_name!r} of compiled environments cannot be set")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Only ``action_masks``, which MaskablePPO asks for."""
        if method_name != "action_masks":
            raise AttributeError(f"compiled environments have no method {method_name!r}; allowed is 'action_masks'")
        return list(self._batch.masks[self._which(indices)])

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """Never."""
        return [False] * len(self._which(indices))

    def _which(self, indices: Any) -> Sequence[int]:
        return range(self.num_envs) if indices is None else np.atleast_1d(indices).tolist()
