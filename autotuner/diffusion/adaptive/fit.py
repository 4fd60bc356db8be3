"""Fits a head to converged solutions by Gauss-Newton steps on the paired error, with the network run forwards only.

The image depends on few numbers for each sample, those of its rows and levels. Their derivatives are taken by forward
differences, sample by sample; the head's weights follow by the chain rule at no further evaluation. Steps are damped after
Marquardt (1963); weights of traits are held by a ridge (Hoerl and Kennard 1970) relative to their own curvature.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autotuner.diffusion.adaptive.curve import fit_curve
from autotuner.diffusion.adaptive.head import Head, entries, finish, mix
from autotuner.diffusion.adaptive.traits import traits
from autotuner.diffusion.blas import mx
from autotuner.diffusion.sample import CHUNK, Network
from autotuner.diffusion.schedules.pairs import Pairs, rmse
from autotuner.diffusion.solvers.generalised import Table

NUDGE = 0.02
"""Change of a row's entry (in units of the level), or of the log level, for a difference."""
DAMPINGS = (1.0, 0.1, 0.01, 10.0, 100.0)
"""Factors on the last damping that was good; the first that helps is taken."""
CHORDS = 4
"""Steps with the same derivatives."""
LEAST_SPREAD = 1e-5
"""Standard deviation of a trait below which it tells nothing."""


def starts(table: Table, pairs: Pairs) -> Iterator[tuple[list[mx.array], mx.array, slice]]:
    """What is known before the first evaluation, the labels and the place in ``pairs``, in batches."""
    for begin in range(0, len(pairs), CHUNK):
        part = slice(begin, begin + CHUNK)
        yield [mx.array(pairs.noise[part]) * table.sigma_max], mx.array(pairs.labels[part].astype(np.int32)), part


def errors(network: Network, head: Head, pairs: Pairs) -> np.ndarray:
    """Mean squared difference of each sample from the end of its path."""
    found = []
    for known, label, part in starts(head.table, pairs):
        difference = np.array(finish(network, head, known, label)[-1]) - pairs.ends[part]
        found.append(np.square(difference).mean(axis=(1, 2, 3)))
    return np.concatenate(found)


@dataclass(frozen=True, eq=False)
class Slopes:
    """What a step needs to know of some pairs."""

    seen: np.ndarray
    """A constant 1 and the traits of each sample at each free stage, shape (stages, count, 1 + traits)."""
    jacobian: np.ndarray
    """Derivatives of each image by the numbers of its free stages, float64 (count, numbers, pixels)."""
    rest: np.ndarray
    """End of the path minus image, shape (count, pixels)."""


def slopes(network: Network, head: Head, pairs: Pairs, first: int = 0) -> Slopes:
    """Derivatives by the numbers of the stages from ``first`` on: about as many evaluations as numbers times stages."""
    stages = range(first, head.table.evaluations + 1)
    parts = []
    for known, label, _ in starts(head.table, pairs):
        ends = finish(network, head, known, label)
        parts.append(np.concatenate([_columns(network, head, ends, label, stage) for stage in stages], axis=1))
    return refreshed(network, head, pairs, np.concatenate(parts), first)


def refreshed(network: Network, head: Head, pairs: Pairs, jacobian: np.ndarray, first: int = 0) -> Slopes:
    """Slopes at a head near the one that ``jacobian`` was taken at: one walk (the chord method, Ortega and Rheinboldt 1970)."""
    seen, rest = [], []
    for known, label, part in starts(head.table, pairs):
        ends = finish(network, head, known, label)
        stages = range(first, head.table.evaluations + 1)
        seen.append(np.stack([np.array(head.seen(stage, ends[: stage + 1], label)) for stage in stages]))
        rest.append((pairs.ends[part] - np.array(ends[-1])).reshape(len(label), -1))
    traits_seen = np.concatenate(seen, axis=1)
    ones = np.ones((*traits_seen.shape[:2], 1))
    return Slopes(np.concatenate([ones, traits_seen], axis=2), jacobian, np.concatenate(rest))


def step(head: Head, slopes: Slopes, damping: float, ridge: float, first: int = 0) -> Head:
    """The head after one damped step on the numbers of the stages from ``first`` on."""
    table, stages = head.table, range(first, head.table.evaluations + 1)
    owner = np.concatenate([np.full(entries(table, stage), index) for index, stage in enumerate(stages)])
    features = slopes.seen[owner]
    size, count = features.shape[2], features.shape[1]
    curvature = np.einsum("npx,nqx->npq", slopes.jacobian, slopes.jacobian, optimize=True)
    hessian = np.einsum("npq,pna,qnb->paqb", curvature, features, features, optimize=True) / count
    gradient = np.einsum("npx,nx,pna->pa", slopes.jacobian, slopes.rest, features, optimize=True) / count
    now = np.concatenate([np.concatenate([np.zeros((len(w), 1)), w], axis=1) for w in head.weights[first:]])
    matrix = hessian.reshape(gradient.size, gradient.size)
    diagonal = matrix.diagonal().copy()
    held = ridge * diagonal * np.tile(np.arange(size) > 0, len(owner))
    matrix = matrix + np.diag(damping * diagonal + held + 1e-9 * diagonal.max())
    change = np.linalg.solve(matrix, gradient.ravel() - held * now.ravel()).reshape(gradient.shape)
    return _changed(head, [change[owner == index] for index in range(len(stages))], first)


