from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from autotuner.diffusion.data import BucketedDataset, read_buckets
from autotuner.diffusion.data.shapes import Shape, _candidates, assign, choose_shapes, cut
from autotuner.diffusion.trainer import Trainer
from autotuner.errors import DatasetError
from autotuner.messages import FLAG_FIRST_OF_SHAPE


def total_cut(sizes, shapes):
    return sum(min(cut(height / width, shape) for shape in shapes) for height, width in sizes)


def some_sizes(count, seed=0):
    generator = np.random.default_rng(seed)
    return [(int(height), int(width)) for height, width in generator.integers(40, 120, (count, 2))]


def test_the_chosen_shapes_cut_as_little_as_any_choice_of_as_many():
    sizes = some_sizes(30)
    for at_most in (1, 2, 3):
        chosen = choose_shapes(sizes, [32], 8, at_most)
        best = min(total_cut(sizes, shapes) for shapes in combinations(_candidates(32, 8), at_most))
        assert total_cut(sizes, chosen) == pytest.approx(best)


def test_shapes_keep_the_budget_and_the_unit_and_are_few():
    shapes = choose_shapes(some_sizes(200), [32, 48], 4)
    assert 2 <= len(shapes) <= 8
    assert all(shape.height % 4 == 0 and shape.width % 4 == 0 for shape in shapes)
    assert all(shape.height * shape.width <= shape.budget**2 for shape in shapes)
    assert {shape.budget for shape in shapes} == {32, 48}


def test_a_picture_goes_to_the_nearest_aspect_of_the_largest_budget_that_it_fills():
    shapes = [Shape(16, 16, 16), Shape(8, 32, 16), Shape(32, 32, 32), Shape(16, 64, 32)]
    assert assign((20, 20), shapes) == 0
    assert assign((10, 40), shapes) == 1
    assert assign((500, 400), shapes) == 2
    assert assign((100, 390), shapes) == 3
    assert assign((5, 6), shapes) == 0


def test_square_pictures_need_one_square_shape():
    assert choose_shapes([(64, 64)] * 5, [32], 4) == [Shape(32, 32, 32)]


@pytest.mark.parametrize(("edges", "unit"), [([], 4), ([8], 16), (list(range(16, 64, 4)), 4)])
def test_budgets_that_hold_no_shapes_are_refused_with_what_is_allowed(edges, unit):
    with pytest.raises(DatasetError, match="allowed are 1 to 8 edges"):
        choose_shapes([(10, 10)], edges, unit)


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(2)
    for number in range(41):
        height, width = ((30, 60), (60, 30), (40, 44))[number % 3]
        pixels = generator.integers(0, 255, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number:02d}.png")
        (tmp_path / f"{number:02d}.txt").write_text(f"picture {number}\n")
    return tmp_path


def test_every_picture_comes_exactly_once_an_epoch_and_every_batch_has_one_shape(folder):
    dataset = read_buckets(folder, 16, 4, held_out=4)
    batches = [dataset.batch(first, 8, 1, 16) for first in range(0, dataset.epoch_images(8), 8)]
    counted = Counter(int(i) for batch in batches for i, weight in zip(batch.indices, batch.weights, strict=True) if weight)
    assert counted == Counter(range(37))
    shapes = {batch.images.shape for batch in batches}
    assert shapes == {(8, height, width, 3) for height, width in dataset.shapes_at(16)}
    assert len(shapes) == 3
    again = [dataset.batch(first, 8, 1, 16) for first in range(0, dataset.epoch_images(8), 8)]
    assert all(np.array_equal(one.indices, other.indices) for one, other in zip(batches, again, strict=True))


def test_pictures_of_a_batch_that_is_filled_up_stand_anywhere_in_it_and_so_see_every_noise_level(folder):
    dataset = read_buckets(folder, 16, 4, held_out=4)
    ten_epochs = range(0, 10 * dataset.epoch_images(64), 64)
    places = np.concatenate([np.flatnonzero(dataset.batch(first, 64, 1, 16).weights) for first in ten_epochs])
    assert np.histogram(places, 4, (0, 64))[0].min() > 0.15 * len(places)


