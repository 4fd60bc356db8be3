from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autotuner.diffusion.data import Augment
from autotuner.diffusion.data.augment import hue_turns, uniforms


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 255, (64, 12, 16, 3), np.uint8)


def test_what_an_image_becomes_follows_from_seed_and_position_alone(pictures):
    whole = Augment()(pictures, 3, 100)
    assert np.array_equal(Augment()(pictures[40:], 3, 140), whole[40:])
    assert not np.array_equal(Augment()(pictures, 4, 100), whole)
    assert not np.array_equal(Augment()(pictures, 3, 101), whole)
    assert whole.shape == pictures.shape
    assert whole.dtype == np.uint8


def test_half_of_the_images_are_mirrored(pictures):
    same = np.broadcast_to(pictures[:1], (400, *pictures.shape[1:]))
    mirrored = Augment(shift=0, hue_radians=0)(same, 0, 0)
    turned = np.array([np.array_equal(image, pictures[0, :, ::-1]) for image in mirrored])
    kept = np.array([np.array_equal(image, pictures[0]) for image in mirrored])
    assert np.all(turned ^ kept)
    assert 150 < turned.sum() < 250


def test_an_image_moves_no_farther_than_its_share_and_its_border_repeats():
    image = np.zeros((200, 16, 16, 1), np.uint8)
    image[:, 8, 8] = 255
    moved = Augment(flip=False, shift=1 / 8)(image, 0, 0)
    _, rows, columns, _ = np.nonzero(moved)
    assert set(rows - 8) == set(columns - 8) == {-2, -1, 0, 1, 2}
    white = np.full((50, 16, 16, 3), 255, np.uint8)
    assert np.all(Augment()(white, 0, 0) == 255)


def test_hue_turns_colours_and_leaves_grey_alone(pictures):
    grey = np.repeat(pictures[..., :1], 3, axis=3)
    only_hue = Augment(flip=False, shift=0, hue_radians=1.0)
    assert np.array_equal(only_hue(grey, 0, 0), grey)
    assert not np.array_equal(only_hue(pictures, 0, 0), pictures)
    [third] = hue_turns(np.array([2 * np.pi / 3]))
    assert np.allclose(abs(np.eye(3) @ third), np.roll(np.eye(3), 1, axis=1), atol=1e-6) or np.allclose(
        abs(np.eye(3) @ third), np.roll(np.eye(3), -1, axis=1), atol=1e-6
    )


def test_the_chances_are_uniform_and_independent_of_where_a_batch_begins():
    numbers = uniforms(7, 0, 50_000, 4)
    assert np.array_equal(uniforms(7, 300, 10, 4), numbers[300:310])
    assert np.allclose(numbers.mean(axis=0), 0.5, atol=0.01)
    assert np.allclose(np.histogram(numbers, 20, (0, 1))[0] / numbers.size, 0.05, atol=0.003)
    assert np.allclose(np.corrcoef(numbers.T), np.eye(4), atol=0.02)


def test_a_dataset_augments_its_batches_and_never_what_is_held_out(stripes):
    dataset = replace(stripes, augmentation=Augment(), _resized={})
    batch, plain = dataset.batch(32, 16, 0, 8), stripes.batch(32, 16, 0, 8)
    assert np.array_equal(batch.images, Augment()(plain.images, 0, 32))
    assert np.array_equal(batch.labels, plain.labels)
    assert dataset.held_out_images is stripes.held_out_images
