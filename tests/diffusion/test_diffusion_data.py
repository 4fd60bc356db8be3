from __future__ import annotations

import builtins
import gzip
import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from autotuner.diffusion import data
from autotuner.diffusion.data import fashion
from autotuner.errors import DatasetError


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def mnist_like(tmp_path):
    generator = np.random.default_rng(0)
    for stem, count in (("train", 40), ("t10k", 12)):
        images = generator.integers(0, 255, (count, 8, 8))
        (tmp_path / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (tmp_path / f"{stem}-labels-idx1-ubyte").write_bytes(idx(np.arange(count) % 10))
    return tmp_path


def test_idx_files_are_read_gzipped_or_not(mnist_like):
    dataset = data.find(mnist_like)
    assert dataset.images.shape == (40, 8, 8, 1)
    assert dataset.held_out_images.shape == (12, 8, 8, 1)
    assert dataset.images.dtype == np.uint8
    assert dataset.classes == 10
    assert dataset.channels == 1
    assert str(mnist_like) in dataset.origin


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: b"", "nothing"),
        (lambda raw: b"hello world", "not an idx file"),
        (lambda raw: raw[:-1], "header promises"),
        (lambda raw: raw + b"x", "header promises"),
        (lambda raw: gzip.compress(raw)[:-10], "damaged gzip"),
        (lambda raw: raw[:2] + b"\x0d" + raw[3:], "not an idx file"),
        (lambda raw: raw[:6], "header promises"),
    ],
)
def test_a_damaged_idx_file_is_named_with_what_is_wrong(damage, message):
    raw = idx(np.zeros((2, 3, 3)))
    with pytest.raises(DatasetError, match=f"file.idx.*{message}"):
        data.parse_idx(damage(raw), "file.idx")


def test_a_missing_file_of_the_four_is_named(mnist_like):
    (mnist_like / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DatasetError, match="t10k-labels-idx1-ubyte"):
        data.find(mnist_like)


def test_labels_that_do_not_belong_to_the_images_are_refused(mnist_like):
    (mnist_like / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(39)))
    with pytest.raises(DatasetError, match="do not belong together"):
        data.find(mnist_like)


def test_a_folder_of_pictures_becomes_squares_with_its_sub_folders_as_labels(tmp_path):
    for number in range(12):
        folder = tmp_path / ("cats" if number % 2 else "dogs")
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (40, 60), (number * 20, 10, 10)).save(folder / f"{number}.png")
    dataset = data.find(tmp_path)
    assert dataset.images.shape[1:] == (32, 32, 3)
    assert dataset.classes == 2
    assert len(dataset.images) + len(dataset.held_out_images) == 12


def test_a_folder_without_pictures_says_what_it_needs(tmp_path):
    with pytest.raises(DatasetError, match=r"0 pictures.*at least 8"):
        data.find(tmp_path)


def test_pictures_stand_upright_as_their_camera_says(tmp_path):
    for number in range(8):
        turned = Image.new("RGB", (16, 8), "black")
        turned.paste("white", (8, 0, 16, 8))
        exif = turned.getexif()
        exif[0x0112] = 6  # shown after a quarter turn clockwise
        turned.save(tmp_path / f"{number}.png", exif=exif)
    upper, lower = np.split(data.read_folder(tmp_path, 8).images[0, :, :, 0], 2)
    assert (upper.max(), lower.min()) == (0, 255)
    (tall,) = data.read_buckets(tmp_path, 8, 1).buckets
    assert tall.shape.height > tall.shape.width


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_shows_white(tmp_path, mode):
    for number in range(8):
        clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
        clear.paste((90, 90, 90, 255), (0, 0, 4, 8))
        clear.convert(mode).save(tmp_path / f"{number}.png")
    assert np.unique(data.read_folder(tmp_path, 8).images[0, :, 4:]).tolist() == [255]
    assert np.ptp(data.read_folder(tmp_path, 8).images[0, :, :4]) == 0


def test_hidden_files_are_no_pictures(tmp_path):
    for number in range(8):
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"{number}.png")
    (tmp_path / "._0.png").write_bytes(b"a resource fork")
    (tmp_path / ".thumbnails").mkdir()
    (tmp_path / ".thumbnails" / "0.png").write_bytes(b"another")
    assert data.read_folder(tmp_path, 8).classes == 1


def test_a_broken_picture_is_named(tmp_path):
    for number in range(9):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    (tmp_path / "5.png").write_bytes(b"not a picture")
    with pytest.raises(DatasetError, match=r"5\.png: damaged"):
        data.find(tmp_path)


def test_a_path_that_does_not_exist_says_so(tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        data.find(tmp_path / "absent")


def test_resizing_averages_areas():
    image = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1) * 10
    assert data.resize(image, 2)[0, :, :, 0].tolist() == [[25, 45], [105, 125]] or data.resize(image, 2)[0, 0, 0, 0] in (24, 25)
    constant = np.full((3, 28, 28, 1), 77, np.uint8)
    assert np.all(data.resize(constant, 20) == 77)


def test_resizing_keeps_rows_and_columns_apart():
    image = np.zeros((1, 8, 8, 1), np.uint8)
    image[:, :4] = 200
    small = data.resize(image, 4)[0, :, :, 0]
    assert np.all(small[:2] == 200)
    assert np.all(small[2:] == 0)


def test_each_resolution_is_made_once(stripes):
    assert stripes.at(4) is stripes.at(4)
    assert stripes.at(8) is stripes.images


