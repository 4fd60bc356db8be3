"""The clock of benchmarks/engine.py: a lazy graph must be there before the clock stops."""

from __future__ import annotations

import pytest

from autotuner.diffusion.blas import mx
from benchmarks.engine_rows import evaluate_mlx, timed

SIZE = 1 << 20


class Clock:
    """Reads the device's memory whenever the time is asked for."""

    def __init__(self):
        self.active = []

    def __call__(self):
        self.active.append(mx.get_active_memory())
        return float(len(self.active))


def test_an_unevaluated_graph_is_computed_before_the_clock_stops():
    clock, kept = Clock(), []

    def lazy():
        kept.append(mx.ones((SIZE,)) * 2 + 1)
        return {"deep": [(kept[0],)]}

    assert timed(lazy, evaluate_mlx, clock) == 1.0
    before, after = clock.active
    assert after - before >= 4 * SIZE


def test_a_graph_that_nobody_evaluates_takes_no_memory():
    """What the test above relies on."""
    before = mx.get_active_memory()
    lazy = mx.ones((SIZE,)) * 2 + 1
    assert mx.get_active_memory() - before < SIZE
    del lazy


@pytest.mark.parametrize("result", [None, 1.0, [], {"loss": 0.5}])
def test_work_that_returns_no_array_is_refused(result):
    with pytest.raises(TypeError, match="without an array"):
        timed(lambda: result, evaluate_mlx)