def test_the_next_epoch_and_another_seed_have_another_order(folder):
    dataset = read_buckets(folder, 16, 4, held_out=4)
    epoch = dataset.epoch_images(8)

    def order(first, seed):
        return np.concatenate([dataset.batch(first + at, 8, seed, 16).indices for at in range(0, epoch, 8)]).tolist()

    assert order(0, 1) != order(epoch, 1)
    assert order(0, 1) != order(0, 2)


def test_a_bucket_may_be_shown_smaller_in_multiples_of_the_unit(folder):
    dataset = read_buckets(folder, 16, 4, held_out=4)
    assert all(height % 4 == 0 and width % 4 == 0 for height, width in dataset.shapes_at(8))
    batch = dataset.batch(0, 8, 1, 8)
    assert batch.images.shape[1:3] in dataset.shapes_at(8)
    assert np.array_equal(batch.indices, dataset.batch(0, 8, 1, 16).indices)


def test_captions_stay_with_their_pictures_and_squares_serve_the_evaluation(folder):
    dataset = read_buckets(folder, 16, 4, held_out=4)
    assert dataset.images.shape == (37, 16, 16, 3)
    assert dataset.held_out_images.shape == (4, 16, 16, 3)
    assert sorted((*dataset.captions, *dataset.held_out_captions)) == sorted(f"picture {number}" for number in range(41))
    for bucket in dataset.buckets:
        for member in bucket.members:
            number = int(dataset.captions[member].split()[1])
            wide = number % 3 == 0
            assert (bucket.shape.width > bucket.shape.height) == wide


def test_a_position_between_two_batches_is_refused(folder):
    with pytest.raises(DatasetError, match="position 12, batch of 8"):
        read_buckets(folder, 16, 4, held_out=4).batch(12, 8, 1, 16)


def test_a_training_takes_batches_of_the_pictures_own_shapes(folder, tiny_config):
    dataset = read_buckets(folder, 16, 4, held_out=4)
    unet = {"network": "unet", "model": {"width": 8, "depth": 2}, "fixed": {}, "resolution": 16, "resolutions": (8, 16)}
    sizes = {"batch": 8, "micro_batch": 8, "micro_batches": (4, 8), "held_out_images": 4}
    config = replace(tiny_config, **unet, **sizes, steps=12, student_ladder=())
    trainer, seen = Trainer(config, dataset), []
    taken, trainer.batches.take = trainer.batches.take, lambda wanted: seen.append(taken(wanted)) or seen[-1]
    records = list(trainer.steps())
    shapes = [given.shown[0].images.shape[1:3] for given in seen]
    assert set(shapes) == set(dataset.shapes_at(16))
    first = [shape not in shapes[:number] for number, shape in enumerate(shapes)]
    assert [bool(record.flags & FLAG_FIRST_OF_SHAPE) for record in records] == first
    assert all(np.isfinite(record.loss) for record in records)


def test_a_picture_that_only_fills_up_a_batch_teaches_nothing(folder, tiny_config):
    class Changed(BucketedDataset):
        def batch(self, *request):
            batch = super().batch(*request)
            return batch._replace(images=np.where(batch.weights[:, None, None, None] == 0, 255 - batch.images, batch.images))

    def losses(dataset):
        unet = {"network": "unet", "model": {"width": 8, "depth": 2}, "fixed": {}, "resolution": 16, "resolutions": (8, 16)}
        sizes = {"batch": 8, "micro_batch": 8, "micro_batches": (4, 8), "held_out_images": 4, "steps": 7}
        return [record.loss for record in Trainer(replace(tiny_config, **unet, **sizes), dataset).steps()]

    dataset = read_buckets(folder, 16, 4, held_out=4)
    same = {field.name: getattr(dataset, field.name) for field in fields(dataset) if field.name != "_resized"}
    assert losses(Changed(**same)) == losses(dataset)
