from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autotuner.diffusion import __main__ as command
from autotuner.diffusion import checkpoint, launch, presets, result
from autotuner.diffusion.blas import mx
from autotuner.errors import ConfigurationError
from autotuner.hook.ring import RingReader
from autotuner.messages import FLAG_CHECKPOINT, OUTCOMES


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(make_trainer, take, tmp_path):
    path = tmp_path / checkpoint.FILE_NAME
    through = take(make_trainer(steps=20), 20)
    first = make_trainer(steps=20)
    take(first, 8)
    checkpoint.save(first, path)
    second = make_trainer(steps=20)
    checkpoint.restore(second, path)
    rest = list(second.steps())
    assert [r.step for r in rest] == list(range(9, 21))
    assert [r.loss for r in rest] == [r.loss for r in through[8:]]


def test_a_run_resumes_in_the_middle_of_distillation(make_trainer, take, tmp_path):
    path = tmp_path / checkpoint.FILE_NAME
    through = take(make_trainer(steps=20), 20)
    first = make_trainer(steps=20)
    take(first, 16)
    checkpoint.save(first, path)
    second = make_trainer(steps=20)
    checkpoint.restore(second, path)
    rest = list(second.steps())
    assert [r.stage for r in rest] == [r.stage for r in through[16:]] == [1, 2, 2, 2]
    assert [r.loss for r in rest] == [r.loss for r in through[16:]]


def test_knobs_and_their_history_come_back(make_trainer, take, tmp_path):
    path = tmp_path / checkpoint.FILE_NAME
    first = make_trainer()
    first.set_knob("resolution", 4)
    first.set_knob("timestep_density", 2)
    take(first, 2)
    checkpoint.save(first, path)
    second = make_trainer()
    checkpoint.restore(second, path)
    assert second.knobs.to_dict() == first.knobs.to_dict()
    assert second.knobs.history() == first.knobs.history()
    assert take(second, 1)[0].resolution == 4


