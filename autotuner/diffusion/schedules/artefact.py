"""A learned schedule on disk: JSON beside the checkpoint, bound to the weights that it was learned for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mlx.utils import tree_flatten

from autotuner.diffusion.blas import mx
from autotuner.diffusion.guidance import Guided
from autotuner.diffusion.precondition import Denoiser
from autotuner.diffusion.schedules.ladder import Interval
from autotuner.diffusion.solvers.generalised import Table
from autotuner.errors import AutotunerError, ConfigurationError
from autotuner.hook.files import SHARED, replace_text

FORMAT = 1
FOLDER = "schedules"
"""Beside the checkpoint."""


class ScheduleError(AutotunerError):
    """A saved schedule is missing, damaged, or was learned for another network."""


@dataclass(frozen=True, eq=False)
class Saved:
    """What a sampler of one network is, and how good on noises that neither learned nor chose it."""

    network: str
    """See ``identify``."""
    level: int
    """Of the ladder (``ladder.LEVELS``): a schedule that was learned in vain is the level below."""
    name: str
    """Solver and grid, or those that learning began with."""
    table: Table
    error: Interval
    """Paired error."""
    below: str
    """The strongest hand-made pair at equal evaluations."""
    below_error: Interval
    gain: Interval
    """1 - error over ``below_error``, by pairs of noises."""
    noises: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        table = {
            "sigma_max": self.table.sigma_max, "levels": self.table.levels.tolist(), "rows": self.table.rows.tolist()
        }  # fmt: skip
        intervals = {key: asdict(getattr(self, key)) for key in ("error", "below_error", "gain")}
        plain = {key: getattr(self, key) for key in ("network", "level", "name", "below", "noises")}
        return {"format": FORMAT, "evaluations": self.table.evaluations, **plain, **intervals, "table": table}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Saved:
        """The inverse; KeyError, TypeError or ConfigurationError for anything else."""
        intervals: dict[str, Any] = {key: Interval(**raw[key]) for key in ("error", "below_error", "gain")}
        plain: dict[str, Any] = {key: raw[key] for key in ("network", "level", "name", "below", "noises")}
        table = raw["table"]
        rows, levels = np.array(table["rows"], dtype=np.float64), np.array(table["levels"], dtype=np.float64)
        return cls(**plain, **intervals, table=Table(float(table["sigma_max"]), levels, rows))


def identify(denoiser: Denoiser | Guided) -> str:
    """Hash of a network's weights, and of what is done with them: data deviation, process and guidance."""
    total = hashlib.sha256()
    inner = denoiser.denoiser if isinstance(denoiser, Guided) else denoiser
    scale = denoiser.scale if isinstance(denoiser, Guided) else 1
    total.update(repr((float(inner.sigma_data), inner.process.name, float(scale))).encode())
    for name, array in sorted(tree_flatten(inner.network.parameters())):
        total.update(f"{name} {array.shape} {array.dtype}".encode())
        total.update(np.array(array.astype(mx.float32)).tobytes())
    return total.hexdigest()[:24]


def path_of(folder: Path, evaluations: int) -> Path:
    """Where the schedule for so many evaluations lies, in the folder of the checkpoint."""
    return folder / FOLDER / f"{evaluations}.json"


def save(saved: Saved, folder: Path, sigmas: np.ndarray | None = None) -> Path:
    """Write the schedule into the folder of its checkpoint, replacing one for as many evaluations.

    The file also has what ``as_diffusers`` makes of it, with ``sigmas`` as there; null where no scheduler could walk it.
    """
    path = path_of(folder, saved.table.evaluations)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        grid = as_diffusers(saved.table, sigmas)
    except ConfigurationError:
        grid = None
    replace_text(path, json.dumps({**saved.to_dict(), "diffusers": grid}, indent=1) + "\n", SHARED)
    return path


def load(path: Path, network: str) -> Saved:
    """Read a schedule for the network that ``identify`` names so; raises ScheduleError."""
    try:
        raw = json.loads(path.read_text())
        if raw["format"] != FORMAT:
            raise ScheduleError(f"{path}: format {raw['format']!r}; allowed is {FORMAT}")
        saved = Saved.from_dict(raw)
    except (OSError, ValueError, KeyError, TypeError, ConfigurationError) as error:
        raise ScheduleError(f"{path} is not a schedule: {type(error).__name__} {error}") from None
    if saved.network != network:
        raise ScheduleError(
            f"{path}: learned for the network {saved.network}, this one is {network}; run autotuner schedule again"
        )
    return saved


def every(folder: Path, network: str) -> list[Saved]:
    """The schedules of this network beside a checkpoint, fewest evaluations first; those of other weights are left out."""
    found = []
    for path in folder.glob(f"{FOLDER}/*.json"):
        try:
            found.append(load(path, network))
        except ScheduleError:
            continue
    return sorted(found, key=lambda saved: saved.table.evaluations)


def as_diffusers(table: Table, sigmas: np.ndarray | None = None) -> dict[str, list[float] | list[int]]:
    """The grid alone for a scheduler of diffusers: what its ``set_timesteps`` takes as ``sigmas`` or ``timesteps``.

    ``sigmas``: of each training timestep, ascending (``betas.sigmas``, ``Scheduler.table``), for the timesteps of a
    variance-preserving model. The numbers of a learned table have no place there: with another scheduler's own the grid is as
    good as that scheduler is on it. ConfigurationError where the levels do not fall, or two would be one timestep.
    """
    if not (np.diff(table.levels) < 0).all():
        raise ConfigurationError(f"levels {table.levels.tolist()} do not fall; a scheduler of diffusers needs that")
    grid: dict[str, list[float] | list[int]] = {"sigmas": [*table.levels.tolist(), 0.0]}
    if sigmas is not None:
        steps = np.rint(np.interp(np.log(table.levels), np.log(sigmas), np.arange(len(sigmas)))).astype(int)
        if not (np.diff(steps) < 0).all():
            raise ConfigurationError(f"levels {table.levels.tolist()} are timesteps {steps.tolist()}; each must be its own")
        grid["timesteps"] = steps.tolist()
    return grid
