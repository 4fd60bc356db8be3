"""Saved schedules, the grids that diffusers takes of them, and the choice of one by time."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from autotuner.diffusion import betas
from autotuner.diffusion.blas import mx
from autotuner.diffusion.dit import DiT
from autotuner.diffusion.guidance import Guided
from autotuner.diffusion.precondition import Denoiser
from autotuner.diffusion.schedules import artefact, latency, log_snr
from autotuner.diffusion.schedules.artefact import Saved, ScheduleError
from autotuner.diffusion.schedules.candidates import SAMPLERS
from autotuner.diffusion.schedules.ladder import Interval
from autotuner.diffusion.solvers.generalised import trace
from autotuner.errors import ConfigurationError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def saved(evaluations=4, error=0.1, network="abc"):
    table = trace(SAMPLERS["dpmpp_2m"], list(log_snr(evaluations, 0.03, 14.0)))
    about = Interval(error, error * 0.9, error * 1.1)
    return Saved(network, 2, "learned from dpmpp_2m", table, about, "ipndm, karras", about, Interval(0.5, 0.4, 0.6), 64)


def denoiser(seed=0):
    mx.random.seed(seed)
    return Denoiser(DiT(1, 2, 8, width=16, depth=1, heads=2, patch=4), 0.5)


def test_a_schedule_comes_back_from_disk_to_the_last_digit(tmp_path):
    path = artefact.save(saved(), tmp_path)
    assert path == tmp_path / "schedules" / "4.json"
    found = artefact.load(path, "abc")
    assert np.array_equal(found.table.rows, saved().table.rows)
    assert np.array_equal(found.table.levels, saved().table.levels)
    assert (found.error, found.name, found.noises) == (saved().error, saved().name, 64)


def test_a_schedule_of_another_network_is_refused_and_left_out(tmp_path):
    path = artefact.save(saved(network="other"), tmp_path)
    artefact.save(saved(6), tmp_path)
    with pytest.raises(ScheduleError, match="learned for the network other, this one is abc; run autotuner schedule again"):
        artefact.load(path, "abc")
    assert [each.table.evaluations for each in artefact.every(tmp_path, "abc")] == [6]


@pytest.mark.parametrize("change", [{"format": 2}, {"table": {}}, {"error": 3}])
def test_a_damaged_schedule_is_told_as_such(tmp_path, change):
    path = artefact.save(saved(), tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ScheduleError, match=r"4\.json"):
        artefact.load(path, "abc")


def test_a_network_is_known_by_its_weights_and_its_guidance():
    first, again, other = denoiser(), denoiser(), denoiser(seed=1)
    assert artefact.identify(first) == artefact.identify(again)
    names = {artefact.identify(each) for each in (first, other, Guided(first, 2, 2.0), Guided(first, 2, 3.0))}
    assert len(names) == 4
    assert artefact.identify(Guided(first, 2, 1.0)) == artefact.identify(first)


def test_euler_of_diffusers_takes_the_levels():
    grid = artefact.as_diffusers(saved().table)
    scheduler = pytest.importorskip("diffusers").EulerDiscreteScheduler(**BETAS)
    scheduler.set_timesteps(sigmas=grid["sigmas"])
    assert scheduler.sigmas.numpy() == pytest.approx(np.append(saved().table.levels, 0.0), rel=1e-5)


def test_dpm_solver_of_diffusers_takes_the_timesteps():
    """Whole timesteps: the levels it walks are those of the training step nearest to each."""
    grid = artefact.as_diffusers(saved().table, betas.sigmas("scaled_linear"))
    scheduler = pytest.importorskip("diffusers").DPMSolverMultistepScheduler(**BETAS)
    scheduler.set_timesteps(timesteps=grid["timesteps"])
    assert scheduler.timesteps.tolist() == grid["timesteps"]
    assert scheduler.sigmas.numpy()[:-1] == pytest.approx(saved().table.levels, rel=0.05)


def test_levels_that_a_scheduler_cannot_walk_are_refused():
    table = saved().table
    with pytest.raises(ConfigurationError, match="do not fall"):
        artefact.as_diffusers(replace(table, levels=table.levels[::-1]))
    close = replace(table, levels=np.array([14.0, 1.0, 0.9999, 0.03]))
    with pytest.raises(ConfigurationError, match="each must be its own"):
        artefact.as_diffusers(close, betas.sigmas("scaled_linear"))


@pytest.mark.parametrize(("text", "seconds"), [("200ms", 0.2), ("1.5s", 1.5), (" 2 min ", 120.0), (".5s", 0.5)])
def test_durations_are_read(text, seconds):
    assert latency.seconds_of(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["200", "ms", "0s", "-1s", "1 hour", ""])
def test_what_is_no_duration_is_answered_with_the_units(text):
    with pytest.raises(ConfigurationError, match="allowed is a number above 0 with ms, s, min"):
        latency.seconds_of(text)


def test_the_best_that_fits_is_chosen_even_where_more_evaluations_fit_too():
    pace = latency.Pace(8, 0.1)
    known = [saved(4, 0.2), saved(6, 0.05), saved(8, 0.07), saved(16, 0.01)]
    assert latency.choose(known, pace, 0.85).table.evaluations == 6
    assert latency.choose(known, pace, 0.4).table.evaluations == 4
    with pytest.raises(ConfigurationError, match=r"0.1 s for 8 images; the least on this machine is 0.4 s, with 4 evaluations"):
        latency.choose(known, pace, 0.1)
    with pytest.raises(ConfigurationError, match="autotuner schedule makes them"):
        latency.choose([], pace, 10.0)


def test_the_pace_counts_the_batches_that_sampling_makes():
    """Seventy images are two batches of 32 and one of 6; the clock goes by one second for each picture evaluated."""
    now = 0.0

    def denoise(x, sigma, label):
        nonlocal now
        now += len(x)
        return x

    pace = latency.measure(denoise, (2, 2, 1), 70, clock=lambda: now)
    assert pace == latency.Pace(70, 70.0)
    assert pace.of(3) == 210
    assert latency.measure(denoise, (2, 2, 1), 5, clock=lambda: now).seconds == 5
    assert latency.measure(denoise, (2, 2, 1), 64, clock=lambda: now).seconds == 64


def test_the_file_has_what_a_scheduler_of_diffusers_takes(tmp_path):
    sigmas = betas.sigmas("scaled_linear")
    written = json.loads(artefact.save(saved(), tmp_path, sigmas).read_text())["diffusers"]
    assert written == artefact.as_diffusers(saved().table, sigmas)
    assert written["sigmas"][-1] == 0
    assert "timesteps" not in json.loads(artefact.save(saved(), tmp_path).read_text())["diffusers"]
