"""The rows of the Stable Diffusion benchmark, on a tiny network."""

from __future__ import annotations

import pytest

from benchmarks.stable_diffusion_step import DTYPES, KINDS, measure


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_row_runs_in_every_precision(kind, dtype):
    row = measure(kind, 8, dtype, 1, True)
    assert (row["kind"], row["dtype"], row["pixels"]) == (kind, dtype, 64)
    assert row["peak_gib"] > row["weights_gib"] > 0


def test_half_precision_halves_the_weights():
    full, half = (measure("sampling", 8, dtype, 1, True)["weights_gib"] for dtype in ("float32", "bfloat16"))
    assert half == full / 2
