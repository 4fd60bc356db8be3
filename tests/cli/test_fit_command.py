"""``autotuner fit``: a probe in a real child process, the journal of earlier runs, and what a person reads."""

import json
from dataclasses import replace

import pytest

pytest.importorskip("mlx.core")

from autotuner.cli import fit, main
from autotuner.journal import Journal, RunRecord, TelemetryRecord, journal_path, model_key
from autotuner.knobs import declare
from autotuner.messages import Declaration
from tests.cli.digits import toml

GIB = 2**30


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOTUNER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(fit, "_available", lambda *_: 8.0 * GIB)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "train.toml"
    path.write_text(toml(100))
    return str(path)


def a_declaration(**model):
    knobs = (declare("micro_batch", 16, [4, 8, 16]), declare("pace", 1.0, [0.5, 1.0]))
    return Declaration("cats-1", "cats", 1, 1.0, 1.0, knobs, "accelerate-mps", budget_steps=100, model={"batch": 16, **model})


def past_run(tmp_path, declared, peak, run_id):
    """One ended run in the journal, with a fast step, a paced one, and one of another micro-batch."""
    state = tmp_path / "state"
    state.mkdir(exist_ok=True)
    declared = replace(declared, run_id=run_id)
    with Journal(journal_path(state)) as journal:
        journal.write(
            RunRecord(run_id, "cats", declared.framework, model_key(declared), declared.to_json(), 1.0, 1.0, ended_unix=9.0,
                      outcome="finished", peak_bytes=peak)
        )  # fmt: skip
        for values, seconds, used in (([16, 1.0], 0.5, peak), ([16, 0.5], 1.0, peak), ([4, 1.0], 0.1, peak // 4)):
            row = TelemetryRecord(
                run_id, 2.0 + seconds, 1, 16, 0.1, seconds, 32.0, used, 0, used, None, 1, 0, json.dumps(values)
            )
            journal.write(row)


def run_json(tmp_path, declared):
    path = tmp_path / "run.json"
    path.write_text(declared.to_json())
    return str(path)


def test_a_probe_says_that_a_small_training_fits_and_how_long_it_takes(config, capsys):
    assert main(["fit", config, "--steps", "3", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["fits"] is True
    assert 2**20 < said["needed_bytes"]["low"] <= said["needed_bytes"]["high"] < 4 * GIB
    assert 0 < said["step_seconds"]["low"] <= said["step_seconds"]["high"]
    assert (said["source"], said["budget_steps"]) == ("a probe of 3 steps on this machine", 100)


def test_a_machine_that_is_too_small_is_answered_by_the_exit_code(config, capsys, monkeypatch):
    monkeypatch.setattr(fit, "_available", lambda *_: 10.0 * 2**20)
    assert main(["fit", config, "--steps", "3"]) == 1
    said = capsys.readouterr().out
    assert "does not fit." in said
    assert "a smaller micro_batch or resolution needs less" in said


def test_a_probe_that_runs_out_of_memory_does_not_fit(config, capsys, monkeypatch):
    found = fit.Probed(problem="in the probe, MLX ran out of memory", out_of_memory=True)
    monkeypatch.setattr(fit, "_probed", lambda *_: found)
    assert main(["fit", config]) == 1
    assert "does not fit: in the probe, MLX ran out of memory." in capsys.readouterr().out


def test_the_runs_of_any_trainer_are_judged_by_its_own_past(tmp_path, capsys):
    declared = a_declaration(parameters=1000)
    past_run(tmp_path, declared, 2 * GIB, "cats-old")
    assert main(["fit", run_json(tmp_path, declared)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("cats fits.")
    assert "2 GiB (2 GiB to 2.2 GiB), as 1 earlier run of this model showed" in said
    assert "500 ms an optimizer step, 32 images/s" in said
    assert "50.0 s for 100 steps" in said or "50 s for 100 steps" in said


def test_other_sizes_of_a_model_tell_its_memory(tmp_path, capsys):
    for parameters in (1000, 2000, 4000):
        past_run(tmp_path, a_declaration(parameters=parameters), parameters * 2**20, f"cats-{parameters}")
    assert main(["fit", run_json(tmp_path, a_declaration(parameters=40_000)), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["source"] == "3 earlier runs of other sizes"
    assert said["needed_bytes"]["likely"] > 8 * GIB
    assert said["step_seconds"]["likely"] == pytest.approx(0.5, rel=0.5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing.toml"], "nothing.toml: no such file; allowed is a TOML file of autotuner train, or the run.json"),
        (["RUN"], "nothing is known of it: no earlier run on this machine was alike"),
        (["RUN", "--set", "budget.steps=3"], "changes a TOML file"),
        (["CONFIG", "--no-probe"], "no earlier run on this machine was alike, and --no-probe was given"),
    ],
)
def test_what_cannot_be_judged_is_said(words, said, config, tmp_path, capsys):
    run = run_json(tmp_path, a_declaration())
    assert main(["fit", *({"RUN": run, "CONFIG": config}.get(word, word) for word in words)]) == 2
    assert said in capsys.readouterr().err
