"""Which sampler draws from a checkpoint's teacher: one named by hand, the one learned for it, or the best in a given time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autotuner.diffusion import checkpoint
from autotuner.diffusion.adaptive import artefact as adaptive_artefact
from autotuner.diffusion.adaptive.sampling import Adaptive, sample
from autotuner.diffusion.schedules import artefact, latency
from autotuner.diffusion.schedules.artefact import Saved
from autotuner.diffusion.schedules.candidates import SAMPLERS
from autotuner.diffusion.schedules.grids import SCHEDULES
from autotuner.diffusion.schedules.ladder import LEVELS
from autotuner.diffusion.schedules.sampling import decoded, generate, noises
from autotuner.diffusion.solvers.generalised import Table, trace
from autotuner.errors import ConfigurationError


@dataclass(frozen=True, eq=False)
class Way:
    """A sampler and whom it draws from."""

    sampler: checkpoint.Sampler
    table: Table
    sentence: str
    """What was chosen, for who asked."""
    adaptive: Adaptive | None = None
    """Where each sample's own path corrects the table."""

    def draw(self, count: int, seed: int) -> np.ndarray:
        """uint8 images, labels in turn; the same seed draws the same noise as ``checkpoint.samples``."""
        labels = np.arange(count) % self.sampler.classes
        if self.adaptive is not None:
            noise = noises(count, self.sampler.shape, seed)
            return decoded(self.sampler.denoiser, sample(self.sampler.denoiser, noise, labels, self.adaptive).images)
        return generate(self.sampler.denoiser, labels, self.sampler.shape, self.table, seed)


def by_hand(path: Path, steps: int, solver: str | None, schedule: str | None, sigma_rel: float | None = None) -> Way:
    """A solver (default: the run's) on a grid (default: karras). ConfigurationError for unknown names; CheckpointError."""
    sampler = checkpoint.sampler(path, "teacher", steps, sigma_rel)
    solver, schedule = solver or sampler.config.solver, schedule or "karras"
    solvers = {**SAMPLERS, "ddim": SAMPLERS["euler"]}
    for option, name, allowed in (("solver", solver, list(solvers)), ("schedule", schedule, list(SCHEDULES))):
        if name not in allowed:
            raise ConfigurationError(f"{option} {name!r}; allowed: {', '.join(allowed)}")
    sigmas = SCHEDULES[schedule](steps, sampler.config.sigma_min, sampler.config.sigma_max)
    table = trace(solvers[solver], list(sigmas))
    return Way(sampler, table, f"{solver}, {schedule}: {table.evaluations} evaluations")


def learned(path: Path, steps: int, sigma_rel: float | None = None) -> Way | None:
    """The saved schedule of ``steps`` evaluations; None where there is none.

    One of another network is refused with ScheduleError, unless ``sigma_rel`` asks for other weights than were learned for.
    """
    saved = artefact.path_of(path.parent, steps)
    if sigma_rel is not None or not saved.is_file():
        return None
    sampler = checkpoint.sampler(path, "teacher", steps)
    return _of(sampler, artefact.load(saved, artefact.identify(sampler.denoiser)))


def adapted(path: Path, steps: int) -> Way:
    """The saved adaptive sampler of ``steps`` evaluations; ScheduleError where there is none for this network."""
    saved = adaptive_artefact.path_of(path.parent, steps)
    if not saved.is_file():
        raise artefact.ScheduleError(
            f"{saved}: no adaptive sampler of {steps} evaluations; autotuner schedule --adaptive learns one"
        )
    sampler = checkpoint.sampler(path, "teacher", steps)
    found = adaptive_artefact.load(saved, artefact.identify(sampler.denoiser))
    judged = f"paired error {100 * found.gain.value:.0f} % below the schedule's for all on {found.noises} noises"
    sentence = f"adaptive sampler of {found.mean_evaluations:g} evaluations, {judged}"
    return Way(sampler, found.adaptive.heads[0].table, sentence, found.adaptive)


def within(path: Path, duration: str, count: int, sigma_rel: float | None = None) -> Way:
    """The saved schedule of least error that draws ``count`` images in ``duration`` on this machine; see ``latency``."""
    seconds = latency.seconds_of(duration)
    sampler = checkpoint.sampler(path, "teacher", 1, sigma_rel)
    known = artefact.every(path.parent, artefact.identify(sampler.denoiser))
    pace = latency.measure(sampler.denoiser, sampler.shape, count)
    way = _of(sampler, latency.choose(known, pace, seconds))
    predicted = f"{pace.of(way.table.evaluations):.3g} s of {seconds:g} s predicted for {count} images"
    return Way(sampler, way.table, f"{way.sentence}; {predicted}")


def _of(sampler: checkpoint.Sampler, saved: Saved) -> Way:
    judged = (
        f"paired error {saved.error.value:.3g} on {saved.noises} noises, {100 * saved.gain.value:.0f} % below {saved.below}"
    )
    return Way(sampler, saved.table, f"{LEVELS[saved.level]} schedule of {saved.table.evaluations} evaluations, {judged}")
