"""Recording drives the real trainer: a few steps of it, on images made here."""

import json

import numpy as np
import pytest
from autotuner_envs import record
from autotuner_envs.curves import Curve
from autotuner_envs.fitting import predicted_losses

from autotuner.diffusion.data import Dataset


@pytest.fixture(scope="module")
def dataset():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, size=(640, 28, 28, 1), dtype=np.uint8)
    labels = (np.arange(640) % 10).astype(np.uint8)
    return Dataset("made", "Random pixels.", images[:320], labels[:320], images[320:], labels[320:])


def test_a_recorded_curve_tells_the_resolution_of_each_point(dataset):
    trace = record.record_run(dataset, record.CurveRun("low", "fit", 0.6, 16), steps=4)
    assert [point["resolution"] for point in trace["points"]] == [28, 16, 16, 28]
    assert [point["images"] for point in trace["points"]] == [64, 128, 192, 256]
    assert len(predicted_losses(Curve(), trace)) == 4


def test_a_recorded_distillation_tells_stage_and_quality(dataset):
    trace = record.record_run(dataset, record.CurveRun("student", "fit", distill_at=(0.5, 0.75)), steps=4)
    assert [point["stage"] for point in trace["points"]] == [0, 0, 1, 2]
    assert all(point["quality"] > 0 for point in trace["points"])


def test_what_is_recorded_already_is_not_recorded_again(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(record.data, "find", lambda: dataset)
    monkeypatch.setattr(record, "QUICK_STEPS", 2)
    (tmp_path / "full.json").write_text("{}")
    assert record.record(tmp_path, "command", quick=True, only="full") == []
    assert record.record(tmp_path, "command", quick=True, only="low16_short") == ["low16_short"]
    assert json.loads((tmp_path / "low16_short.json").read_text())["command"] == "command"
