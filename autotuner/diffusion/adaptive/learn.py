"""From a global sampler to an adaptive one: a head for it, heads of fewer and more evaluations that begin alike, a forecast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autotuner.diffusion.adaptive.allocation import Forecast, choose, learn_forecast, price_for
from autotuner.diffusion.adaptive.fit import errors, fit, starts, with_curve, with_traits
from autotuner.diffusion.adaptive.head import Head, finish, mix, plain
from autotuner.diffusion.adaptive.sampling import Adaptive
from autotuner.diffusion.blas import mx
from autotuner.diffusion.sample import Network
from autotuner.diffusion.schedules.pairs import Pairs, rmse
from autotuner.diffusion.solvers.generalised import Table
from autotuner.errors import ConfigurationError

BEYOND = -0.7
"""Log of how far below the last level the last one of a head of more evaluations may begin."""
FORECAST_RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True)
class Effort:
    """How much is spent on a head."""

    iterations: int = 6
    curve: bool = True
    """Whether pixels go through a curve at the end."""
    ridge: float = 0.05
    """Hold on the weights of traits."""


@dataclass(frozen=True, eq=False)
class Learned:
    """The adaptive sampler and what it was chosen by."""

    adaptive: Adaptive
    squares: np.ndarray
    """Squared error of each head on the noises that it was chosen by, shape (count, heads)."""
    chosen: np.ndarray
    """Index of the head that each of them got, shape (count,)."""

    @property
    def mean_evaluations(self) -> float:
        """On the same noises."""
        return float(np.array(self.adaptive.evaluations)[self.chosen].mean())


Told = Callable[[str], None]


def silent(line: str) -> None:
    """Say nothing."""


def learn(
    network: Network,
    training: Pairs,
    choosing: Pairs,
    table: Table,
    classes: int,
    *,
    evaluations: Sequence[int],
    shared: int,
    effort: Effort = Effort(),
    tell: Told = silent,
) -> Learned:
    """Adapt the global ``table`` of K evaluations to each sample; a mean of at most K evaluations on ``choosing``.

    ``evaluations`` are the numbers that a sample may get, K among them, none below ``shared``; else ConfigurationError.
    Deterministic; the two sets of pairs must be of different noise, and a third one has to judge.
    """
    wanted = sorted(set(evaluations))
    if table.evaluations not in wanted or not 0 < shared <= wanted[0]:
        raise ConfigurationError(
            f"evaluations {wanted}, {shared} shared, for a table of {table.evaluations}: allowed are numbers of at least what "
            "is shared, the table's own among them"
        )
    head = learn_head(network, training, choosing, plain(table, classes), effort, tell)
    heads = []
    for count in wanted:
        begun = head if count == table.evaluations else resized(network, head, training, count, shared)
        first = 0 if begun is head else shared
        heads.append(head if begun is head else learn_head(network, training, choosing, begun, effort, tell, first))
    return allocate(network, training, choosing, heads, shared, table.evaluations)


def learn_head(
    network: Network, training: Pairs, choosing: Pairs, head: Head, effort: Effort, tell: Told = silent, first: int = 0
) -> Head:
    """Weights of traits for the stages from ``first`` on, and a curve."""
    measured = with_traits(network, head, training)
    centre = np.vstack([head.centre[:first], measured.centre[first:]])
    spread = np.vstack([head.spread[:first], measured.spread[first:]])
    head = replace(head, centre=centre, spread=spread)
    if effort.curve:
        head = with_curve(network, head, training)
    head, history = fit(network, head, training, choosing, first=first, iterations=effort.iterations, ridge=effort.ridge)
    if effort.curve:
        head = with_curve(network, head, training)
    tell(f"{head.table.evaluations} evaluations: {' '.join(f'{error:.4f}' for error in history)}")
    return head


def resized(network: Network, head: Head, pairs: Pairs, evaluations: int, shared: int) -> Head:
    """A head of another number of evaluations that begins as ``head`` does; without weights after ``shared``.

    Levels are interpolated; every input is made as the nearest to a straight path (the noise of its level upon the end) that
    outputs so far allow.
    """
    old = np.log(head.table.levels[shared - 1 :])
    old = np.append(old, old[-1] + BEYOND)
    places = np.linspace(0, len(old) - 1, evaluations - shared + 2)[1:-1]
    later = np.interp(places, np.arange(len(old)), old)
    levels = np.concatenate([head.table.levels[:shared], np.exp(later)])
    rows = np.zeros((evaluations + 1, evaluations + 1))
    rows[:shared, :shared] = head.table.rows[:shared, :shared]
    begun = plain(Table(head.table.sigma_max, levels, rows), head.classes)
    weights = (*head.weights[:shared], *begun.weights[shared:])
    centre, spread = begun.centre.copy(), begun.spread.copy()
    stages = min(shared + 1, len(head.centre))
    centre[:stages], spread[:stages] = head.centre[:stages], head.spread[:stages]
    begun = replace(begun, weights=weights, centre=centre, spread=spread)
    return _straight(network, begun, pairs, shared)


def allocate(network: Network, training: Pairs, choosing: Pairs, heads: Sequence[Head], shared: int, mean: float) -> Learned:
    """Forecast the errors of ``heads`` from what is known after ``shared`` evaluations, and set the price for ``mean``.

    The forecast learns from ``training``; its ridge and the price are the best on ``choosing``.
    """
    counts = np.array([head.table.evaluations for head in heads])
    seen, judged = (_seen(network, heads[0], pairs, shared) for pairs in (training, choosing))
    learned, known = (np.stack([errors(network, head, pairs) for head in heads], axis=1) for pairs in (training, choosing))

    def priced(ridge: float) -> tuple[float, Forecast, float]:
        forecast = learn_forecast(seen, learned, ridge)
        price = price_for(forecast(judged), counts, mean)
        chosen = choose(forecast(judged), counts, price)
        return float(known[np.arange(len(known)), chosen].mean()), forecast, price

    _, forecast, price = min((priced(ridge) for ridge in FORECAST_RIDGES), key=lambda each: each[0])
    return Learned(Adaptive(tuple(heads), shared, forecast, price), known, choose(forecast(judged), counts, price))


def oracle(squares: np.ndarray, evaluations: np.ndarray, mean: float) -> float:
    """Paired error if each sample's errors were known beforehand: no forecast can do better with the same heads."""
    chosen = choose(squares, evaluations, price_for(squares, evaluations, mean))
    return rmse(squares[np.arange(len(squares)), chosen])


