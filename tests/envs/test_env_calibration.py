"""The fit of the simulator: it finds known parameters, and what is committed says how far it is off."""

import json
from dataclasses import replace

import numpy as np
import pytest
from autotuner_envs.calibration import PATH, Calibration, load
from autotuner_envs.curves import Curve
from autotuner_envs.fitting import Traces, fit, fit_curve, kendall, least_squares, predicted_losses

TRACES = PATH.with_name("traces")


def synthetic(curve, half, low_share, low_resolution, noise, random, densities=(1.0,) * 4, **rest):
    points, images = [], 0
    for i in range(25):
        used = (i + 1) / 25
        resolution = low_resolution if used <= low_share else 28
        images += {16: 4000, 20: 3000, 28: 2000}[resolution]
        points.append({"budget_used": used, "images": images, "resolution": resolution, "held_out_loss": 1.0})
    trace = {"half": half, "full_resolution": 28, "stages": 0, "low_share": low_share, "points": points}
    trace |= {"lr_scale": 1.0, "density": 0, "repaired_at": 1.0, **rest}
    for point, loss in zip(points, predicted_losses(curve, trace, densities), strict=True):
        point["held_out_loss"] = loss * float(np.exp(random.normal(0.0, noise)))
    return trace


def test_least_squares_solves_a_curved_problem():
    x = np.linspace(0.0, 2.0, 20)
    found = least_squares(lambda p: np.exp(p[0]) * np.exp(-np.exp(p[1]) * x) - 3.0 * np.exp(-0.5 * x), [0.0, 0.0])
    assert np.exp(found) == pytest.approx([3.0, 0.5], rel=1e-4)


def test_a_known_curve_is_found_from_noisy_runs():
    truth = replace(Curve(), coarse=0.9, gap=0.4, floor=0.17, return_images=2500.0)
    random = np.random.default_rng(0)
    halves = (("fit", 0.0, 28), ("fit", 0.3, 16), ("fit", 0.1, 20), ("judge", 0.1, 16), ("judge", 0.3, 20))
    _, _, errors = fit_curve([synthetic(truth, *half, 0.002, random) for half in halves])
    assert errors["held_out_judged"] < 0.01


def test_what_learning_rate_and_density_are_worth_is_found():
    truth, densities = replace(Curve(), rate_curvature=0.1, best_octaves=0.8), (1.0, 0.7, 0.9, 0.5)
    random = np.random.default_rng(1)
    arms = [{"lr_scale": scale} for scale in (1.0, 0.25, 2.0)] + [{"density": i} for i in (1, 2, 3)]
    arms = [("fit", arm) for arm in arms] + [("judge", {"lr_scale": 0.5}), ("judge", {"density": 1, "repaired_at": 0.3})]
    curve, found, errors = fit_curve([synthetic(truth, half, 0.0, 28, 0.002, random, densities, **arm) for half, arm in arms])
    for octaves in (-2, -1, 1):
        assert curve.efficiency(octaves) == pytest.approx(truth.efficiency(octaves), rel=0.1)
    assert found == pytest.approx(densities, rel=0.1)
    assert errors["held_out_judged"] < 0.01
    assert errors["kendall_last_all"] > 0.8


def test_the_order_of_arms_is_compared_pair_by_pair():
    assert kendall([1, 2, 3], [10, 20, 30]) == 1.0
    assert kendall([1, 2, 3], [30, 20, 10]) == -1.0
    assert kendall([1, 2, 3], [10, 30, 20]) == pytest.approx(1 / 3)


def test_the_committed_calibration_is_what_the_committed_traces_give():
    document = json.loads(PATH.read_text())
    calibration, errors = fit(Traces.read(TRACES))
    assert calibration.step.image_seconds == pytest.approx(load().step.image_seconds, rel=1e-3)
    assert errors == pytest.approx(document["errors"], rel=0.02, abs=1e-3)


def test_the_committed_traces_are_small_and_say_how_they_were_made():
    paths = sorted(TRACES.glob("*.json"))
    assert sum(path.stat().st_size for path in paths) < 300_000
    for path in paths:
        document = json.loads(path.read_text())
        assert {"command", "date", "machine", "versions", "data"} <= set(document)
    halves = [json.loads(path.read_text()).get("half") for path in paths]
    assert min(halves.count("fit"), halves.count("judge")) >= 9


def test_a_calibration_survives_json():
    assert Calibration.from_document(json.loads(json.dumps(load().to_document()))) == load()
