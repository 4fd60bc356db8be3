"""What a smaller student takes over from its teacher: every weight whose place and shape it shares, blocks spread evenly."""

from __future__ import annotations

import re

import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from autotuner.diffusion.blas import mx

_BLOCK = re.compile(r"(.*\bblocks\.)(\d+)(\..*)")


def inherit(student: nn.Module, weights: dict[str, mx.array]) -> int:
    """Put a teacher's ``weights``, by name, into ``student`` where they fit; returns how many scalars it took over.

    With fewer blocks the student's i-th takes those of the teacher's block at the same relative depth.
    """
    own = dict(tree_flatten(student.trainable_parameters()))
    depth, teacher_depth = _depth(own), _depth(weights)
    taken = {}
    for name, array in own.items():
        found = weights.get(_source(name, depth, teacher_depth))
        if found is not None and found.shape == array.shape:
            taken[name] = found
    student.update(tree_unflatten(list(taken.items())))
    return sum(array.size for array in taken.values())


def _depth(weights: dict[str, mx.array]) -> int:
    return len({match[2] for name in weights if (match := _BLOCK.match(name))})


def _source(name: str, depth: int, teacher_depth: int) -> str:
    match = _BLOCK.match(name)
    if match is None or depth == teacher_depth:
        return name
    index = round(int(match[2]) * (teacher_depth - 1) / max(depth - 1, 1))
    return f"{match[1]}{index}{match[3]}"
