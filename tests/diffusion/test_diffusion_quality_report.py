from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from autotuner.diffusion import checkpoint, result
from autotuner.diffusion.held_out import HeldOut
from autotuner.diffusion.quality.frechet import frechet_distance
from autotuner.diffusion.quality.report import compare, evaluate_checkpoint, report
from autotuner.diffusion.quality.sets import ComparisonError

STEPS = {"teacher": (2, 8), "student": (2,)}


@pytest.fixture
def trained(make_trainer, take):
    trainer = make_trainer(paired_images=4, sigma_max=10.0)
    take(trainer, 30)
    return trainer


@pytest.fixture
def with_student(trained, take):
    trained.set_knob("distill", 1)
    take(trained, 2)
    return trained


def test_every_sampler_has_a_row_of_every_measure(with_student):
    found = report(with_student.evaluator, STEPS)
    assert [(row.who, row.steps, row.evaluations) for row in found.rows] == [
        ("teacher", 2, 2),
        ("teacher", 8, 8),
        ("student", 2, 2),
    ]
    for row in found.rows:
        values = [row.distances.frechet, row.distances.kernel, row.distances.kernel_standard_error, row.paired_error]
        assert all(math.isfinite(value) for value in values)
        assert min(row.distances.precision, row.distances.recall, row.distances.coverage) >= 0
        assert math.isnan(row.class_agreement), "principal components know no classes"


def test_without_a_student_there_are_rows_of_the_teacher_alone(trained):
    assert {row.who for row in report(trained.evaluator, STEPS, paired_images=0).rows} == {"teacher"}


def test_every_value_has_a_floor_of_its_own_count(trained, stripes):
    found = report(trained.evaluator, {}, images=50, paired_images=0)
    assert found.images == 50
    assert found.floor.precision > 0.5
    assert found.floor.recall > 0.5
    noise = np.random.default_rng(0).integers(0, 255, stripes.held_out_images.shape, np.uint8)
    space = trained.evaluator.features
    real = space.project(stripes.images[:60])
    assert compare(space.project(noise), real).frechet > 10 * frechet_distance(space.project(stripes.held_out_images), real)


def test_more_images_than_held_out_ones_are_lowered_to_their_number(trained, stripes):
    assert report(trained.evaluator, {}, images=5000, paired_images=0).images == len(stripes.held_out_images)


def test_too_few_real_pictures_give_no_distances(trained):
    found = report(trained.evaluator, {"teacher": (2,)}, images=10, paired_images=0)
    assert math.isnan(found.floor.frechet)
    assert math.isnan(found.rows[0].distances.kernel)


def test_unequal_counts_are_refused_even_where_they_are_few():
    with pytest.raises(ComparisonError):
        compare(np.zeros((5, 2)), np.zeros((6, 2)))


def test_more_steps_come_nearer_to_the_converged_solution(trained):
    found = report(trained.evaluator, {"teacher": (2, 8, 32)}, paired_images=8)
    errors = [row.paired_error for row in found.rows]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 2 * errors[-1]
    assert found.reference.solver == "heun"
    assert found.reference.evaluations == 2 * found.reference.steps - 1
    assert found.reference.converged == (found.reference.change <= 1 / 255)


def test_a_report_repeats_exactly(trained):
    first, second = (report(trained.evaluator, STEPS).to_dict() for _ in range(2))
    assert json.dumps(first) == json.dumps(second)


def test_held_out_loss_is_measured_at_every_resolution_of_the_ladder(trained):
    found = report(trained.evaluator, {}, paired_images=0).held_out_losses
    assert list(found) == [4, 6, 8]
    assert found[8] == trained.evaluator.held_out_losses().tolist()
    assert all(len(losses) == 10 and np.isfinite(losses).all() for losses in found.values())
    assert len({tuple(losses) for losses in found.values()}) == 3


def test_a_lower_resolution_averages_the_images_and_shrinks_the_levels(stripes):
    seen = []

    class Watched:
        sigma_data = 0.5

        def __getattr__(self, name):
            return getattr(process, name)

        def __call__(self, x, sigma, label):
            seen.append((x.shape, np.array(sigma)))
            return x

    from autotuner.diffusion.precondition import PROCESSES

    process = PROCESSES["edm"]
    Watched.process = process
    for resolution in (8, 4):
        HeldOut(stripes, 20, resolution).losses(Watched())
    (full, levels), (low, lower) = seen
    assert (full, low) == ((20, 8, 8, 1), (20, 4, 4, 1))
    assert lower == pytest.approx(levels / 2)


def test_a_checkpoint_is_measured_as_its_training_was(with_student, stripes, tmp_path):
    expected = report(with_student.evaluator, STEPS)
    checkpoint.save(with_student, tmp_path / "checkpoint.safetensors")
    found = evaluate_checkpoint(tmp_path / "checkpoint.safetensors", stripes, STEPS)
    assert json.dumps(found.to_dict()) == json.dumps(expected.to_dict())


def test_the_result_of_a_training_holds_the_table(make_trainer, tmp_path):
    trainer = make_trainer(steps=4, paired_images=2, out=tmp_path)
    for _ in trainer.steps():
        pass
    result.conclude(trainer, tmp_path)
    found = json.loads((tmp_path / result.FILE_NAME).read_text())["quality"]
    assert (found["features"], found["images"], found["neighbours"]) == ("frechet_pca64", 32, 5)
    assert [row["who"] for row in found["rows"]][:2] == ["teacher", "teacher"]
    assert sorted(found["held_out_losses"]) == ["4", "6", "8"]


def test_the_quality_of_a_run_can_be_measured_on_the_features_of_a_classifier(make_trainer, stripes):
    trainer = make_trainer(quality_features="classifier")
    assert trainer.evaluator.features.metric == "frechet_pca64", "stripes have no network of their own"
    known = replace(stripes, name="fashion-mnist")
    from autotuner.diffusion.trainer import Trainer

    assert Trainer(trainer.config, known).evaluator.features.metric == "frechet_classifier_fashion"