def test_the_order_follows_from_the_seed_and_covers_each_epoch(stripes):
    count = len(stripes.images)
    first = np.concatenate([stripes.batch_indices(start, 16, 3) for start in range(0, count, 16)])
    assert sorted(first[:count]) == list(range(count))
    assert np.array_equal(stripes.batch_indices(0, 16, 3), first[:16])
    assert not np.array_equal(stripes.batch_indices(0, 16, 4), first[:16])
    across = stripes.batch_indices(count - 8, 16, 3)
    assert np.array_equal(across[:8], first[count - 8 : count])


def test_a_download_is_checked_and_kept(tmp_path, monkeypatch):
    payload = {name: name.encode() for name in fashion.FASHION_MD5}
    sums = {name: hashlib.md5(raw, usedforsecurity=False).hexdigest() for name, raw in payload.items()}
    monkeypatch.setattr(fashion, "FASHION_MD5", sums)
    fetched = []

    def fetch(url):
        fetched.append(url)
        return payload[url.rsplit("/", 1)[1]]

    data.download_fashion(tmp_path, fetch)
    data.download_fashion(tmp_path, fetch)
    assert len(fetched) == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(payload)


def test_a_download_with_another_checksum_is_thrown_away(tmp_path):
    with pytest.raises(DatasetError, match="checksum"):
        data.download_fashion(tmp_path, lambda url: b"something else")
    assert list(tmp_path.iterdir()) == []


def test_no_network_is_answered_with_the_package_to_install(tmp_path):
    def fetch(url):
        raise OSError("network is unreachable")

    with pytest.raises(DatasetError, match=r"unreachable.*apt-get install dataset-fashion-mnist"):
        data.download_fashion(tmp_path, fetch)


def test_without_any_source_every_attempt_is_listed(tmp_path, monkeypatch):
    def fetch(url):
        raise OSError("network is unreachable")

    real = builtins.__import__

    def without_sklearn(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(fashion, "FASHION_DIRECTORIES", (tmp_path / "absent",))
    monkeypatch.setattr(fashion, "_fetch", fetch)
    monkeypatch.setattr(builtins, "__import__", without_sklearn)
    with pytest.raises(DatasetError, match=r"absent.*unreachable.*scikit-learn is not installed"):
        data.find(cache=tmp_path)


def test_the_digits_of_scikit_learn_are_the_offline_fallback():
    dataset = data.digits()
    assert dataset.images.shape[1:] == (8, 8, 1)
    assert dataset.images.max() == 255
    assert dataset.classes == 10
    assert 0 < dataset.sigma_data < 1


def test_falling_back_on_the_digits_says_what_failed_before(tmp_path, monkeypatch):
    def fetch(url):
        raise OSError("network is unreachable")

    monkeypatch.setattr(fashion, "FASHION_DIRECTORIES", (tmp_path / "absent",))
    monkeypatch.setattr(fashion, "_fetch", fetch)
    dataset = data.find(cache=tmp_path)
    assert dataset.name == "digits"
    assert "absent" in dataset.origin
    assert "unreachable" in dataset.origin


def captioned(folder, count=12):
    for number in range(count):
        Image.new("RGB", (20, 20), (number * 20, 0, 0)).save(folder / f"{number:02d}.png")


def captions_fit(dataset):
    return all(
        int(caption.split()[1]) * 20 == image[0, 0, 0]
        for images, captions in ((dataset.images, dataset.captions), (dataset.held_out_images, dataset.held_out_captions))
        for image, caption in zip(images, captions, strict=True)
    )


def test_captions_beside_pictures_stay_with_them(tmp_path):
    captioned(tmp_path)
    for number in range(12):
        (tmp_path / f"{number:02d}.txt").write_text(f"number {number}\n")
    assert captions_fit(data.find(tmp_path))


def test_captions_may_stand_in_metadata_lines(tmp_path):
    captioned(tmp_path)
    rows = [json.dumps({"file_name": f"{number:02d}.png", "text": f"number {number}"}) for number in range(12)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    assert captions_fit(data.find(tmp_path))


def test_a_metadata_line_that_is_not_understood_is_named(tmp_path):
    captioned(tmp_path)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "00.png", "text": "fine"}\nnot json\n')
    with pytest.raises(DatasetError, match=r"metadata\.jsonl:2: expected a JSON object with file_name, found 'not json'"):
        data.find(tmp_path)


def test_without_captions_there_are_none(tmp_path):
    captioned(tmp_path)
    assert data.find(tmp_path).captions == ()


def test_a_word_that_names_no_images_is_answered_with_those_that_do():
    with pytest.raises(DatasetError, match=r"fashon-mnist does not exist; allowed: fashion-mnist, emoji, digits, hf:NAME"):
        data.find("fashon-mnist")


def test_named_images_come_at_the_edge_that_is_asked_for():
    dataset = data.find("digits", resolution=4)
    assert dataset.images.shape[1:] == dataset.held_out_images.shape[1:] == (4, 4, 1)
    assert np.array_equal(dataset.images, data.digits().at(4))


def test_sizes_need_not_be_square_and_latents_stay_floats(stripes):
    assert stripes.at((4, 6)).shape == (240, 4, 6, 1)
    latents = replace(stripes, images=stripes.images.astype(np.float32) / 100, _resized={})
    assert latents.at(4).dtype == np.float32
    assert latents.at(4)[3, 1, 2, 0] == pytest.approx(latents.images[3, 2:4, 4:6, 0].mean())
    assert latents.sigma_data == pytest.approx(latents.images.std())


def test_a_batch_is_the_images_of_its_indices(stripes):
    batch = stripes.batch(200, 64, 3, 4)
    assert np.array_equal(batch.indices, stripes.batch_indices(200, 64, 3))
    assert np.array_equal(batch.images, stripes.at(4)[batch.indices])
    assert np.array_equal(batch.labels, stripes.labels[batch.indices])
    assert np.all(batch.weights == 1)