@pytest.mark.parametrize("moment", ["save_safetensors", "replace"])
def test_a_kill_while_writing_leaves_the_last_good_checkpoint(make_trainer, take, tmp_path, monkeypatch, moment):
    path = tmp_path / checkpoint.FILE_NAME
    trainer = make_trainer()
    take(trainer, 1)
    checkpoint.save(trainer, path)
    good = path.read_bytes()
    take(trainer, 1)

    def killed(target, *args, **kwargs):
        if moment == "save_safetensors":
            Path(target).write_bytes(b"half a fil")
        raise KeyboardInterrupt

    monkeypatch.setattr(mx if moment == "save_safetensors" else os, moment, killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(trainer, path)
    monkeypatch.undo()
    assert path.read_bytes() == good
    checkpoint.restore(make_trainer(), path)


@pytest.mark.parametrize("content", [None, b"", b"garbage that is not safetensors at all"])
def test_a_missing_or_damaged_checkpoint_is_named(make_trainer, tmp_path, content):
    path = tmp_path / checkpoint.FILE_NAME
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(checkpoint.CheckpointError, match=r"checkpoint\.safetensors"):
        checkpoint.restore(make_trainer(), path)


def test_a_checkpoint_of_another_model_is_refused_with_both_values(make_trainer, tmp_path):
    path = tmp_path / checkpoint.FILE_NAME
    checkpoint.save(make_trainer(), path)
    other = make_trainer(model={"width": 32, "depth": 1, "mlp_ratio": 2})
    with pytest.raises(checkpoint.CheckpointError, match=r"model was .*16.*32"):
        checkpoint.restore(other, path)


def test_the_result_holds_curves_changes_and_grids(make_trainer, tmp_path):
    trainer = make_trainer(steps=20, evaluate_every_steps=5, quality_every=2)
    list(trainer.steps())
    result.conclude(trainer, tmp_path)
    document = json.loads((tmp_path / result.FILE_NAME).read_text())
    assert document["finished"] is True
    assert document["steps"] == 20
    assert document["images"] == 320
    assert [row[1] for row in document["held_out_curve"]] == [5, 10, 15, 20, 20]
    assert [change["new"] for change in document["knob_changes"]] == [1, 2]
    assert document["quality_metric"] == "frechet_pca64"
    assert {(row["who"], row["steps"]) for row in document["final_qualities"]} == {
        ("teacher", 4),
        ("teacher", 16),
        ("student", 4),
    }
    assert all((tmp_path / grid["file"]).is_file() for grid in document["grids"])
    assert document["injected"] is False
    assert document["model"] == {"width": 16, "depth": 1, "mlp_ratio": 2}


def test_samples_can_be_drawn_from_a_checkpoint_without_its_data(make_trainer, take, tmp_path):
    path = tmp_path / checkpoint.FILE_NAME
    trainer = make_trainer(steps=20)
    list(trainer.steps())
    checkpoint.save(trainer, path)
    for who in ("teacher", "student"):
        drawn = checkpoint.samples(path, who, 4, 6, seed=1)
        evaluator = trainer.evaluator
        assert np.array_equal(drawn, evaluator.as_data(evaluator.solutions(who, 4, np.arange(6) % 2, 1)))


def test_a_checkpoint_without_student_says_so(make_trainer, tmp_path):
    path = tmp_path / checkpoint.FILE_NAME
    checkpoint.save(make_trainer(), path)
    with pytest.raises(checkpoint.CheckpointError, match="holds no student"):
        checkpoint.samples(path, "student", 4, 6, seed=1)


def test_presets_fit_their_ladder_to_the_images(stripes):
    config = presets.find("fashion-tiny")
    fitted = presets.fitted(config, stripes)
    assert fitted.resolution == 8
    assert fitted.resolutions == (4, 8)
    with pytest.raises(ConfigurationError, match="fashion-tiny"):
        presets.find("huge")


def test_the_command_trains_resumes_and_samples(tmp_path, capsys, monkeypatch):
    from autotuner.diffusion import data

    monkeypatch.setattr(data, "find", lambda path: data.digits())
    out = tmp_path / "run"
    arguments = ["train", "--out", str(out), "--no-hook", "--seconds", "1000", "--width", "16", "--depth", "1"]
    assert command.main([*arguments, "--steps", "3"]) == 0
    assert command.main([*arguments, "--steps", "5", "--resume"]) == 0
    assert json.loads((out / result.FILE_NAME).read_text())["steps"] == 5
    assert command.main(["sample", str(out / checkpoint.FILE_NAME), "--out", str(tmp_path / "x.png"), "--steps", "2"]) == 0
    assert (tmp_path / "x.png").stat().st_size > 100
    assert "from step 3" in capsys.readouterr().out


def test_a_resumed_run_tells_the_hook_the_values_that_it_resumes_with(tiny_config, stripes, make_trainer, take, tmp_path):
    first = make_trainer()
    first.set_knob("resolution", 4)
    first.set_knob("lr_scale", 0.5)
    take(first, 2)
    checkpoint.save(first, tmp_path / checkpoint.FILE_NAME)
    options = command.parser().parse_args(["train", "--out", str(tmp_path), "--state-dir", str(tmp_path), "--resume"])
    _, run = command._attached(tiny_config, stripes, options)
    second = make_trainer(run)
    checkpoint.restore(second, tmp_path / checkpoint.FILE_NAME)
    with run:
        assert {name: run.knobs[name] for name in second.knobs.to_dict()} == second.knobs.to_dict()


def test_a_resumed_run_remembers_its_peak(make_trainer, take, tmp_path):
    first = make_trainer()
    take(first, 1)
    first.peak_bytes = 2**50
    checkpoint.save(first, tmp_path / checkpoint.FILE_NAME)
    second = make_trainer()
    checkpoint.restore(second, tmp_path / checkpoint.FILE_NAME)
    take(second, 1)
    assert second.peak_bytes == 2**50


def test_a_checkpoint_of_other_images_is_refused_with_both_values(make_trainer, tmp_path):
    path = tmp_path / checkpoint.FILE_NAME
    first = make_trainer()
    checkpoint.save(first, path)
    second = make_trainer()
    second.dataset = replace(second.dataset, name="dots")
    with pytest.raises(checkpoint.CheckpointError, match=r"'stripes'.*'dots'"):
        checkpoint.restore(second, path)


def test_an_architecture_that_the_ladder_does_not_fit_is_fitted_or_refused(tmp_path, capsys, monkeypatch):
    from autotuner.diffusion import data

    monkeypatch.setattr(data, "find", lambda path: data.digits())
    arguments = ["train", "--out", str(tmp_path), "--no-hook", "--preset", "unet-tiny", "--steps", "1", "--depth", "5"]
    assert command.main(arguments) == 2
    assert "needs a multiple of 16" in capsys.readouterr().err


def test_the_command_answers_a_wrong_value_in_one_line(tmp_path, capsys):
    assert command.main(["train", "--out", str(tmp_path), "--data", str(tmp_path / "absent"), "--no-hook"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_checkpoints_are_written_while_training_and_the_next_step_says_so(make_trainer, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "SAVE_EVERY_SECONDS", 0.0)
    path = tmp_path / checkpoint.FILE_NAME
    trainer = make_trainer(steps=3)
    steps_on_disk, flags = [], []
    monkeypatch.setattr(
        trainer.run, "report", lambda step, loss, **fields: flags.append(bool(fields["flags"] & FLAG_CHECKPOINT))
    )
    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *args: (save(*args), steps_on_disk.append(checkpoint.read(path)[1]["step"])))
    launch.drive(trainer, path, lambda progress: None)
    assert steps_on_disk == [1, 2, 3, 3]
    assert flags == [False, True, True]


def test_a_run_that_is_stopped_early_says_how_to_continue(tmp_path, capsys, monkeypatch):
    from autotuner.diffusion import data
    from autotuner.diffusion.trainer import Trainer

    monkeypatch.setattr(data, "find", lambda path: data.digits())
    monkeypatch.setattr(Trainer, "_evaluate_if_due", lambda trainer: trainer.stop())
    arguments = ["train", "--out", str(tmp_path), "--state-dir", str(tmp_path), "--width", "16", "--depth", "1"]
    assert command.main(arguments) == 1
    assert "--resume continues" in capsys.readouterr().out
    assert not (tmp_path / result.FILE_NAME).exists()
    (ring,) = tmp_path.glob("runs/*/telemetry.ring")
    assert RingReader(ring).read()[-1].outcome == OUTCOMES.index("interrupted")
