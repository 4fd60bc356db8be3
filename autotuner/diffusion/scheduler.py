"""What a published pipeline says of its noise: `scheduler_config.json` as a process and a grid of noise levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autotuner.diffusion import betas
from autotuner.diffusion.models.config import read_json
from autotuner.diffusion.precondition import Process, find_process
from autotuner.diffusion.schedules import SCHEDULES
from autotuner.errors import ConfigurationError

FILE_NAME = "scheduler_config.json"
PROCESSES = {"epsilon": "vp_epsilon", "v_prediction": "vp_v"}
BETA_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
SPACINGS = ("leading", "trailing", "linspace")
PUBLISHED = "published"
"""The grid that the folder itself asks for."""
REFUSED = {
    "rescale_betas_zero_snr": (False,),
    "trained_betas": (None,),
    "thresholding": (False,),
    "num_train_timesteps": (1000,),
}
"""Keys that would change the result, and the values that are implemented."""


@dataclass(frozen=True)
class Scheduler:
    """The noise of one pipeline; by default that of Stable Diffusion 1."""

    prediction_type: str = "epsilon"
    """What the network predicts; a key of PROCESSES."""
    beta_schedule: str = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    timestep_spacing: str = "leading"
    steps_offset: int = 1
    set_alpha_to_one: bool = False
    """Whether the grid ends at no noise at all; else at that of the first training step."""

    @classmethod
    def load(cls, folder: str | Path) -> Scheduler:
        """Read `scheduler_config.json` in ``folder``; raises ConfigurationError for what is not implemented."""
        raw, origin = read_json(Path(folder) / FILE_NAME)
        return cls.read(raw, origin)

    @classmethod
    def read(cls, raw: Mapping[str, Any], origin: str) -> Scheduler:
        """Check the object in the file; keys that only other solvers read are left alone."""
        tables = {"prediction_type": PROCESSES, "beta_schedule": BETA_SCHEDULES, "timestep_spacing": SPACINGS}
        # diffusers' own defaults: files name only what differs from them.
        found: dict[str, Any] = {
            "beta_schedule": "linear",
            "beta_start": 1e-4,
            "beta_end": 0.02,
            "steps_offset": 0,
            "set_alpha_to_one": True,
        }
        found |= {key: raw[key] for key in cls.__dataclass_fields__ if raw.get(key) is not None}
        for key, allowed in tables.items():
            if found.get(key, getattr(cls, key)) not in allowed:
                raise ConfigurationError(f"{origin}: {key} = {found[key]!r} is not implemented; allowed: {', '.join(allowed)}")
        for key, values in REFUSED.items():
            if raw.get(key, values[0]) not in values:
                raise ConfigurationError(f"{origin}: {key} = {raw[key]!r} is not implemented; allowed is {values[0]!r}")
        return cls(**found)

    @property
    def process(self) -> Process:
        """How the network is turned into a denoiser; it is told timesteps of this schedule."""
        return find_process(PROCESSES[self.prediction_type], self._betas, **self._parameters)

    @property
    def table(self) -> np.ndarray:
        """Noise level sigma of each training step in the coordinates x = y + sigma n, ascending."""
        return betas.sigmas(self._betas, **self._parameters)

    def levels(self, steps: int, schedule: str = PUBLISHED) -> list[float]:
        """``steps`` falling noise levels and the one that sampling ends at.

        ``schedule`` is a row of ``schedules.SCHEDULES`` between the table's ends, or PUBLISHED: the timesteps that the folder
        asks for. Raises ConfigurationError.
        """
        table = self.table
        if not 1 <= steps <= len(table):
            raise ConfigurationError(f"sampling steps {steps}; allowed is 1 to {len(table)}")
        if schedule == PUBLISHED:
            visited = [float(table[t]) for t in self.timesteps(steps)]
            end = 0.0 if self.set_alpha_to_one else float(table[0])
            return [*visited, end] if end < visited[-1] else visited
        if schedule not in SCHEDULES:
            raise ConfigurationError(f"schedule {schedule!r}; allowed: {PUBLISHED}, {', '.join(SCHEDULES)}")
        return [float(level) for level in SCHEDULES[schedule](steps, float(table[0]), float(table[-1]))]

    def timesteps(self, steps: int) -> np.ndarray:
        """Training steps that are visited, descending (Lin et al. 2024, Table 2)."""
        count = betas.STEPS
        if self.timestep_spacing == "leading":
            found = np.arange(steps)[::-1] * (count // steps) + self.steps_offset
        elif self.timestep_spacing == "trailing":
            found = np.rint(count - np.arange(steps) * (count / steps)) - 1
        else:
            found = np.rint(np.linspace(0, count - 1, steps))[::-1]
        # An offset may not push two steps onto the last one.
        return np.minimum(found, count - 1 - np.arange(steps)).astype(int)

    @property
    def _betas(self) -> str:
        return BETA_SCHEDULES[self.beta_schedule]

    @property
    def _parameters(self) -> dict[str, float]:
        return {} if self._betas == "cosine" else {"start": self.beta_start, "end": self.beta_end}
