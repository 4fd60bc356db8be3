"""A few shapes for pictures of many aspects, chosen so that little has to be cut off."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

import numpy as np

from autotuner.errors import DatasetError

MOST_SHAPES = 8
"""Every shape is one more compiled step that is never freed."""
LONGEST_ASPECT = 4.0


class Shape(NamedTuple):
    """One of the few shapes that batches have."""

    height: int
    width: int
    budget: int
    """Edge of the square that has as many pixels as this shape may have."""


def choose_shapes(sizes: Sequence[tuple[int, int]], edges: Sequence[int], unit: int, at_most: int = MOST_SHAPES) -> list[Shape]:
    """At most ``at_most`` shapes for pictures of these (height, width), ascending by budget and aspect.

    ``edges`` are one or more pixel budgets as edges of squares: a shape has at most edge * edge pixels, its sides are multiples
    of ``unit``. Within a budget, the shapes are those that cut the least off the pictures that use it, in total: exactly, by
    dynamic programming over the aspects. Raises DatasetError for budgets that hold no shape.
    """
    if not 1 <= len(set(edges)) <= at_most or any(edge < unit for edge in edges):
        raise DatasetError(f"pixel budgets {tuple(edges)}; allowed are 1 to {at_most} edges of at least the unit of {unit}")
    shapes: list[Shape] = []
    budgets = sorted(set(edges))
    budget_of_size = [_budget_of(size, budgets) for size in sizes]
    for rank, edge in enumerate(budgets):
        room = (at_most - len(shapes)) // (len(budgets) - rank)
        aspects = [height / width for (height, width), budget in zip(sizes, budget_of_size, strict=True) if budget == edge]
        if aspects:
            shapes.extend(_least_cut(np.array(aspects), _candidates(edge, unit), room))
    used_shapes = {assign(size, shapes) for size in sizes}
    return [shape for which, shape in enumerate(shapes) if which in used_shapes]


def assign(size: tuple[int, int], shapes: Sequence[Shape]) -> int:
    """Index of the shape for a picture: of the largest budget that it fills without being enlarged, the nearest aspect.

    A picture smaller than every budget takes the smallest.
    """
    budget = _budget_of(size, sorted({shape.budget for shape in shapes}))
    own = [i for i, shape in enumerate(shapes) if shape.budget == budget]
    return min(own, key=lambda i: (cut(size[0] / size[1], shapes[i]), i))


def cut(aspect: float, shape: Shape) -> float:
    """Share of a picture of this aspect (height / width) that is lost when it is cropped to the aspect of ``shape``."""
    return float(_cuts(np.array([aspect]), [shape])[0, 0])


def _cuts(aspects: np.ndarray, shapes: Sequence[Shape]) -> np.ndarray:
    """``cut`` of every aspect by every shape, (aspects, shapes)."""
    ratios = aspects[:, None] * np.array([shape.width / shape.height for shape in shapes])
    return 1 - np.minimum(ratios, 1 / ratios)


def _budget_of(size: tuple[int, int], budgets: Sequence[int]) -> int:
    return max((edge for edge in budgets if edge**2 <= size[0] * size[1]), default=budgets[0])


def _candidates(edge: int, unit: int) -> list[Shape]:
    """Every shape that fills the budget as far as the unit allows, ascending by aspect."""
    shapes = set()
    for height in range(unit, edge * int(LONGEST_ASPECT**0.5) + 1, unit):
        width = edge**2 // height // unit * unit
        if width and 1 / LONGEST_ASPECT <= height / width <= LONGEST_ASPECT:
            shapes.add(Shape(height, width, edge))
    if not shapes:
        raise DatasetError(f"no shape of at most {edge} x {edge} pixels has sides that are multiples of {unit}")
    return sorted(shapes, key=lambda shape: (shape.height / shape.width, shape))


def _least_cut(aspects: np.ndarray, candidates: list[Shape], at_most: int) -> list[Shape]:
    """The ``at_most`` candidates with the smallest total cut, when every picture goes to the nearest aspect.

    With candidates in order of aspect, pictures between two neighbouring chosen ones go to the better of these two: a shortest
    path with a bounded number of stops.
    """
    aspects, counts = np.unique(aspects, return_counts=True)
    lost = _cuts(aspects, candidates) * counts[:, None]
    where = np.searchsorted([shape.height / shape.width for shape in candidates], aspects, side="right")
    count = len(candidates)
    between = np.full((count + 1, count + 1), inf)
    """[i, j]: cut of the pictures between candidates i - 1 and j; 0 and ``count`` stand for the ends."""
    for i in range(count + 1):
        for j in range(i, count + 1):
            inside = lost[(where >= i) & (where <= j)]
            ends = [k for k in (i - 1, j) if 0 <= k < count]
            between[i, j] = inside[:, ends].min(axis=1).sum() if ends else inf
    paths = {j: (float(between[0, j]), [j]) for j in range(count)}
    best = min((cost + float(between[j + 1, count]), path) for j, (cost, path) in paths.items())
    for _ in range(at_most - 1):
        paths = {
            j: min((paths[i][0] + float(between[i + 1, j]), [*paths[i][1], j]) for i in range(j) if i in paths)
            for j in range(1, count)
            if any(i in paths for i in range(j))
        }
        best = min([best, *((cost + float(between[j + 1, count]), path) for j, (cost, path) in paths.items())])
    return [candidates[k] for k in best[1]]
