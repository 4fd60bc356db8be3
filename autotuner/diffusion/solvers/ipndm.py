"""iPNDM: Adams-Bashforth in sigma with the coefficients of even steps, whatever the grid."""

from __future__ import annotations

from collections.abc import Sequence

from autotuner.diffusion.blas import mx
from autotuner.diffusion.solvers.walk import DenoiseFn, Step, Watch, at, unwatched, walk
from autotuner.errors import ConfigurationError

IPNDM = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Adams-Bashforth coefficients of orders 1 to 4, newest slope first."""


def ipndm(denoise: DenoiseFn, x: mx.array, sigmas: Sequence[float], *, order: int = 3, watch: Watch = unwatched) -> mx.array:
    """iPNDM (Liu et al. 2022, Eq. 12; lower orders at the start as in Zhang and Chen 2023, Appendix); for few steps.

    Convergence is of the named order (1 to 4, else ConfigurationError) where the steps in sigma are equal, of order 2 at most
    elsewhere; at ten steps or fewer on a rho grid the fixed coefficients do better than those of the true step sizes.
    """
    if order not in range(1, len(IPNDM) + 1):
        raise ConfigurationError(f"order {order} of ipndm: allowed are 1 to {len(IPNDM)}")
    slopes: list[mx.array] = []
    for index, sigma, following in walk(sigmas):
        denoised = at(denoise, x, sigma)
        slopes = [(x - denoised) / sigma, *slopes[: order - 1]]
        combined = sum(c * slope for c, slope in zip(IPNDM[len(slopes) - 1], slopes, strict=True))
        x = x + (following - sigma) * combined
        mx.eval(x)
        watch(Step(index + 1, len(sigmas) - 1, sigma, following, x, denoised))
    return x