def _seen(network: Network, head: Head, pairs: Pairs, shared: int) -> np.ndarray:
    found = []
    for known, label, _ in starts(head.table, pairs):
        ends = finish(network, head, known, label)
        found.append(np.array(head.seen(shared, ends[: shared + 1], label)))
    return np.concatenate(found)


def _straight(network: Network, head: Head, pairs: Pairs, shared: int) -> Head:
    """Fill the rows from ``shared`` on by least squares, each with the outputs that the ones before it lead to."""
    table, rows = head.table, head.table.rows.copy()
    batches = [(list(known), label, part) for known, label, part in starts(table, pairs)]
    for stage in range(table.evaluations + 1):
        if stage >= shared:
            ratio = (table.levels[stage] if stage < table.evaluations else 0.0) / table.sigma_max
            rows[stage, : stage + 1] = _nearest(batches, pairs, ratio)
            head = replace(head, table=replace(table, rows=rows.copy()))
        if stage < table.evaluations:
            for known, label, _ in batches:
                row, level = head.decide(stage, known, label)
                known.append(network(mix(known, row), level, label))
                mx.eval(known[-1])
    return head


def _nearest(batches: Sequence[tuple[list[mx.array], mx.array, slice]], pairs: Pairs, ratio: float) -> np.ndarray:
    """The combination of what is known that is nearest to the end plus ``ratio`` of the way back to the start."""
    size = len(batches[0][0])
    matrix, pull = np.zeros((size, size)), np.zeros(size)
    for known, _, part in batches:
        columns = np.stack([np.array(array).ravel() for array in known]).astype(np.float64)
        end = pairs.ends[part].ravel()
        matrix = matrix + columns @ columns.T
        pull = pull + columns @ (end + ratio * (columns[0] - end))
    return np.asarray(np.linalg.solve(matrix + 1e-9 * np.diag(np.diag(matrix)), pull))
