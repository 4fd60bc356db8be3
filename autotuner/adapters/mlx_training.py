"""A training with MLX under somebody else's loop: what its adapters have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from autotuner.adapters import environment
from autotuner.adapters.device_memory import mlx_memory
from autotuner.adapters.table import offer
from autotuner.adapters.training import PACES, Training
from autotuner.hook import attach
from autotuner.hook.attach import Offer

CACHE_SHARES = (16, 4, 2, 1)
"""Parts of MLX's own cache limit that are offered; the whole is where a run starts."""


class MLXTraining(Training):
    """Attaches for an adapter whose loop keeps its batches: pace and MLX's cache limit are offered, and ``more``."""

    def __init__(
        self,
        adapter: str,
        name: str,
        model: Mapping[str, Any],
        *,
        more: Mapping[str, Offer] | None = None,
        steps: int | None = None,
    ) -> None:
        limit = cache_limit()
        run = attach(
            name or environment.run_name(),
            knobs={
                "pace": offer(adapter, "pace", 1.0, PACES),
                "cache_limit": offer(adapter, "cache_limit", limit, [limit // share for share in CACHE_SHARES]),
                **(more or {}),
            },
            model=model,
            framework=f"{adapter}-mlx",
            budget_steps=steps if steps and steps > 0 else None,
            clear_cache=mx.clear_cache,
        )
        environment.note_run(run.directory)
        super().__init__(run, memory=lambda: mlx_memory(mx), set_cache_limit=mx.set_cache_limit)


def cache_limit() -> int:
    """The limit in force in bytes; MLX tells it only in exchange for another one."""
    limit = int(mx.set_cache_limit(0))
    mx.set_cache_limit(limit)
    return limit


def parameters_of(model: Any) -> int:
    """How many numbers a module of ``mlx.nn`` holds."""
    from mlx.utils import tree_flatten

    return sum(int(array.size) for _, array in tree_flatten(model.parameters()))
