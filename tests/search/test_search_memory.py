"""The memory forecast."""

from __future__ import annotations

from autotuner.search.memory import fit


def test_without_a_known_peak_nothing_is_forecast():
    assert fit([]) is None
    assert fit([({"width": 64}, 0)]) is None


def test_one_run_is_scaled_in_proportion():
    forecast = fit([({"width": 64, "depth": 4}, 1000)])
    assert abs(forecast.predict({"width": 128, "depth": 4}) - 2000) <= 2
    assert abs(forecast.predict({"width": 64, "depth": 2}) - 500) <= 2


def test_runs_overrule_the_expectation():
    law = [({"width": width, "depth": depth}, int(50 * width**2 * depth)) for width in (32, 64, 128) for depth in (2, 4)]
    predicted = fit(law).predict({"width": 256, "depth": 8})
    assert 0.85 < predicted / (50 * 256**2 * 8) < 1.25


def test_the_forecast_is_never_below_a_peak_that_was_seen():
    seen = [({"width": 64}, 1000), ({"width": 64}, 1800), ({"width": 128}, 2500)]
    forecast = fit(seen)
    assert all(forecast.predict(parameters) >= peak - 1 for parameters, peak in seen)


def test_choices_that_are_no_numbers_are_left_out():
    forecast = fit([({"norm": "rms", "bias": True, "dropout": 0.0, "width": 64}, 1000)])
    assert forecast.names == ("width",)
    assert forecast.predict({"norm": "layer", "bias": False, "dropout": 0.5, "width": 64}) in (999, 1000)
