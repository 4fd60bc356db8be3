"""``autotuner distill report``, as a user runs it, on the digits of scikit-learn."""

from __future__ import annotations

import json
import struct

import pytest

from autotuner.cli import main
from tests.cli.digits import toml

TEXT = toml(
    8,
    micro_batches="[16]",
    evaluation="paired_images = 0",
    more="[distillation]\nstudent_ladder = [2, 1]\nteacher_share = 0.5",
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("digits") / "digits.toml"
    path.write_text(TEXT)
    assert main(["train", str(path), "--no-hook"]) == 0
    return path


def report(config, *words):
    return main(["distill", "report", str(config), "--steps", "1", "4", "--images", "20", "--seeds", "3", *words])


def test_the_report_is_a_table_a_file_and_a_picture_and_measures_once(config, capsys):
    pytest.importorskip("matplotlib")
    assert report(config) == 0
    first = capsys.readouterr()
    assert [line.split()[:2] for line in first.out.splitlines()[3:7]] == [
        ["teacher", "1"], ["teacher", "4"], ["student", "2"], ["student", "1"],
    ]  # fmt: skip
    assert "teacher of here in 4 steps, draw 3 of 3" in first.err
    picture = (config.parent / "here" / "distill-report.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", picture[16:24])
    assert 1000 < width < 2000
    assert 400 < height < 1000
    assert len(picture) > 20_000
    assert report(config) == 0
    again = capsys.readouterr()
    assert again.out == first.out
    assert "draw" not in again.err


def test_json_is_one_line_and_the_same_as_in_the_file(config, capsys):
    assert report(config, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    document = json.loads((config.parent / "here" / "distill-report.json").read_text())
    assert said == document["report"]
    assert [row["who"] for row in said["rows"]] == ["teacher", "teacher", "student", "student"]
    assert said["rows"][1]["ratio"] == [1, 1, 1]


def test_without_matplotlib_there_is_everything_but_the_picture(config, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert report(config) == 0
    found = capsys.readouterr()
    assert "teacher" in found.out
    assert "diffusion-autotuner[tracking]" in found.err


def test_a_directory_that_holds_no_run_is_named(config, capsys, tmp_path):
    assert report(config, "--runs", str(tmp_path)) == 1
    assert f"{tmp_path}/checkpoint.safetensors is not there" in capsys.readouterr().err


def test_too_few_draws_are_wrong_usage(config, capsys):
    assert main(["distill", "report", str(config), "--seeds", "2"]) == 2
    assert "seeds 2; allowed is 3 or more" in capsys.readouterr().err
