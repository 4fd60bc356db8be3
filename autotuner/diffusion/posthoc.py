"""Post-hoc EMA (Karras et al. 2024, Sec. 3.2): any average of the past weights out of a few stored ones, after training.

A snapshot holds power-function averages of the weights: at update t, the mean of theta(tau) under the density
p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1) on [0, t]. Snapshots are combined so that their densities come closest to
the wanted one in the least-squares sense.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autotuner.diffusion import array_file
from autotuner.diffusion.blas import mx
from autotuner.diffusion.ema import exponent
from autotuner.diffusion.step import Learner
from autotuner.errors import AutotunerError

FOLDER = "averages"


class SnapshotError(AutotunerError):
    """There is no usable snapshot of averages."""


@dataclass(frozen=True)
class Snapshot:
    """One stored average: what it averages, when, and its weights as one vector."""

    sigma_rel: float
    updates: float
    weights: mx.array


def save(folder: Path, snapshots: Sequence[Snapshot]) -> Path:
    """Write the averages of one moment as one safetensors file, replaced at once. Raises WriteError."""
    path = folder / f"{int(snapshots[0].updates):08d}.safetensors"
    arrays = {f"{snapshot.sigma_rel:g}": snapshot.weights for snapshot in snapshots}
    return array_file.write(path, arrays, {"updates": repr(snapshots[0].updates)})


def load(folder: Path, until: float = float("inf")) -> list[Snapshot]:
    """Every snapshot in ``folder`` that is not later than ``until`` updates, oldest first. Raises SnapshotError."""
    found: list[Snapshot] = []
    for path in sorted(folder.glob("[0-9]*.safetensors")):
        try:
            loaded: Any = mx.load(str(path), return_metadata=True)
            arrays, metadata = loaded
            updates = float(metadata["updates"])
            found += [Snapshot(float(name), updates, array) for name, array in arrays.items() if updates <= until]
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise SnapshotError(f"{path} is no snapshot of averages: {error}") from None
    return found


def of(learner: Learner) -> list[Snapshot]:
    """The averages that a learner holds now."""
    state, updates = learner.state, float(learner.state.moments.updates)
    pairs = zip(learner.rule.sigma_rels, state.profiles, strict=True)
    return [Snapshot(sigma_rel, updates, weights) for sigma_rel, weights in pairs]


def overlap(updates_a: float, gamma_a: float, updates_b: float, gamma_b: float) -> float:
    """Inner product of two densities: the integral of p_a p_b up to the earlier of their ends (App. C).

    (gamma_a + 1)(gamma_b + 1) / (gamma_a + gamma_b + 1) / later end, times (earlier / later)^gamma of the later one.
    """
    if updates_a > updates_b:
        updates_a, gamma_a, updates_b, gamma_b = updates_b, gamma_b, updates_a, gamma_a
    ratio = (updates_a / updates_b) ** gamma_b
    return ratio * (gamma_a + 1) * (gamma_b + 1) / ((gamma_a + gamma_b + 1) * updates_b)


def mixture(snapshots: Sequence[Snapshot], sigma_rel: float, updates: float | None = None) -> np.ndarray:
    """Factor on each snapshot for the average of width ``sigma_rel`` at ``updates`` (default: the last snapshot's).

    Solves A x = b with A the snapshots' overlaps and b those with the wanted density (Karras et al. 2024, App. C).
    Raises SnapshotError without snapshots, ValueError for an impossible width.
    """
    if not snapshots:
        raise SnapshotError("no snapshots of averages; they are written when ema is 'power'")
    ends = [snapshot.updates for snapshot in snapshots]
    gammas = [exponent(snapshot.sigma_rel) for snapshot in snapshots]
    end, gamma = max(ends) if updates is None else updates, exponent(sigma_rel)
    rows = list(zip(ends, gammas, strict=True))
    gram = np.array([[overlap(*row, *column) for column in rows] for row in rows])
    wanted = np.array([overlap(*row, end, gamma) for row in rows])
    return np.linalg.lstsq(gram, wanted, rcond=1e-12)[0]


def reconstruct(snapshots: Sequence[Snapshot], sigma_rel: float, updates: float | None = None) -> mx.array:
    """The average of width ``sigma_rel`` at ``updates``, shape (size,) in float32; see ``mixture``."""
    factors = mixture(snapshots, sigma_rel, updates)
    together = sum(factor * np.array(snapshot.weights, np.float64) for factor, snapshot in zip(factors, snapshots, strict=True))
    return mx.array(np.asarray(together, np.float32))
