"""All weights of a module as one vector: optimizer, average and checkpoint then handle one array instead of fifty."""

from __future__ import annotations

from typing import Any

import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from autotuner.diffusion.blas import mx


class Layout:
    """Where each weight of one architecture lies in the vector."""

    def __init__(self, module: nn.Module) -> None:
        flat = tree_flatten(module.trainable_parameters())
        self._names = [name for name, _ in flat]
        self._shapes = [array.shape for _, array in flat]
        self._ends: list[int] = []
        for _, array in flat:
            self._ends.append((self._ends[-1] if self._ends else 0) + array.size)
        self.size = self._ends[-1]

    def pack(self, tree: Any) -> mx.array:
        """The vector of a tree of weights or gradients."""
        return mx.concatenate([array.reshape(-1) for _, array in tree_flatten(tree)])

    def unpack(self, vector: mx.array) -> Any:
        """The tree of a vector."""
        parts = mx.split(vector, self._ends[:-1])
        return tree_unflatten(
            [(name, part.reshape(shape)) for name, part, shape in zip(self._names, parts, self._shapes, strict=True)]
        )
