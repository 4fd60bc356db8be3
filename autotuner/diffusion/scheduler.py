"""What a published pipeline says of its noise: `scheduler_config.json` as a process and a grid of noise levels."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
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
WARPS = {"use_karras_sigmas": "karras", "use_lu_lambdas": "log_snr", "use_exponential_sigmas": "log_snr"}
"""Keys that ask for a row of SCHEDULES in place of even timesteps; the first that is set counts."""
ENDS: dict[str, dict[Any, bool]] = {
    "set_alpha_to_one": {True: True, False: False},
    "final_sigmas_type": {"zero": True, "sigma_min": False},
}
"""Keys that say where a grid ends, and whether each value means no noise at all."""
PUBLISHED = "published"
"""The grid that the folder itself asks for."""
REFUSED: dict[str, tuple[Any, ...]] = {
    "rescale_betas_zero_snr": (False,),
    "trained_betas": (None,),
    "thresholding": (False,),
    "num_train_timesteps": (1000,),
    "use_beta_sigmas": (False, None),
    "use_flow_sigmas": (False, None),
    "interpolation_type": ("linear",),
    "timestep_type": ("discrete",),
    "sigma_min": (None,),
    "sigma_max": (None,),
    "lambda_min_clipped": (-math.inf, None),
}
"""Keys that would change the result, and the values that are implemented."""
ROUNDING = 1e-9
"""A warped grid meets its own end within this share of it."""


@dataclass(frozen=True)
class Family:
    """How the schedulers of diffusers that make the same grids read one file."""

    names: tuple[str, ...]
    spacing: str = "linspace"
    """Where the file names none."""
    end: str | None = None
    """A key of ENDS; None: the file has no say."""
    to_zero: bool = True
    """Whether the grid ends at no noise when the file does not say."""
    warped: str | None = None
    """What a row of WARPS lies between: the whole ``table`` or the ends of the ``visited`` timesteps; None: it is not read."""
    fractions: bool = False
    """``linspace`` is not rounded to whole timesteps."""
    spare: int = 0
    """Timesteps that ``leading`` and ``linspace`` count beyond the steps and leave out at the end."""
    clips: bool = False
    """Reads ``clip_sample``, which is not implemented."""


FAMILIES = (
    Family(("DDIMScheduler",), "leading", end="set_alpha_to_one", clips=True),
    Family(("PNDMScheduler",), "leading", end="set_alpha_to_one", to_zero=False),
    Family(("DDPMScheduler",), "leading", clips=True),
    Family(("EulerDiscreteScheduler",), end="final_sigmas_type", warped="visited", fractions=True),
    Family(("LMSDiscreteScheduler", "HeunDiscreteScheduler"), warped="visited", fractions=True),
    Family(("EulerAncestralDiscreteScheduler",), fractions=True),
    Family(("DPMSolverMultistepScheduler", "UniPCMultistepScheduler"), end="final_sigmas_type", warped="table", spare=1),
    Family(("DEISMultistepScheduler",), to_zero=False, warped="table", spare=1),
)
"""The first one is supposed where a file names no class."""
CLASSES = {name: family for family in FAMILIES for name in family.names}


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
    to_zero: bool = False
    """Whether the grid ends at no noise at all; else at that of the first training step."""
    warp: str | None = None
    """A row of SCHEDULES that the levels follow in place of the timesteps."""
    family: Family = CLASSES["PNDMScheduler"]

    @classmethod
    def load(cls, folder: str | Path) -> Scheduler:
        """Read `scheduler_config.json` in ``folder``; raises ConfigurationError for what is not implemented."""
        raw, origin = read_json(Path(folder) / FILE_NAME)
        return cls.read(raw, origin)

    @classmethod
    def read(cls, raw: Mapping[str, Any], origin: str) -> Scheduler:
        """Check the object in the file; keys that its class does not read are left alone."""
        name = raw.get("_class_name", FAMILIES[0].names[0])
        _require(name in CLASSES, origin, "_class_name", name, CLASSES)
        family = CLASSES[name]
        refused = REFUSED | ({"clip_sample": (False,)} if family.clips else {})
        for key, values in refused.items():
            _require(raw.get(key, values[0]) in values, origin, key, raw.get(key), values[:1])
        # diffusers' own defaults: files name only what differs from them.
        found: dict[str, Any] = {
            "beta_schedule": "linear",
            "beta_start": 1e-4,
            "beta_end": 0.02,
            "steps_offset": 0,
            "timestep_spacing": family.spacing,
        }
        kept = ("prediction_type", *found)
        found |= {key: raw[key] for key in kept if raw.get(key) is not None}
        tables = {"prediction_type": PROCESSES, "beta_schedule": BETA_SCHEDULES, "timestep_spacing": SPACINGS}
        for key, allowed in tables.items():
            told = found.get(key, getattr(cls, key))
            _require(told in allowed, origin, key, told, allowed)
        warps = [row for key, row in WARPS.items() if family.warped and raw.get(key)]
        return cls(**found, to_zero=_to_zero(family, raw, origin), warp=warps[0] if warps else None, family=family)

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

        ``schedule`` is a row of ``schedules.SCHEDULES`` between the table's ends, or PUBLISHED: the levels that the folder
        asks for. Raises ConfigurationError.
        """
        table = self.table
        if not 1 <= steps <= len(table):
            raise ConfigurationError(f"sampling steps {steps}; allowed is 1 to {len(table)}")
        if schedule == PUBLISHED:
            return self._published(steps)
        if schedule not in SCHEDULES:
            raise ConfigurationError(f"schedule {schedule!r}; allowed: {PUBLISHED}, {', '.join(SCHEDULES)}")
        return [float(level) for level in SCHEDULES[schedule](steps, float(table[0]), float(table[-1]))]

    def timesteps(self, steps: int) -> np.ndarray:
        """Training steps that are visited, descending, perhaps fractions (Lin et al. 2024, Table 2)."""
        count, spare = betas.STEPS, self.family.spare
        if self.timestep_spacing == "leading":
            found = 1.0 * np.arange(spare, steps + spare)[::-1] * (count // (steps + spare)) + self.steps_offset
        elif self.timestep_spacing == "trailing":
            found = np.rint(count - np.arange(steps) * (count / steps)) - 1
        else:
            even = np.linspace(0, count - 1, steps + spare)[spare:][::-1]
            found = even if self.family.fractions else np.rint(even)
        # An offset may not push two steps onto the last one.
        return np.minimum(found, count - 1 - np.arange(steps))

    def _published(self, steps: int) -> list[float]:
        table = self.table
        visited = np.interp(self.timesteps(steps), np.arange(len(table)), table)
        if self.warp is not None:
            low, high = (table[0], table[-1]) if self.family.warped == "table" else (visited[-1], visited[0])
            # From a single level to itself nothing can be warped; diffusers' formulas return it.
            visited = SCHEDULES[self.warp](steps, float(low), float(high))[:-1] if low < high else visited
        end = 0.0 if self.to_zero else float(table[0])
        levels = [float(level) for level in visited]
        levels += [end] if end < levels[-1] * (1 - ROUNDING) else []
        if len(levels) < 2 or not (np.diff(levels) < 0).all():
            raise ConfigurationError(
                f"{steps} sampling steps with timestep_spacing {self.timestep_spacing!r} and steps_offset {self.steps_offset}: "
                f"the levels from {levels[0]:.4g} to {levels[-1]:.4g} do not fall; allowed is another number, "
                f"or a schedule of {', '.join(SCHEDULES)}"
            )
        return levels

    @property
    def _betas(self) -> str:
        return BETA_SCHEDULES[self.beta_schedule]

    @property
    def _parameters(self) -> dict[str, float]:
        return {} if self._betas == "cosine" else {"start": self.beta_start, "end": self.beta_end}


def _to_zero(family: Family, raw: Mapping[str, Any], origin: str) -> bool:
    told = raw.get(family.end) if family.end is not None else None
    if told is None or family.end is None:
        return family.to_zero
    _require(told in ENDS[family.end], origin, family.end, told, ENDS[family.end])
    return ENDS[family.end][told]


def _require(fits: bool, origin: str, key: str, found: Any, allowed: Collection[Any]) -> None:
    if not fits:
        raise ConfigurationError(f"{origin}: {key} = {found!r} is not implemented; allowed: {', '.join(map(str, allowed))}")
