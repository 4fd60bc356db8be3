from __future__ import annotations

import json
import math

import numpy as np
import pytest

from autotuner.diffusion import checkpoint
from autotuner.diffusion.quality import __main__ as command
from autotuner.diffusion.quality.report import Distances, Reference, Report, Row
from autotuner.diffusion.quality.table import lines

FLOOR = Distances(1.88, 0.0112, 0.0258, 0.98, 0.89, 1.05, 0.98)
FAR = Distances(139.4, 0.5, 0.1, 0.5, 0.25, 0.75, 0.125)


def measured(**changes):
    rows = (Row("teacher", 4, 7, FAR, 0.68, 0.141, 9.28), Row("student", 4, 4, FAR, math.nan, math.nan, math.nan))
    reference = Reference(32, "heun", 64, 127, 0.002, True)
    values = {"features": "frechet_pca64", "images": 256, "floor": FLOOR, "rows": rows, "reference": reference}
    return Report(**{**values, "held_out_losses": {16: [0.5, 0.25], 28: [0.3, math.nan]}, **changes})


def test_every_sampler_is_a_line_below_its_floor():
    text = lines(measured())
    assert text[0] == "frechet_pca64, 256 pictures of each kind"
    assert " ".join(text[2].split()) == "real pictures 1.88 0.0112 ± 0.0258 0.98 0.89 1.05 0.98"
    assert text[3].split() == [
        "teacher",
        "4",
        "7",
        "139",
        "0.5",
        "±",
        "0.1",
        "0.5",
        "0.25",
        "0.75",
        "0.125",
        "0.68",
        "0.141",
        "9.28",
    ]
    assert text[4].split()[-3:] == list("---")


def test_the_reference_of_paired_errors_says_whether_it_converged():
    assert "paired with 64 steps of heun on 32 noises: converged, change 0.002" in lines(measured())
    astray = measured(reference=Reference(32, "heun", 128, 255, 0.5, False))
    assert "NOT CONVERGED" in "\n".join(lines(astray))
    assert "paired with" not in "\n".join(lines(measured(reference=None)))


def test_every_resolution_is_a_line_and_a_gap_is_not_averaged():
    assert lines(measured())[-2:] == ["held-out loss at 16 px: 0.3750 (0.5 0.25)", "held-out loss at 28 px: 0.3000 (0.3 -)"]


@pytest.fixture
def saved(make_trainer, take, tmp_path, stripes, monkeypatch):
    trainer = make_trainer()
    take(trainer, 2)
    checkpoint.save(trainer, tmp_path / "checkpoint.safetensors")
    monkeypatch.setattr("autotuner.diffusion.data.find", lambda source, resolution=None: stripes)
    return tmp_path / "checkpoint.safetensors"


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["quality", *map(str, arguments)])
    return command.main()


def test_a_checkpoint_is_measured_from_the_command_line(saved, monkeypatch, capsys):
    assert run(monkeypatch, saved, "--steps", 2, "--images", 30, "--paired-images", 0) == 0
    assert capsys.readouterr().out.startswith("frechet_pca64, 30 pictures of each kind\n")


def test_json_is_one_line_with_the_same_numbers(saved, monkeypatch, capsys):
    assert run(monkeypatch, saved, "--steps", 2, "--paired-images", 2, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"][0]["class_agreement"] is None
    assert [row["steps"] for row in found["rows"]] == [2]
    assert np.isfinite(found["reference"]["change"])


def test_a_missing_checkpoint_is_an_error_of_one_line(tmp_path, stripes, monkeypatch, capsys):
    monkeypatch.setattr("autotuner.diffusion.data.find", lambda source, resolution=None: stripes)
    assert run(monkeypatch, tmp_path / "none.safetensors") == 2
    assert "none.safetensors is not a checkpoint" in capsys.readouterr().err
