"""The configuration is checked at the door, and the plan of learning rates does what it says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autotuner.diffusion import betas, plan
from autotuner.diffusion.config import RANGES, TrainerConfig
from autotuner.diffusion.evaluation import way
from autotuner.diffusion.inert import NoRun
from autotuner.diffusion.stages import Stages
from autotuner.errors import ConfigurationError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"solver": "rk4"}, r"solver 'rk4'; allowed: euler, .*ipndm"),
        ({"process": "ddpm"}, r"process 'ddpm'; allowed: edm, vp_epsilon, vp_v, flow"),
        ({"beta_schedule": "square"}, r"beta_schedule 'square'; allowed: linear, scaled_linear, cosine"),
        ({"weighting": "snr"}, r"weighting 'snr'; allowed: edm, min_snr, uniform"),
        ({"precision": "half"}, r"precision 'half'; allowed: float32, bfloat16, float16"),
        ({"ema": "swa"}, r"ema 'swa'; allowed: half_life, power"),
        ({"quality_every": 0}, r"quality_every 0; allowed is 1 to"),
        ({"evaluate_every_steps": 0}, r"evaluate_every_steps 0; allowed is 1 to"),
        ({"student_ladder": (4, 8)}, r"student_ladder \(4, 8\); allowed are whole numbers .*smaller"),
        ({"student_ladder": (8, 0)}, r"student_ladder \(8, 0\)"),
        ({"beta_2": 1.0}, r"beta_2 1\.0; allowed is 0 to 0\.999999"),
        ({"max_norm": 0.0}, r"max_norm 0\.0; allowed is 1e-06"),
        ({"label_dropout": 1.5}, r"label_dropout 1\.5; allowed is 0 to 1"),
        ({"sigma_min": 50.0}, r"sigma_min 50\.0; allowed is less than sigma_max 40\.0"),
        ({"max_shapes": 0}, r"max_shapes 0; allowed is 1 to 64"),
        ({"seed": -1}, r"seed -1; allowed is 0 to"),
        ({"seconds": float("inf")}, r"seconds inf; allowed is a positive number"),
        ({"micro_batches": (0, 16)}, r"micro_batches \(0, 16\); allowed are divisors of the batch of 16"),
        ({"fixed": {"patch": 0}}, r"model\.patch 0; allowed is a whole number from 1"),
        (
            {"network": "unet", "model": {"depth": "deep"}, "fixed": {}},
            r"'unet': model\.depth 'deep'; allowed is a whole number",
        ),
        ({"student_model": {"widht": 8}}, r"student_model has an unknown key 'widht'; allowed: width, depth"),
        ({"student_model": {"width": 8.0}}, r"student_model\.width 8\.0; allowed is a whole number"),
        ({"student_model": {"heads": 4}}, r"student_model\.heads: heads is fixed, for students too"),
        (
            {"network": "unet", "model": {"width": 8, "depth": 2}, "fixed": {}, "student_model": {"depth": 3}},
            r"student_model \{'depth': 3\} divides edges by 4; allowed are divisors of 2",
        ),
        ({"batch": 16.0}, r"batch 16\.0; allowed is a whole number"),
        ({"steps": 2.5}, r"steps 2\.5; allowed is a whole number or nothing"),
        ({"seed": 1.5}, r"seed 1\.5; allowed is a whole number"),
        ({"seed": True}, r"seed True; allowed is a whole number"),
        ({"micro_batches": (16.0,)}, r"micro_batches \(16\.0,\); allowed is a list of whole numbers"),
        ({"student_ladder": (True,)}, r"student_ladder \(True,\); allowed is a list of whole numbers"),
        ({"learning_rate": "fast"}, r"learning_rate 'fast'; allowed is a number"),
        ({"gradient_checkpointing": 1}, r"gradient_checkpointing 1; allowed is true or false"),
        ({"gate": {"advance": "soon"}}, r"gate\.advance 'soon'; allowed is a number"),
        ({"gate": {"advanced": 1.1}}, r"gate\.advanced is unknown; allowed: .*advance, window"),
        ({"sigma_max": 80.0}, r"sigma_max 80\.0; the highest level that 'edm' is trained on is 40"),
        ({"sigma_max": 41.0, "process": "flow"}, r"sigma_max 41\.0; the highest level that 'flow' is trained on is 40"),
        ({"evaluate_every_seconds": 0}, r"evaluate_every_seconds 0; allowed is 0\.001 to"),
        ({"warm_up": -0.1}, r"warm_up -0\.1; allowed is 0 to 1"),
    ],
)
def test_a_wrong_value_is_answered_with_the_allowed_ones(tiny_config, changes, message):
    with pytest.raises(ConfigurationError, match=message):
        replace(tiny_config, **changes)


def test_a_variance_preserving_process_may_be_told_more_than_it_holds(tiny_config):
    config = replace(tiny_config, process="vp_epsilon", beta_schedule="scaled_linear", sigma_max=80.0)
    assert config.levels == pytest.approx((0.0292, 14.6146), rel=1e-2)


def test_whole_numbers_pass_for_numbers(tiny_config):
    assert replace(tiny_config, seconds=5, learning_rate=1, guidance=2).seconds == 5


def test_every_range_is_of_a_field_and_holds_its_default():
    default = TrainerConfig()
    for name, (low, high) in RANGES.items():
        value = getattr(default, name)
        assert value is None or low <= value <= high


def test_a_run_without_students_has_an_empty_ladder(make_trainer):
    records = list(make_trainer(steps=12, student_ladder=()).steps())
    assert {r.stage for r in records} == {0}


def test_the_optimizer_is_the_configured_one(make_trainer, take):
    plain = make_trainer()
    take(plain, 2)
    for change in ({"beta_1": 0.5}, {"beta_2": 0.9}, {"weight_decay": 1.0}, {"max_norm": 1e-3}):
        other = make_trainer(**change)
        take(other, 2)
        assert not np.array_equal(np.array(other.stages.teacher.state.weights), np.array(plain.stages.teacher.state.weights))


def test_a_smaller_norm_clips_harder(make_trainer, take):
    norms = []
    for max_norm in (1e-2, 1e-3):
        trainer = make_trainer(max_norm=max_norm)
        take(trainer, 1)
        norms.append(float(np.linalg.norm(np.array(trainer.stages.teacher.state.moments.first))) / 0.1)
    assert norms == pytest.approx([1e-2, 1e-3], rel=1e-2)


def test_warm_up_is_a_share_of_the_budget_or_a_number_of_steps(make_trainer, take):
    share = [r.learning_rate for r in make_trainer(steps=40, warm_up=0.5).steps()]
    assert np.argmax(share[:28]) == pytest.approx(0.5 * 0.7 * 40 / 1.6, abs=6)
    steps = [r.learning_rate for r in take(make_trainer(steps=400, warm_up_steps=10, student_ladder=()), 16)]
    assert steps[4] / steps[9] == pytest.approx(0.5, rel=0.01)
    assert steps[15] == pytest.approx(5e-3 * plan.teacher_rate(15 / 400, 0, 0.0))


class Guided(NoRun):
    guided = True


def test_a_guided_teacher_goes_on_learning_where_no_student_was_begun(make_trainer):
    unguided = [r.learning_rate for r in make_trainer(steps=40).steps()]
    guided = [r.learning_rate for r in make_trainer(Guided(), steps=40).steps()]
    assert guided[:28] == unguided[:28]  # the plan of the first part is the same
    assert max(guided[29:]) > 0.2 * max(guided[:28])
    assert guided[-1] < 0.05 * max(guided[:28])
    assert {r.stage for r in make_trainer(steps=40).steps()} == {0, 1, 2}


def test_the_second_cycle_rises_once_and_ends_with_the_budget():
    rates = [plan.second_cycle(used) for used in np.linspace(0.7, 1.0, 61)]
    assert rates[0] == 0
    assert plan.second_cycle(0.3) == 0
    assert max(rates) == pytest.approx(plan.RESTART, rel=0.05)
    assert rates[-1] == pytest.approx(0, abs=1e-9)
    assert np.argmax(rates) == pytest.approx(6, abs=1)


@pytest.mark.parametrize("clock", ["cosine", "rho"])
@pytest.mark.parametrize("student_steps", [1, 4])
def test_a_student_learns_and_samples_between_the_levels_that_its_teacher_can_tell(tiny_config, clock, student_steps):
    """With the last draw the segment ends where sampling begins, at the schedule's last step: 14.6 and not 40."""
    config = replace(
        tiny_config,
        process="vp_epsilon",
        beta_schedule="scaled_linear",
        student_ladder=(student_steps,),
        student_clock=clock,
    )
    stages = Stages(config, 1, 2, 8, 0.5)
    stages.enter(1)
    pictures, labels = np.zeros((4096, 8, 8, 1), np.uint8), np.zeros(4096, np.int32)
    starts, _, segment_ends = (np.array(levels) for levels in stages.draw(pictures, labels, 0, 1)[4:7])
    teacher, student = (way(config, who, student_steps)[0] for who in ("teacher", "student"))
    assert starts.max() == pytest.approx(betas.sigmas("scaled_linear")[-1], rel=1e-4)
    assert student[0] == pytest.approx(starts.max(), rel=1e-4)
    assert teacher[0] == pytest.approx(student[0], rel=1e-4)
    assert np.unique(segment_ends) == pytest.approx(student[:0:-1], rel=1e-4)


def test_a_student_that_cannot_be_built_is_refused_before_its_teacher_learns(make_trainer):
    with pytest.raises(ConfigurationError, match="width 9 with 2 heads"):
        make_trainer(student_model={"width": 9})
