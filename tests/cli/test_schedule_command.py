"""``autotuner schedule`` and what ``autotuner sample`` makes of it, run as a user runs them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from autotuner.cli import main
from tests.cli.digits import toml

TEXT = toml(20, evaluation="paired_images = 0")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    (folder / "digits.toml").write_text(TEXT)
    assert main(["train", str(folder / "digits.toml"), "--no-hook"]) == 0
    return folder


@pytest.fixture
def config(trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    capsys.readouterr()
    return str(tmp_path / "digits.toml")


def test_a_schedule_is_learned_saved_used_and_refused_after_more_training(config, capsys, tmp_path):
    assert main(["schedule", config, "--steps", "2", "--noises", "32"]) == 0
    said = capsys.readouterr().out
    assert "2 evaluations, 32 noises" in said
    assert said.count("kept") >= 1
    assert (tmp_path / "here" / "schedules" / "2.json").is_file()

    assert main(["sample", config, "--steps", "2", "--count", "4"]) == 0
    assert "schedule of 2 evaluations" in capsys.readouterr().out
    assert main(["sample", config, "--steps", "3", "--count", "4"]) == 0
    assert "schedule of" not in capsys.readouterr().out

    assert main(["sample", config, "--within", "10min", "--count", "4"]) == 0
    assert "predicted for 4 images" in capsys.readouterr().out
    assert main(["sample", config, "--within", "0.0001ms", "--count", "4"]) == 2
    assert "the least on this machine" in capsys.readouterr().err

    assert main(["train", config, "--no-hook", "--set", "budget.steps=60"]) == 0
    capsys.readouterr()
    assert main(["sample", config, "--steps", "2", "--count", "4"]) == 0
    assert "run autotuner schedule again; drawn as configured" in capsys.readouterr().out


def test_a_schedule_is_corrected_by_each_samples_own_path(config, capsys, tmp_path):
    assert main(["sample", config, "--steps", "2", "--count", "4", "--adaptive"]) == 1
    assert "no adaptive sampler of 2 evaluations" in capsys.readouterr().err

    assert main(["schedule", config, "--steps", "2", "--noises", "64", "--adaptive", "--json"]) == 0
    printed = capsys.readouterr()
    told = json.loads(printed.out)["learned"][0]["adaptive"]
    assert "corrected by each sample's own path" in printed.err
    assert told["gain"]["low"] > 0  # a curve alone brings more than that to so small a network
    assert told["file"] == str(tmp_path / "here" / "schedules" / "adaptive-2.json")

    assert main(["sample", config, "--steps", "2", "--count", "4", "--adaptive", "--json"]) == 0
    drawn = json.loads(capsys.readouterr().out)
    assert "adaptive sampler of 2 evaluations" in drawn["way"]
    corrected = Path(drawn["file"]).read_bytes()
    assert main(["sample", config, "--steps", "2", "--count", "4"]) == 0
    assert Path(drawn["file"]).read_bytes() != corrected
    capsys.readouterr()
    assert main(["sample", config, "--within", "10min", "--count", "4"]) == 0  # the adaptive file is none of these
    assert "schedule of 2 evaluations" in capsys.readouterr().out


def test_a_solver_and_a_grid_can_be_named(config, capsys):
    assert main(["sample", config, "--steps", "3", "--count", "2", "--solver", "heun", "--schedule", "uniform"]) == 0
    assert "heun, uniform: 5 evaluations" in capsys.readouterr().out
    assert main(["sample", config, "--solver", "magic"]) == 2
    assert "solver 'magic'; allowed: euler" in capsys.readouterr().err
    assert main(["sample", config, "--schedule", "magic"]) == 2
    assert "schedule 'magic'; allowed: rho" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--within", "soon"], "duration 'soon'"),
        (["--within", "1s"], "no validated schedule of this network"),
        (["--within", "1s", "--solver", "heun"], "chooses among learned schedules"),
        (["--within", "1s", "--who", "student"], "allowed is --who teacher"),
        (["--solver", "heun", "--who", "student"], "allowed is --who teacher"),
        (["--adaptive", "--who", "student"], "allowed is --who teacher"),
        (["--adaptive", "--solver", "heun"], "chooses among learned schedules"),
        (["--adaptive", "--within", "1s"], "allowed is one of them"),
    ],
)
def test_what_cannot_be_chosen_is_refused(words, sentence, config, capsys):
    assert main(["sample", config, *words]) == 2
    assert sentence in capsys.readouterr().err
