"""Where a sampler's evaluations lie: grids in closed form, found by dynamic programming, or learned with the solver."""

from __future__ import annotations

from autotuner.diffusion.schedules.grids import (
    BETA_MAX,
    BETA_MIN,
    SCHEDULES,
    SIGMA_DATA,
    Schedule,
    arctan,
    karras,
    log_snr,
    rho,
    uniform,
    vp_time,
    vp_uniform,
)

__all__ = [
    "BETA_MAX",
    "BETA_MIN",
    "SCHEDULES",
    "SIGMA_DATA",
    "Schedule",
    "arctan",
    "karras",
    "log_snr",
    "rho",
    "uniform",
    "vp_time",
    "vp_uniform",
]
