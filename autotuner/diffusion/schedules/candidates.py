"""Levels 0 and 1: every pair of a solver and a grid that costs a given number of evaluations, and the race between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np

from autotuner.diffusion.sample import Network
from autotuner.diffusion.schedules.dp import ORDERS, Survey
from autotuner.diffusion.schedules.grids import Schedule, arctan, karras, log_snr, rho, uniform, vp_time, vp_uniform
from autotuner.diffusion.schedules.pairs import Pairs, errors, rmse
from autotuner.diffusion.solvers import Solver, dpmpp_2m, dpmpp_3m, euler, heun, ipndm, unipc
from autotuner.diffusion.solvers.generalised import Table, begun_at, trace

SAMPLERS: dict[str, Solver] = {
    "euler": euler,
    "ipndm": ipndm,
    "ipndm4": partial(ipndm, order=4),
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_3m": dpmpp_3m,
    "unipc": unipc,
    "heun": heun,
}
HEATS = ((16, 8), (64, 3))
"""Pairs that candidates are measured on, and how many of the best go on to the next heat; the last one is on all pairs."""


TOPS = (0.5, 0.3, 0.15)
"""Shares of the highest level."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One sampler with its name."""

    name: str
    solver: str
    """A key of SAMPLERS."""
    sigmas: np.ndarray
    """The grid, falling, the last 0."""
    table: Table


def hand_made(evaluations: int, sigma_min: float, sigma_max: float, sigma_data: float) -> list[Candidate]:
    """All of SAMPLERS on all grids in closed form, at ``evaluations`` (heun, which needs an odd number, at most)."""
    grids: dict[str, Schedule] = {
        "karras": karras,
        "rho 3": partial(rho, rho=3.0),
        "log_snr": log_snr,
        "vp_time": vp_time,
        "arctan": partial(arctan, sigma_data=sigma_data),
        "uniform": uniform,
        "vp_uniform": vp_uniform,
    }
    steps = {solver: (evaluations + 1) // 2 if solver == "heun" else evaluations for solver in SAMPLERS}
    return [
        candidate(solver, name, grid(steps[solver], sigma_min, sigma_max))
        for solver in SAMPLERS
        for name, grid in grids.items()
    ]


def surveyed(evaluations: int, survey: Survey) -> list[Candidate]:
    """The multistep ones of SAMPLERS on the grids that dynamic programming found."""
    grids = {f"dp {order}": survey.grid(evaluations, order) for order in ORDERS}
    return [candidate(solver, name, grid) for solver in SAMPLERS if solver != "heun" for name, grid in grids.items()]


def lowered(evaluations: int, sigma_min: float, sigma_max: float) -> list[Candidate]:
    """Multistep solvers that begin at a share of ``sigma_max`` (TOPS): not competitors, but good places to learn from."""
    grids: dict[str, Schedule] = {
        "karras": karras,
        "rho 3": partial(rho, rho=3.0),
        "vp_time": vp_time,
        "vp_uniform": vp_uniform,
    }
    found = []
    for solver, grid, share in product(("ipndm", "dpmpp_2m", "unipc"), grids, TOPS):
        below = candidate(solver, f"{grid} from {share:g}", grids[grid](evaluations, sigma_min, share * sigma_max))
        found.append(replace(below, table=begun_at(below.table, sigma_max)))
    return found


def candidate(solver: str, grid: str, sigmas: np.ndarray) -> Candidate:
    """A solver on a grid, traced."""
    return Candidate(f"{solver}, {grid}", solver, sigmas, trace(SAMPLERS[solver], list(sigmas)))


def race(denoiser: Network, pairs: Pairs, entered: Sequence[Candidate]) -> list[tuple[float, Candidate]]:
    """Paired error and candidate of those that reach the last heat, best first."""
    left = list(entered)
    for count, survivors in HEATS:
        if len(left) > survivors:
            left = [each for _, each in _ranked(denoiser, pairs.first(count), left)[:survivors]]
    return _ranked(denoiser, pairs, left)


def _ranked(denoiser: Network, pairs: Pairs, entered: Sequence[Candidate]) -> list[tuple[float, Candidate]]:
    measured = [(rmse(errors(denoiser, pairs, each.table)), each) for each in entered]
    return sorted(measured, key=lambda each: each[0])
