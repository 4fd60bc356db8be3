"""Forms of multi-resolution training: what each step shows, that nothing is lost at a switch, and that resuming is exact."""

from __future__ import annotations

import importlib.util
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autotuner.diffusion import checkpoint, multires
from autotuner.diffusion.blas import mx
from autotuner.diffusion.dit import DiT
from autotuner.diffusion.multires import FORMS, Multires, View, configured, show
from autotuner.errors import ConfigurationError
from autotuner.messages import FLAG_FIRST_OF_SHAPE

EVERY_FORM = {
    "fixed": {},
    "progressive": {"rungs": [4, 6], "share": 0.6},
    "mixed": {"rungs": [4], "share": 0.6, "probability": 0.5},
    "crops": {"rungs": [4], "share": 0.6},
    "patches": {"rungs": [4], "share": 0.6},
    "high_noise": {"rungs": [4], "share": 0.6},
    "levels": {"rungs": [4], "share": 0.6, "tokens_constant": True},
}


@pytest.fixture
def make(make_trainer, tiny_config):
    """A tiny trainer of one form, with a coarse embedding where the form needs it."""

    def build(form, **changes):
        fixed = {**tiny_config.fixed, **({"coarse_patch": 4} if form == "patches" else {})}
        settings = {"form": form, **EVERY_FORM[form], **changes.pop("multires", {})}
        return make_trainer(**{"steps": 30, "student_ladder": (), "multires": settings, "fixed": fixed, **changes})

    return build


def ends(trainer):
    """Loss of each step."""
    return [progress.loss for progress in trainer.steps()]


def test_every_form_of_the_table_has_a_test_configuration():
    assert set(EVERY_FORM) == set(FORMS)


@pytest.mark.parametrize("form", FORMS)
def test_a_form_learns_and_takes_every_step_and_every_picture_once(make, form):
    trainer = make(form)
    before = trainer.evaluator.held_out_losses().mean()
    records = list(trainer.steps())
    assert [record.step for record in records] == list(range(1, 31))
    assert all(np.isfinite(record.loss) for record in records)
    taken = np.diff([0, *(record.images for record in records)])
    assert set(taken) <= {16, 64}, "a step takes the batch, or as many pictures as its tokens allow"
    assert trainer.evaluator.held_out_losses().mean() < before - 0.02


@pytest.mark.parametrize("form", FORMS)
def test_a_switch_costs_no_step_and_few_shapes(make, form):
    """Only the first step of a shape pays a trace: at most two around each switch, and never more than MAX_SHAPES in all."""
    trainer = make(form)
    records = list(trainer.steps())
    firsts = [record.step for record in records if record.flags & FLAG_FIRST_OF_SHAPE]
    assert firsts[0] == 1
    assert len(firsts) <= 3
    assert len(trainer.shapes) <= multires.MAX_SHAPES
    assert len(trainer.stages.teacher.signatures) <= multires.MAX_SHAPES
    assert trainer.stages.teacher.state.moments.updates.item() == len(records), "no update was lost at a switch"


def test_an_empty_table_and_the_fixed_form_are_the_same_bit_for_bit(make_trainer):
    plain = make_trainer(steps=6)
    fixed = make_trainer(steps=6, multires={"form": "fixed"})
    assert ends(plain) == ends(fixed)
    assert mx.array_equal(plain.stages.teacher.state.weights, fixed.stages.teacher.state.weights)


@pytest.mark.parametrize("form", FORMS)
def test_a_resumed_run_repeats_the_unbroken_one_exactly(make, form, tmp_path, take):
    unbroken = make(form)
    expected = ends(unbroken)
    broken = make(form)
    first = [record.loss for record in take(broken, 11)]
    checkpoint.save(broken, tmp_path / "c.safetensors")
    resumed = make(form)
    checkpoint.restore(resumed, tmp_path / "c.safetensors")
    assert first + ends(resumed) == expected
    assert mx.array_equal(unbroken.stages.teacher.state.weights, resumed.stages.teacher.state.weights)


def test_the_last_steps_of_every_form_are_full_ones(make):
    for form in FORMS:
        config = configured({"form": form, **EVERY_FORM[form]})
        assert all(config.views(8, used, 3, 7) == (View(8),) for used in (0.6, 0.8, 1.0))
        assert config.planned_edge(8, 0.6) == 8


def test_progressive_climbs_its_rungs_by_the_knob(make):
    trainer = make("progressive")
    edges = [record.resolution for record in trainer.steps()]
    assert edges == [4] * 9 + [6] * 9 + [8] * 12
    assert [(change["old"], change["new"], change["by"]) for change in trainer.knobs.history()] == [
        (8, 4, "plan"),
        (4, 6, "plan"),
        (6, 8, "plan"),
    ]


