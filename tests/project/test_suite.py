"""What holds in every process that runs these tests, whatever was collected before."""

from __future__ import annotations

import pytest

pytest.importorskip("mlx.core")

from autotuner.diffusion import blas


@pytest.mark.skipif(blas.load_openblas() is None, reason="this machine has no OpenBLAS")
def test_mlx_multiplies_with_the_fast_blas():
    assert blas.status().healthy, blas.status().sentence
