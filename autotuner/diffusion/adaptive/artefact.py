"""An adaptive sampler on disk: JSON beside the schedules, bound to the weights that it was learned for."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autotuner.diffusion.adaptive.allocation import Forecast
from autotuner.diffusion.adaptive.curve import Curve
from autotuner.diffusion.adaptive.head import Head
from autotuner.diffusion.adaptive.sampling import Adaptive
from autotuner.diffusion.schedules.artefact import FOLDER, ScheduleError
from autotuner.diffusion.schedules.ladder import Interval
from autotuner.diffusion.solvers.generalised import Table
from autotuner.errors import ConfigurationError
from autotuner.hook.files import SHARED, replace_text

FORMAT = 1


@dataclass(frozen=True, eq=False)
class Saved:
    """An adaptive sampler, and what it gained over the global schedule of as many evaluations."""

    network: str
    """See ``schedules.artefact.identify``."""
    adaptive: Adaptive
    mean_evaluations: float
    """Measured on the noises that judged it."""
    gain: Interval
    """1 - paired error over that of the global schedule, by pairs of noises."""
    noises: int


def path_of(folder: Path, evaluations: int) -> Path:
    """Where the adaptive sampler lies that means to spend so many evaluations, in the folder of the checkpoint."""
    return folder / FOLDER / f"adaptive-{evaluations}.json"


def save(saved: Saved, path: Path) -> None:
    """Write it, replacing what is there."""
    adaptive = saved.adaptive
    document = {
        "format": FORMAT,
        "network": saved.network,
        "mean_evaluations": saved.mean_evaluations,
        "gain": asdict(saved.gain),
        "noises": saved.noises,
        "shared": adaptive.shared,
        "price": adaptive.price,
        "forecast": adaptive.forecast.coefficients.tolist(),
        "heads": [_head(head) for head in adaptive.heads],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(document) + "\n", SHARED)


def load(path: Path, network: str) -> Saved:
    """Read the sampler of the network that ``identify`` names so; raises ScheduleError."""
    try:
        raw = json.loads(path.read_text())
        if raw["format"] != FORMAT:
            raise ScheduleError(f"{path}: format {raw['format']!r}; allowed is {FORMAT}")
        heads = tuple(_head_of(each) for each in raw["heads"])
        adaptive = Adaptive(heads, int(raw["shared"]), Forecast(_array(raw["forecast"])), float(raw["price"]))
        gain = Interval(**raw["gain"])
        saved = Saved(str(raw["network"]), adaptive, float(raw["mean_evaluations"]), gain, int(raw["noises"]))
    except (OSError, ValueError, KeyError, TypeError, IndexError, ConfigurationError) as error:
        raise ScheduleError(f"{path} is not an adaptive sampler: {type(error).__name__} {error}") from None
    if saved.network != network:
        raise ScheduleError(f"{path}: learned for the network {saved.network}, this one is {network}; learn it again")
    return saved


def _head(head: Head) -> dict[str, Any]:
    return {
        "classes": head.classes,
        "sigma_max": head.table.sigma_max,
        "levels": head.table.levels.tolist(),
        "rows": head.table.rows.tolist(),
        "centre": head.centre.tolist(),
        "spread": head.spread.tolist(),
        "weights": [weights.tolist() for weights in head.weights],
        "knots": head.curve.knots.tolist(),
        "curve": head.curve.weights.tolist(),
    }


def _head_of(raw: dict[str, Any]) -> Head:
    table = Table(float(raw["sigma_max"]), _array(raw["levels"]), _array(raw["rows"]))
    weights = tuple(_array(each) for each in raw["weights"])
    curve = Curve(_array(raw["knots"]), _array(raw["curve"]))
    return Head(table, int(raw["classes"]), _array(raw["centre"]), _array(raw["spread"]), weights, curve)


def _array(values: Any) -> np.ndarray:
    return np.array(values, dtype=np.float64)