def test_progressive_leaves_a_resolution_alone_that_the_script_has_set(make, take):
    trainer = make("progressive")
    take(trainer, 3)
    trainer.set_knob("resolution", 8)
    assert {record.resolution for record in trainer.steps()} == {8}


def test_mixed_draws_the_same_edges_again_and_others_with_another_seed():
    config = configured({"form": "mixed", **EVERY_FORM["mixed"]})

    def edges(seed):
        return [config.views(8, 0.1, seed, step)[0].edge for step in range(200)]

    assert edges(1) == edges(1) != edges(2)
    assert 70 < edges(1).count(4) < 130


def test_a_lowered_knob_overrules_the_form(make, take):
    trainer = make("levels")
    trainer.set_knob("resolution", 6)
    assert {record.resolution for record in take(trainer, 3)} == {6}


def test_tokens_stay_constant_where_that_is_asked():
    config = Multires("levels", rungs=(16,), tokens_constant=True)
    assert config.factor(config.views(28, 0.0, 0, 0), 28, 4) == 3, "49 tokens against 16"
    assert config.factor((View(28),), 28, 4) == 1
    assert replace(config, tokens_constant=False).factor(config.views(28, 0.0, 0, 0), 28, 4) == 1


def test_the_learning_rate_rises_again_after_each_switch():
    config = Multires("progressive", share=0.5, rungs=(4, 6), rewarm=0.1)
    rates = [round(config.rate(used), 3) for used in (0.1, 0.25, 0.3, 0.36, 0.5, 0.55, 0.7)]
    assert rates == [1.0, 0.05, 0.5, 1.0, 0.05, 0.5, 1.0]


def test_noisier_pictures_are_the_small_ones(make):
    trainer = make("levels")
    views = trainer.multires.views(8, 0.0, 0, 0)
    assert [view.crop for view in views] == [True, False]
    (together,) = trainer._draw(views, 64)
    levels, centres = np.array(together[4]), np.array(together[5])
    fine, coarse = levels[:32], levels[32:] / (4 / 8)
    assert fine.max() <= coarse.min(), "levels are compared in units of full resolution"
    np.testing.assert_allclose(centres[32:], np.broadcast_to([0.25, 0.75], (32, 2, 2)), err_msg="whole pictures")
    np.testing.assert_allclose(np.diff(centres[:32]), 0.25, err_msg="tokens of a crop lie closer")


def test_the_drawn_levels_are_those_of_a_full_step(make):
    trainer = make("high_noise")
    parts = trainer._draw(trainer.multires.views(8, 0.0, 0, 0), 16)
    together = np.concatenate([np.array(part[4]) * 8 / part[1].shape[1] for part in parts])
    (full,) = trainer._draw((View(8),), 16)
    np.testing.assert_allclose(together, np.array(full[4]), rtol=1e-6)


def test_a_crop_shows_the_pixels_that_its_centres_name():
    images = np.arange(5 * 8 * 8, dtype=np.uint8).reshape(5, 8, 8, 1)
    shown = show(View(4, crop=True, located=True), images, 8, 2, np.random.default_rng(3))
    assert shown.centres is not None
    corners = np.rint((shown.centres[:, :, 0] - 0.5 / 4) * 8).astype(int)
    assert len({tuple(corner) for corner in corners}) > 1
    for picture, crop, (y, x) in zip(images, shown.images, corners, strict=True):
        np.testing.assert_array_equal(crop, picture[y : y + 4, x : x + 4])


def test_a_crop_of_everything_is_the_whole_picture_to_the_network():
    network = DiT(1, 2, 8, width=16, depth=1, patch=2)
    network.head.weight = mx.random.normal(network.head.weight.shape, key=mx.random.key(1))
    x, level, label = mx.random.normal((3, 8, 8, 1), key=mx.random.key(2)), mx.array([0.1, 0.2, 0.3]), mx.array([0, 1, 2])
    centres = mx.broadcast_to((mx.arange(4) + 0.5) / 4, (3, 2, 4))
    np.testing.assert_allclose(np.array(network(x, level, label, centres)), np.array(network(x, level, label)), atol=1e-5)


