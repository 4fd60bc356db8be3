"""``autotuner train``, ``sample`` and ``evaluate``, run as a user runs them, on the digits of scikit-learn."""

from __future__ import annotations

import json
import signal

import pytest

from autotuner.cli import main
from tests.cli.digits import toml

TEXT = toml(6, evaluate_every_steps=3)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "digits.toml"
    path.write_text(TEXT)
    return path


def test_one_file_trains_samples_and_evaluates(config, capsys):
    assert main(["train", str(config), "--no-hook"]) == 0
    out = config.parent / "here"
    said = capsys.readouterr().out
    assert "step      3  held out" in said
    assert "6 steps" in said
    assert {path.suffix for path in out.iterdir()} >= {".png", ".json", ".safetensors"}
    assert main(["sample", str(config), "--steps", "2", "--count", "4"]) == 0
    assert (out / "sample-teacher-02.png").stat().st_size > 100
    capsys.readouterr()
    assert main(["evaluate", str(config), "--steps", "2", "--images", "16", "--paired-images", "0", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["steps"] for row in report["rows"]] == [2, 2]


def test_any_width_of_average_can_be_drawn_from_where_snapshots_are_kept(config, capsys):
    assert main(["train", str(config), "--no-hook", "--set", "training.ema=power"]) == 0
    assert main(["sample", str(config), "--steps", "2", "--count", "2", "--sigma-rel", "0.07"]) == 0
    assert main(["sample", str(config), "--steps", "2", "--who", "student", "--sigma-rel", "0.07"]) == 1
    assert "snapshots are kept of the teacher only" in capsys.readouterr().err
    assert main(["sample", str(config), "--sigma-rel", "0.5"]) == 1
    assert "sigma_rel 0.5; allowed is more than 0 and less than 0.2887" in capsys.readouterr().err


def test_the_same_command_again_says_that_it_is_finished_and_a_larger_budget_continues(config, capsys):
    main(["train", str(config), "--no-hook", "--json"])
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert (document["finished"], document["result"]["steps"]) == (True, 6)
    assert "held out" in said.err
    assert main(["sample", str(config), "--steps", "2", "--count", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["file"].endswith("sample-teacher-02.png")
    assert main(["train", str(config), "--no-hook"]) == 0
    assert "holds the finished training" in capsys.readouterr().out
    assert main(["train", str(config), "--no-hook", "--set", "budget.steps=8"]) == 0
    assert "continues at step 6" in capsys.readouterr().out
    assert json.loads((config.parent / "here" / "result.json").read_text())["steps"] == 8


def test_another_bound_that_is_already_spent_is_not_trained_for(config, capsys):
    main(["train", str(config), "--no-hook"])
    capsys.readouterr()
    assert main(["train", str(config), "--no-hook", "--set", "budget.seconds=1e-3"]) == 0
    assert "holds the finished training" in capsys.readouterr().out


def test_a_signal_while_the_result_is_measured_ends_the_command_and_the_next_one_concludes(config, capsys, monkeypatch):
    from autotuner.diffusion import result

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched:
        patched.setattr(result, "conclude", lambda *_: signal.raise_signal(signal.SIGINT))
        assert main(["train", str(config), "--no-hook"]) == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert main(["train", str(config), "--no-hook"]) == 0
    assert "continues at step 6" in capsys.readouterr().out


def test_restart_keeps_the_old_training_aside(config, capsys):
    main(["train", str(config), "--no-hook"])
    assert main(["train", str(config), "--no-hook", "--restart"]) == 0
    assert capsys.readouterr().out.count(" begins: ") == 2
    assert (config.parent / "here.1" / "result.json").is_file()


def test_an_interrupted_training_is_continued_by_the_same_command(config, capsys, monkeypatch):
    from autotuner.diffusion.trainer import Trainer

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_evaluate_if_due", lambda trainer: trainer.stop())
        assert main(["train", str(config), "--no-hook"]) == 1
    assert "the same command continues" in capsys.readouterr().out
    assert main(["train", str(config), "--no-hook"]) == 0
    assert "continues at step 1" in capsys.readouterr().out


def test_a_dry_run_prints_the_whole_configuration_and_trains_nothing(config, capsys):
    assert main(["train", str(config), "--dry-run"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["steps"], printed["resolution"], printed["model"]["width"]) == (6, 8, 16)
    assert not (config.parent / "here").exists()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("budget.steps=soon", "budget.steps is 'soon'; allowed is int"),
        ("data.source=nowhere", "nowhere does not exist; allowed: fashion-mnist"),
        ("training.bacth=3", "unknown key 'bacth'"),
        ("budget", "expected SECTION.KEY=VALUE"),
    ],
)
def test_a_wrong_value_is_answered_with_the_allowed_ones(config, change, complaint, capsys):
    assert main(["train", str(config), "--set", change]) in (1, 2)
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [["sample", "--seed", "-1"], ["sample", "--count", "0"], ["evaluate", "--steps", "0"], ["evaluate", "--images", "0"]],
)
def test_numbers_that_cannot_be_are_answered_with_what_can(config, words, capsys):
    with pytest.raises(SystemExit):
        main([words[0], str(config), *words[1:]])
    assert "or more" in capsys.readouterr().err


def test_sampling_before_training_names_the_missing_checkpoint(config, capsys):
    assert main(["sample", str(config)]) == 1
    assert "checkpoint.safetensors is not a checkpoint" in capsys.readouterr().err


@pytest.fixture
def stable_diffusion(tmp_path, monkeypatch):
    """A tiny folder with random weights, eight captioned pictures, and the file that fine-tunes one on the other."""
    from PIL import Image

    from autotuner.diffusion import recipe, result
    from tests.diffusion.tiny_pipeline import write_pipeline

    monkeypatch.setattr(recipe, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(result, "GRID_STEPS", {"teacher": (2,)})
    monkeypatch.setattr(result, "GRID_IMAGES", 2)
    folder, pictures = write_pipeline(tmp_path / "pipeline"), tmp_path / "pictures"
    pictures.mkdir()
    for number in range(24):
        colour, word = ((220, 20, 20), "red") if number % 2 else ((20, 20, 220), "blue")
        Image.new("RGB", (16, 16), colour).save(pictures / f"{number}.png")
        (pictures / f"{number}.txt").write_text(f"the {word} square")
    path = tmp_path / "sd.toml"
    path.write_text(
        f'preset = "stable-diffusion-lora"\nout = "here"\n[data]\nsource = "{pictures}"\nresolution = 16\n'
        f'[model]\nfolder = "{folder}"\nrank = 2\n[budget]\nsteps = 3\n[evaluation]\nevaluate_every_steps = 2\n'
        "quality_images = 2\nquality_steps = 2\n"
    )
    return path


def test_stable_diffusion_is_fine_tuned_from_one_file_and_leaves_an_adapter(stable_diffusion, capsys):
    from autotuner.diffusion.lora_file import read

    assert main(["train", str(stable_diffusion), "--no-hook"]) == 0
    assert "for diffusers:" in capsys.readouterr().out
    assert read(stable_diffusion.parent / "here")
    assert main(["train", str(stable_diffusion), "--no-hook", "--set", "budget.steps=4"]) == 0
    assert "continues at step 3" in capsys.readouterr().out
    assert main(["sample", str(stable_diffusion), "--steps", "2", "--count", "2"]) == 0


def test_a_folder_that_is_missing_is_asked_for(stable_diffusion, capsys):
    stable_diffusion.write_text('preset = "stable-diffusion-lora"\n[data]\nsource = "digits"\n')
    assert main(["train", str(stable_diffusion)]) == 2
    assert "model.folder is missing" in capsys.readouterr().err
