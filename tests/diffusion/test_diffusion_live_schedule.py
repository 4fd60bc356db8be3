"""The grid that follows the teacher: found in a small share of the time, used only where it is better."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autotuner.diffusion.live_schedule import SHARE, Found, LiveSchedule
from autotuner.diffusion.sample import solve, teacher_schedule


@pytest.fixture
def schedule(tiny_config, stripes, clock):
    return LiveSchedule(tiny_config, stripes, (4, 8, 64), clock)


@pytest.fixture
def learned(make_trainer):
    trainer = make_trainer(steps=80, student_ladder=())
    list(trainer.steps())
    return trainer.evaluator.sampler("teacher")


def test_what_a_look_finds_is_nearer_to_the_networks_own_solution(schedule, learned, stripes, tiny_config):
    schedule.look(learned)
    assert sorted(schedule.found) == [4, 8]  # 64 steps are more than a look walks
    grid = schedule.grid(4)
    assert grid is not None
    assert grid[0] == pytest.approx(tiny_config.sigma_max)
    assert grid[-1] == 0
    fresh = stripes.labels[100:164]

    def drawn(sigmas):
        return solve(learned, fresh, (8, 8, 1), sigmas, tiny_config.solver, 91)

    exact = drawn(teacher_schedule(48, tiny_config.sigma_min, tiny_config.sigma_max))
    found, configured = (np.mean((drawn(each) - exact) ** 2) for each in (grid, teacher_schedule(4, 0.02, 40.0)))
    assert found < configured


def test_the_same_network_gives_the_same_grid(schedule, learned):
    schedule.look(learned)
    first = schedule.found
    schedule.found = {}
    schedule.look(learned)
    assert schedule.found == first


def test_a_grid_that_is_no_better_is_not_used(schedule):
    schedule.found = {4: Found((40.0, 1.0, 0.5, 0.1, 0.0), 0.3, 0.3), 8: Found((40.0, 0.0), 0.2, 0.3)}
    assert schedule.grid(4) is None
    assert schedule.grid(8) is not None
    assert schedule.grid(5) is None


def test_looks_stay_within_their_share_of_the_time(tiny_config, stripes, clock):
    schedule = LiveSchedule(tiny_config, stripes, (4,), clock)
    expected = schedule.evaluations() * 1e-3
    assert not schedule.due(expected / SHARE * 0.9, 1e-3)
    assert schedule.due(expected / SHARE * 1.1, 1e-3)
    schedule.looks, schedule.spent_seconds = 1, 3.0
    assert not schedule.due(5.9 / SHARE, 1e-3)
    assert schedule.due(6.1 / SHARE, 1e-3)


def test_previews_of_a_training_use_it(make_trainer, tmp_path):
    trainer = make_trainer(steps=60, student_ladder=(), sampling_steps=4, sampling_ladder=(4,), out=tmp_path)
    trainer._clock.tick = 1e-3
    list(trainer.steps())
    trainer._image_seconds = 0.0
    trainer.evaluate(with_quality=False)
    assert trainer.schedule.looks == 1
    asked = []
    samples = trainer.evaluator.samples
    trainer.evaluator.samples = lambda *given: asked.append(given[-1]) or samples(*given)
    trainer._preview(tmp_path)
    assert np.array_equal(asked[0], trainer.schedule.grid(4))


def test_a_network_that_gives_no_numbers_leaves_what_was_found_before(schedule, learned):
    schedule.look(learned)
    before = dict(schedule.found)
    schedule.look(lambda x, sigma, label: x * float("nan"))
    assert schedule.found == before
    assert schedule.looks == 2


def test_paths_of_large_images_are_fewer_or_none(tiny_config, stripes, clock):
    def of(edge):
        images = np.zeros((40, edge, edge, 3), np.uint8)
        dataset = replace(stripes, images=images, labels=np.zeros(40, np.int32), _resized={})
        return LiveSchedule(tiny_config, dataset, (4,), clock)

    full, fewer, none = (of(edge).evaluations() for edge in (32, 128, 512))
    assert fewer < full
    assert none < fewer
    assert of(128).due(1e9, 1e-6)
    assert not of(512).due(1e9, 1e-6)
