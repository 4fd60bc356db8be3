from __future__ import annotations

import builtins
import json

import numpy as np
import pytest
from PIL import Image

from autotuner.diffusion import data
from autotuner.errors import DatasetError

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own, on this or that version


def pictures(count=20):
    return [Image.new("RGB", (30 + number, 20), (number * 10, 0, 200)) for number in range(count)]


@pytest.fixture
def table():
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"]), "text": datasets.Value("string")}
    )
    rows = {"image": pictures(), "label": [n % 2 for n in range(20)], "text": [f"number {n}" for n in range(20)]}
    return datasets.Dataset.from_dict(rows, features=features)


def check(dataset):
    assert dataset.images.shape == (18, 16, 16, 3)
    assert dataset.held_out_images.shape == (2, 16, 16, 3)
    for image, label, caption in zip(dataset.images, dataset.labels, dataset.captions, strict=True):
        number = int(caption.split()[1])
        assert image[0, 0].tolist() == [number * 10, 0, 200]
        assert label == number % 2


def test_a_dataset_in_memory_brings_images_labels_and_captions(table):
    dataset = data.read_hub(table, 16)
    check(dataset)
    assert dataset.label_names == ("cat", "dog")


def test_a_dataset_saved_to_disk_is_found_by_its_folder(table, tmp_path):
    datasets.DatasetDict({"train": table}).save_to_disk(str(tmp_path / "saved"))
    check(data.find(f"hf:{tmp_path / 'saved'}", resolution=16))


def test_a_folder_of_pictures_is_read_by_the_library_too(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    source = tmp_path / "pictures"
    source.mkdir()
    for number, picture in enumerate(pictures()):
        picture.save(source / f"{number}.png")
    lines = [json.dumps({"file_name": f"{number}.png", "text": f"number {number}"}) for number in range(20)]
    (source / "metadata.jsonl").write_text("\n".join(lines))
    dataset = data.find(f"hf:{source}", resolution=16)
    assert all(
        image[0, 0, 0] == 10 * int(text.split()[1]) for image, text in zip(dataset.images, dataset.captions, strict=True)
    )


def test_columns_and_splits_that_do_not_exist_are_answered_with_those_that_do(table):
    with pytest.raises(DatasetError, match=r"no caption column 'title'; allowed: image, label, text"):
        data.read_hub(table, caption="title")
    with pytest.raises(DatasetError, match=r"no split 'train'; allowed: test"):
        data.read_hub(datasets.DatasetDict({"test": table}))
    with pytest.raises(DatasetError, match=r"no column of images; its columns are text"):
        data.read_hub(table.select_columns(["text"]))
    with pytest.raises(DatasetError, match="a list is no dataset"):
        data.read_hub([1, 2])


def test_labels_may_be_any_values(table):
    table = table.remove_columns("label").add_column("label", [("red", "blue")[n % 2] for n in range(20)])
    dataset = data.read_hub(table, 16)
    assert dataset.label_names == ("blue", "red")
    assert np.unique(dataset.labels).tolist() == [0, 1]


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "datasets":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DatasetError, match=r"pip install 'diffusion-autotuner\[hub\]'"):
        data.find(f"hf:{tmp_path}")


def test_a_folder_that_is_no_dataset_says_so(tmp_path):
    with pytest.raises(DatasetError, match="cannot be loaded as a dataset"):
        data.find(f"hf:{tmp_path}")
