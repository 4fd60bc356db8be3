"""The benchmark of adaptive samplers, whole, on a network that has hardly learned."""

from __future__ import annotations

import argparse

import numpy as np
import pytest

from autotuner.diffusion import checkpoint
from autotuner.diffusion.adaptive import artefact
from autotuner.diffusion.schedules.artefact import identify
from benchmarks import adaptive as benchmark


def test_every_part_is_measured_and_kept_for_a_second_run(make_trainer, take, tmp_path, monkeypatch, capsys):
    trainer = make_trainer()
    take(trainer, 5)
    file = tmp_path / "checkpoint.safetensors"
    checkpoint.save(trainer, file)
    small = benchmark.Size({"training": 12, "choosing": 8, "judging": 8}, 1)
    monkeypatch.setattr(benchmark, "QUICK", small)
    monkeypatch.setattr(benchmark, "FIRST_PAIRS", 4)
    kept = tmp_path / "keep"
    options = argparse.Namespace(
        checkpoint=file, evaluations=3, others=[2, 4], quick=True, keep=kept, save=tmp_path, draw=tmp_path / "drawn.png"
    )
    values = benchmark.run(options)
    assert values["noises"] == [12, 8, 8]
    assert set(values["global_errors"]) == {3.0, 4.0}
    assert len(values["errors"]) == len(values["gains"]) == 6
    assert np.isfinite(list(values["errors"].values())).all()
    assert values["adaptive_gain_of"] in values["errors"]
    assert values["gains"]["global table"]["value"] == 0
    assert "processor seconds" in capsys.readouterr().out
    assert benchmark.run(options) == values
    assert "processor seconds" not in capsys.readouterr().out
    drawer = checkpoint.sampler(file, "teacher", 3)
    saved = artefact.load(artefact.path_of(tmp_path, 3), identify(drawer.denoiser))
    assert saved.gain.value == pytest.approx(values["gains"]["head, own number, curve"]["value"])
