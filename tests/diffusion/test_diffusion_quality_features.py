from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autotuner.diffusion import data, features
from autotuner.diffusion.config import TrainerConfig
from autotuner.diffusion.quality import weights
from autotuner.diffusion.quality.classifier import Classifier
from autotuner.diffusion.quality.network import FEATURES
from autotuner.diffusion.quality.report import compare
from autotuner.diffusion.quality.train_features import RECIPES, augment
from autotuner.errors import ArtefactError, ConfigurationError, DatasetError


def pictures(name, count=40, edge=28, channels=1):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, edge, edge, channels), np.uint8)
    labels = np.zeros(count, np.int32)
    return data.Dataset(name, "made for tests", images, labels, images[:8], labels[:8])


def installed(read):
    try:
        return read()
    except DatasetError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", weights.TRAINED)
def test_every_committed_network_is_the_one_whose_hash_is_known_and_small(name):
    network, head = weights.load(name)
    row = weights.TRAINED[name]
    assert (weights.FOLDER / row.file).stat().st_size <= 300_000
    assert (network.edge, head is not None) == (row.edge, row.classes > 0)


def test_every_recipe_makes_a_network_that_is_committed():
    assert {(recipe.dataset, recipe.edge) for recipe in RECIPES.values()} == {
        (name, row.edge) for name, row in weights.TRAINED.items()
    }


def test_other_weights_are_refused(tmp_path):
    row = weights.TRAINED["emoji"]
    right = (weights.FOLDER / row.file).read_bytes()
    (tmp_path / row.file).write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    with pytest.raises(ArtefactError, match=rf"emoji\.safetensors: sha256 is .*, allowed is {row.sha256}"):
        weights.load("emoji", tmp_path)


def test_missing_weights_are_told_by_name(tmp_path):
    with pytest.raises(ArtefactError, match=r"emoji\.safetensors: No such file"):
        weights.load("emoji", tmp_path)


def test_the_fashion_network_knows_its_classes_and_its_features_are_standardised():
    fashion = installed(lambda: data.find("fashion-mnist"))
    space = features.find("classifier", fashion)
    found = space.project(fashion.images[:4000])
    assert space.metric == "frechet_classifier_fashion"
    assert found.shape == (4000, FEATURES)
    assert np.abs(found.mean(axis=0)).max() < 0.1
    assert np.abs(found.std(axis=0) - 1).max() < 0.1
    seen = space.classify(space.project(fashion.held_out_images))
    assert (seen == fashion.held_out_labels).mean() >= 0.9


def test_the_emoji_network_recognises_held_out_pictures_that_were_changed():
    emoji = installed(lambda: data.read_emoji(32))
    space = features.find("classifier", emoji)
    copies = augment(emoji.held_out_images, RECIPES["emoji"], np.random.default_rng(1))
    pixels = np.rint((copies + 1) * 127.5).astype(np.uint8)
    ours, theirs = space.project(emoji.held_out_images), space.project(pixels)
    nearest = np.square(theirs[:, None] - ours[None]).sum(axis=2).argmin(axis=1)
    assert (nearest == np.arange(len(ours))).mean() > 0.8


def test_larger_pictures_are_averaged_to_the_edge_of_the_network():
    small = pictures("fashion-mnist")
    large = replace(small, images=small.images.repeat(2, axis=1).repeat(2, axis=2))
    space = Classifier("fashion-mnist", small.images)
    assert space.project(large.images) == pytest.approx(space.project(small.images), abs=1e-4)


def test_a_dataset_without_a_network_keeps_its_principal_components():
    latents = replace(pictures("fashion-mnist"), images=np.zeros((40, 28, 28, 1), np.float32))
    for dataset in (pictures("holidays"), pictures("fashion-mnist", channels=3), latents):
        assert features.find("classifier", dataset).metric == "frechet_pca64"
        assert features.metric_name("classifier", dataset) == "frechet_pca64"


def test_the_name_is_known_before_anything_is_computed():
    assert features.metric_name("pca64", pictures("emoji", channels=3)) == "frechet_pca64"
    assert features.metric_name("classifier", pictures("emoji", channels=3)) == "frechet_classifier_emoji"


def test_unknown_features_are_refused_with_the_allowed_ones():
    with pytest.raises(ConfigurationError, match="quality_features 'inception'; allowed: pca64, classifier"):
        TrainerConfig(quality_features="inception")


def test_components_of_few_pictures_are_those_of_the_covariance():
    images = pictures("holidays", count=30, edge=8).images
    few = features.PrincipalComponents(images, components=5)
    pixels = images.reshape(30, -1) / 127.5 - 1
    expected = np.linalg.eigvalsh(np.cov(pixels, rowvar=False))[::-1][:5]
    assert few.project(images).var(axis=0, ddof=1) == pytest.approx(expected)


def test_components_of_large_pictures_are_computed_on_averages():
    small = pictures("holidays", edge=32).images
    large = small.repeat(2, axis=1).repeat(2, axis=2)
    found, expected = (features.PrincipalComponents(part, components=5).project(part) for part in (large, small))
    assert found == pytest.approx(expected)


def test_damage_to_real_pictures_shows_in_the_measure_it_concerns():
    fashion = installed(lambda: data.find("fashion-mnist"))
    space = features.find("classifier", fashion)
    real, held_out = space.project(fashion.images[:256]), fashion.held_out_images[:256]
    floor = compare(space.project(held_out), real)
    blurred = compare(space.project(data.resize(data.resize(held_out, 7), 28)), real)
    same = compare(space.project(held_out[np.arange(256) // 4]), real)
    half = compare(space.project(fashion.images[fashion.labels < 5][:256]), real)
    assert floor.frechet < 3
    assert abs(floor.kernel) < 2 * floor.kernel_standard_error
    assert floor.precision > 0.9
    assert floor.recall > 0.8
    assert blurred.frechet > 3 * floor.frechet
    assert blurred.coverage < floor.coverage - 0.2
    assert same.recall < floor.recall - 0.2
    assert same.precision > 0.9
    assert half.kernel > 2 * half.kernel_standard_error
