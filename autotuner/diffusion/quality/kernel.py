"""Kernel distance: unbiased squared maximum mean discrepancy under a cubic kernel, with a standard error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autotuner.diffusion.quality.sets import require_comparable

BLOCKS = 10
DEGREE = 3


@dataclass(frozen=True, slots=True)
class KernelDistance:
    """An estimate and how sure it is. It may be slightly negative: it has no bias."""

    value: float
    standard_error: float


def kernel_distance(generated: np.ndarray, real: np.ndarray, blocks: int = BLOCKS) -> KernelDistance:
    """MMD^2 of features (count, dimensions) with k(x, y) = (x.y / dimensions + 1)^3 (Binkowski et al. 2018, Sec. 4).

    The value is the unbiased estimate over all pictures; its standard error is the jackknife's over ``blocks`` blocks of
    pictures left out in turn. Row i of both sets is left out together. Raises ComparisonError for unequal counts or
    fewer than two pictures a block.
    """
    require_comparable(generated, real, least=2 * blocks)
    kernels = [_kernel(a, b) for a, b in ((generated, generated), (real, real), (generated, real))]
    block = np.arange(len(real)) * blocks // len(real)
    without = np.array([_unbiased(*(kernel[np.ix_(kept, kept)] for kernel in kernels)) for kept in _rest(block, blocks)])
    variance = (blocks - 1) / blocks * np.square(without - without.mean()).sum()
    return KernelDistance(_unbiased(*kernels), float(np.sqrt(variance)))


def _rest(block: np.ndarray, blocks: int) -> list[np.ndarray]:
    return [np.flatnonzero(block != number) for number in range(blocks)]


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray((a.astype(np.float64) @ b.T.astype(np.float64) / a.shape[1] + 1) ** DEGREE)


def _unbiased(generated: np.ndarray, real: np.ndarray, between: np.ndarray) -> float:
    """MMD^2 of kernel matrices: pictures are not compared with themselves (Gretton et al. 2012, Eq. 3)."""
    count = len(real)
    within = sum((kernel.sum() - np.trace(kernel)) / (count * (count - 1)) for kernel in (generated, real))
    return float(within - 2 * between.mean())