def fit(
    network: Network,
    head: Head,
    pairs: Pairs,
    judge: Pairs,
    *,
    first: int = 0,
    iterations: int = 6,
    damping: float = 0.1,
    ridge: float = 0.01,
) -> tuple[Head, list[float]]:
    """The head that did best on ``judge`` among damped steps on ``pairs``, and the error of ``judge`` before and after each.

    Errors are root mean squares. Stages before ``first`` stay as they are. It ends early when no damping helps.
    """
    history = [rmse(errors(network, head, judge))]
    for _ in range(iterations):
        found, before = slopes(network, head, pairs, first), len(history)
        for chord in range(CHORDS):
            found = refreshed(network, head, pairs, found.jacobian, first) if chord else found
            tried = ((factor, step(head, found, damping * factor, ridge, first)) for factor in DAMPINGS)
            measured = ((rmse(errors(network, each, judge)), factor, each) for factor, each in tried)
            better = next((each for each in measured if each[0] < history[-1]), None)
            if better is None:
                break
            error, factor, head = better
            damping *= factor / 3
            history.append(error)
        if len(history) == before:
            break
    return head, history


def with_traits(network: Network, head: Head, pairs: Pairs) -> Head:
    """The same head, its traits measured on ``pairs``: what a fit needs before it can give them weights."""
    found: list[list[np.ndarray]] = [[] for _ in range(head.table.evaluations + 1)]
    for known, label, _ in starts(head.table, pairs):
        ends = finish(network, head, known, label)
        for stage, values in enumerate(found):
            values.append(np.array(traits(ends[: stage + 1], label, head.classes)))
    whole = np.stack([np.concatenate(values) for values in found]).astype(np.float64)
    spread = whole.std(axis=1)
    return replace(head, centre=whole.mean(axis=1), spread=np.where(spread > LEAST_SPREAD, spread, 0.0))


def with_curve(network: Network, head: Head, pairs: Pairs) -> Head:
    """The same head, with the curve that suits it best on ``pairs``."""
    made = [np.array(finish(network, head, known, label)[-2]) for known, label, _ in starts(head.table, pairs)]
    return replace(head, curve=fit_curve(np.concatenate(made), pairs.ends))


def _columns(network: Network, head: Head, ends: Sequence[mx.array], label: mx.array, stage: int) -> np.ndarray:
    """Derivatives of the image by the numbers of one stage, shape (batch, numbers, pixels)."""
    known, batch = list(ends[: stage + 1]), len(label)
    if stage == head.table.evaluations:
        slope = head.curve.slope(np.array(ends[-2])).reshape(batch, 1, -1)
        return np.stack([np.array(array).reshape(batch, -1) for array in known], axis=1) * slope
    row, level = head.decide(stage, known, label)
    count = entries(head.table, stage)
    unit = float(head.table.levels[stage])
    nudges = NUDGE * np.array([unit / head.table.sigma_max, *[max(1.0, unit)] * stage, 1.0])
    again = [mx.repeat(array, count, axis=0) for array in known]
    moved = mx.tile(mx.array(np.diag(nudges).astype(np.float32)), (batch, 1))
    rows = mx.repeat(row, count, axis=0) + moved[:, :-1]
    levels = mx.repeat(level, count) * mx.exp(moved[:, -1])
    labels = mx.repeat(label, count)
    made = mix(again, rows)
    parts = []
    for start in range(0, batch * count, CHUNK):
        part = slice(start, start + CHUNK)
        output = network(made[part], levels[part], labels[part])
        image = finish(network, head, [*(array[part] for array in again), output], labels[part])[-1]
        parts.append(np.array(image))
    difference = np.concatenate(parts).reshape(batch, count, -1) - np.array(ends[-1]).reshape(batch, 1, -1)
    return difference / nudges[:, None]


def _changed(head: Head, changes: Sequence[np.ndarray], first: int) -> Head:
    rows, levels, weights = head.table.rows.copy(), head.table.levels.copy(), list(head.weights)
    for stage, change in enumerate(changes, start=first):
        rows[stage, : stage + 1] += change[: stage + 1, 0]
        if stage < len(levels):
            levels[stage] *= np.exp(change[-1, 0])
        weights[stage] = weights[stage] + change[:, 1:]
    return replace(head, table=Table(head.table.sigma_max, levels, rows), weights=tuple(weights))