def test_the_network_sees_where_a_crop_lies():
    network = DiT(1, 2, 8, width=16, depth=1, patch=2)
    network.head.weight = mx.random.normal(network.head.weight.shape, key=mx.random.key(1))
    x, level, label = mx.random.normal((1, 4, 4, 1), key=mx.random.key(2)), mx.array([0.1]), mx.array([0])
    here, there = (mx.broadcast_to((mx.arange(2) + start + 0.5) / 4, (1, 2, 2)) for start in (0, 2))
    assert mx.abs(network(x, level, label, here) - network(x, level, label, there)).max().item() > 1e-3


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"form": "pyramid"}, "progressive"),
        ({"form": "mixed"}, "rungs is empty"),
        ({"form": "mixed", "rungs": [6, 4]}, "ascending"),
        ({"form": "mixed", "rungs": [5]}, "multiples of 2 for this network"),
        ({"form": ["mixed"], "rungs": [4]}, "allowed: fixed"),
        ({"form": "mixed", "rungs": [4], "tokens_constant": 3}, "allowed is true or false"),
        ({"form": "mixed", "rungs": [4], "share": 1.5}, "0 to 1"),
        ({"form": "high_noise", "rungs": [4], "split": 0.3}, "no multiple"),
        ({"form": "patches", "rungs": [4]}, "coarse_patch"),
        ({"shape": 3}, "multires.shape is unknown; allowed: form, share"),
        ({"form": "mixed", "rungs": 5}, "multires.rungs 5; allowed is a list of whole numbers"),
        ({"form": "mixed", "rungs": [True]}, "allowed is a list of whole numbers"),
        ({"form": "mixed", "rungs": [4], "share": True}, "multires.share True; allowed is a number"),
        ({"form": "mixed", "rungs": [4], "split": "half"}, "multires.split 'half'; allowed is a number"),
    ],
)
def test_what_cannot_be_done_is_refused_with_what_can(tiny_config, settings, names):
    with pytest.raises(ConfigurationError, match=names):
        replace(tiny_config, multires=settings)


def test_rungs_of_progressive_join_the_ladder_of_the_knob(tiny_config):
    config = replace(tiny_config, resolutions=(8,), multires={"form": "progressive", "rungs": [4, 6]})
    assert config.declarations()["resolution"].values == (4, 6, 8)


@pytest.mark.parametrize("rungs", [[4, 8], [12], list(range(2, 20, 2))])
def test_rungs_that_the_pictures_do_not_allow_are_refused(make_trainer, rungs):
    with pytest.raises(ConfigurationError, match="allowed are"):
        make_trainer(multires={"form": "progressive", "rungs": rungs})


def test_edges_that_the_network_cannot_divide_are_refused_before_a_knob_moves_there(tiny_config, make_trainer):
    unet = {"network": "unet", "model": {"width": 8, "depth": 3}, "fixed": {}}
    with pytest.raises(ConfigurationError, match=r"rungs \(6,\); allowed are multiples of 4"):
        replace(tiny_config, **unet, multires={"form": "mixed", "rungs": [6]})
    with pytest.raises(ConfigurationError, match=r"resolutions \(4, 6, 8\); allowed are multiples of 4"):
        replace(tiny_config, **unet).declarations()
    coarse = {"fixed": {**tiny_config.fixed, "coarse_patch": 6}, "multires": {"form": "patches", "rungs": [6]}}
    with pytest.raises(ConfigurationError, match="divisors of 8 pixels"):
        make_trainer(**coarse)


def test_crops_need_a_network_that_takes_coordinates(tiny_config):
    with pytest.raises(ConfigurationError, match="needs the network 'dit'"):
        replace(tiny_config, network="unet", model={"width": 8, "depth": 2}, fixed={}, multires={"form": "crops", "rungs": [4]})


@pytest.fixture(scope="module")
def benchmark():
    """benchmarks/multires.py as a module."""
    file = Path(__file__).parents[2] / "benchmarks" / "multires.py"
    spec = importlib.util.spec_from_file_location("multires_benchmark", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_benchmark_reads_times_off_the_curves(benchmark):
    fixed = {"curve": [(0.0, 0, 1.0), (10.0, 5, 0.6), (20.0, 9, 0.4)], "distances": {"d": 2.0}}
    form = {"curve": [(0.0, 0, 1.0), (4.0, 5, 0.6), (8.0, 9, 0.3), (20.0, 30, 0.2)], "distances": {"d": 1.0}}
    ratios = benchmark.compare(form, fixed)
    assert ratios["time_ratio"] == pytest.approx((4 + 4 * 2 / 3) / 20)
    assert ratios["early_time_ratio"] == pytest.approx(3 / 7.5), "halfway from 1.0 to 0.4 is 0.7"
    assert ratios["end_loss_ratio"] == pytest.approx(0.5)
    assert ratios["fd_ratio_d"] == 0.5
    assert math.isnan(benchmark.compare(fixed, form)["time_ratio"]), "a level that is never reached has no time"


def test_the_benchmark_counts_no_time_of_an_arm_that_stands(benchmark, stripes, tiny_config):
    clock = benchmark.OwnClock()
    trainer = benchmark.Trainer(replace(tiny_config, steps=3, student_ladder=()), stripes, clock=clock)
    arm = benchmark.Arm("fixed", trainer, clock)
    assert arm.advance()
    stood = clock()
    sum(range(10**5))
    arm.measure()
    assert clock() == stood > 0
    while arm.advance():
        pass
    assert [steps for _, steps, _ in arm.curve][-1] == 3
