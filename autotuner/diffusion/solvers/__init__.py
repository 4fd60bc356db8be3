"""Samplers: each one function of one signature (Solver), on any denoiser D(x, sigma); each named after its algorithm.

Written in the variance-exploding coordinates x = y + sigma n, where dx/dsigma = (x - D) / sigma. A variance-preserving model
is reached by x_vp = alpha x: every method here is the same in both.
"""

from __future__ import annotations

from autotuner.diffusion.solvers.dpmpp import dpmpp_2m, dpmpp_3m
from autotuner.diffusion.solvers.euler import ddim, euler, heun
from autotuner.diffusion.solvers.ipndm import IPNDM, ipndm
from autotuner.diffusion.solvers.unipc import unipc
from autotuner.diffusion.solvers.walk import DenoiseFn, Solver, Step, Watch, unwatched

SOLVERS: dict[str, Solver] = {
    "euler": euler,
    "ddim": ddim,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_3m": dpmpp_3m,
    "unipc": unipc,
    "ipndm": ipndm,
}

__all__ = [
    "IPNDM",
    "SOLVERS",
    "DenoiseFn",
    "Solver",
    "Step",
    "Watch",
    "ddim",
    "dpmpp_2m",
    "dpmpp_3m",
    "euler",
    "heun",
    "ipndm",
    "unipc",
    "unwatched",
]
