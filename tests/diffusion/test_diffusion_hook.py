"""The engine as a client of the real hook: what a daemon writes arrives, and what happens is told."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from autotuner.diffusion import __main__ as command
from autotuner.diffusion import presets
from autotuner.hook.page import PageWriter
from autotuner.hook.ring import RingReader
from autotuner.messages import Acknowledgement, Declaration, Evaluation, Goodbye, Sample


@pytest.fixture
def attached(tiny_config, stripes, tmp_path):
    """Configuration and run as the command line makes them."""
    options = command.parser().parse_args(["train", "--out", str(tmp_path), "--state-dir", str(tmp_path)])
    return command._attached(tiny_config, stripes, options)


def ask(run, **values):
    """Write a page as the daemon does; returns its revision."""
    declaration = Declaration.from_json((run.directory / "run.json").read_text())
    positions = list(declaration.start)
    for name, value in values.items():
        index = [knob.name for knob in declaration.knobs].index(name)
        positions[index] = declaration.knobs[index].values.index(value)
    writer = PageWriter(run.directory / "knobs.page")
    writer.heartbeat(time.monotonic(), "act")
    revision = writer.write(positions, time.monotonic())
    writer.close()
    return revision


def test_what_the_daemon_asks_for_is_in_force_at_the_next_step_and_acknowledged(attached, make_trainer, take):
    _, run = attached
    trainer = make_trainer(run)
    with run:
        take(trainer, 2)
        revision = ask(run, resolution=4, micro_batch=8)
        records = take(trainer, 2)
        reader = RingReader(run.directory / "telemetry.ring")
    assert [(r.step, r.resolution, r.micro_batch) for r in records] == [(3, 4, 8), (4, 4, 8)]
    told = reader.read()
    acknowledged = [r for r in told if isinstance(r, Acknowledgement)]
    assert [(r.revision, r.step, r.refused) for r in acknowledged] == [(revision, 3, False)]
    assert [(r.step, r.images, r.revision) for r in told if isinstance(r, Sample)] == [
        (1, 16, 0),
        (2, 32, 0),
        (3, 48, revision),
        (4, 64, revision),
    ]
    assert isinstance(told[-1], Goodbye)


def test_every_knob_of_the_table_is_offered_with_its_ladder(attached, tiny_config):
    _, run = attached
    declaration = Declaration.from_json((run.directory / "run.json").read_text())
    assert {knob.name: knob.values for knob in declaration.knobs} == {
        name: knob.values for name, knob in tiny_config.declarations().items()
    }
    assert declaration.quality_metric == "frechet_pca64"
    assert declaration.model == tiny_config.model
    assert declaration.search_space == presets.SEARCH_SPACE["dit"]


def test_the_budget_of_shapes_holds_for_the_daemon_too(tiny_config, stripes, tmp_path):
    options = command.parser().parse_args(["train", "--out", str(tmp_path), "--state-dir", str(tmp_path)])
    _, run = command._attached(replace(tiny_config, max_shapes=3), stripes, options)
    with run:
        assert Declaration.from_json((run.directory / "run.json").read_text()).max_shapes == 3


def test_a_guided_run_distils_when_the_daemon_says_so(attached, make_trainer, take):
    _, run = attached
    trainer = make_trainer(run, steps=10)
    take(trainer, 1)
    ask(run, distill=1)
    assert [r.stage for r in take(trainer, 2)] == [1, 1]
    ask(run, distill=0)
    assert [r.stage for r in trainer.steps()] == [0] * 7  # the plan of the script would have distilled at 70 %


def test_evaluations_reach_the_ring(attached, make_trainer, take):
    _, run = attached
    take(make_trainer(run, evaluate_every_steps=1, quality_every=1), 1)
    (told,) = [r for r in RingReader(run.directory / "telemetry.ring").read() if isinstance(r, Evaluation)]
    assert told.held_out_loss > 0
    assert told.quality > 0
    assert told.quality_steps == 4
    assert told.seconds >= 0
