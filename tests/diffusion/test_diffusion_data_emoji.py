from __future__ import annotations

import hashlib
import unicodedata
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from autotuner.diffusion import data
from autotuner.diffusion.data import emoji
from autotuner.errors import DatasetError

FONT = emoji.FONTS[0]
with_font = pytest.mark.skipif(not FONT.file.is_file(), reason="Debian's fonts-noto-color-emoji is not installed")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Every eighth emoji, rendered once for this file."""
    directory = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        points = list(emoji._points())[::8]
        patch.setattr(emoji, "_points", lambda: iter(points))
        patch.setattr(emoji, "FEWEST", 100)
        if FONT.file.is_file():
            emoji.read_emoji(8, cache=directory, font=FONT)
    return directory


@pytest.fixture
def read(cache, monkeypatch):
    monkeypatch.setattr(emoji, "render", lambda font: pytest.fail("the cache should have answered"))
    return lambda *args, **kwargs: emoji.read_emoji(*args, cache=cache, font=FONT, **kwargs)


@with_font
@pytest.mark.parametrize("resolution", [8, 33, 128])
def test_emoji_come_at_any_edge_on_white_with_names_and_groups(read, resolution):
    dataset = read(resolution, 20)
    assert dataset.images.shape[1:] == (resolution, resolution, 3)
    assert dataset.images.dtype == np.uint8
    assert len(dataset.held_out_images) == len(dataset.held_out_captions) == 20
    assert len(dataset.images) == len(dataset.captions) == len(dataset.labels) > 100
    assert dataset.classes <= len(dataset.label_names) == len(emoji.GROUPS)
    corners = dataset.images[:, [0, 0, -1, -1], [0, -1, 0, -1]].astype(int)
    assert np.mean(corners > 230) > 0.5


@with_font
def test_a_caption_says_what_the_picture_shows(read):
    dataset = read(64, 20)
    captions = [*dataset.captions, *dataset.held_out_captions]
    images = np.concatenate([dataset.images, dataset.held_out_images])
    assert all(unicodedata.lookup(caption.upper()) for caption in captions if not caption.startswith("emoji u+"))
    red = [np.argmax(images[captions.index(name), 32, 32]) for name in captions if name.startswith("large red")]
    assert all(channel == 0 for channel in red)


@with_font
def test_the_split_is_always_the_same_and_a_smaller_edge_is_the_area_average(read):
    large, small = read(128, 20), read(32, 20)
    assert large.captions == small.captions
    assert np.array_equal(data.resize(large.images[:20], 32), small.images[:20])
    assert not set(large.captions) & set(large.held_out_captions)


@with_font
def test_find_knows_emoji_and_gives_64_pixels_unless_told(cache, monkeypatch):
    monkeypatch.setattr(emoji, "FONTS", (FONT,))
    assert data.find("emoji", cache).resolution == emoji.EDGE
    assert data.find("emoji", cache, resolution=16).resolution == 16


@with_font
def test_a_damaged_cache_is_rendered_again(cache, tmp_path, monkeypatch):
    [kept] = (cache / "emoji").iterdir()
    with np.load(kept) as arrays:
        points, images = arrays["points"], arrays["images"]
    (tmp_path / "emoji").mkdir()
    (tmp_path / "emoji" / kept.name).write_bytes(kept.read_bytes()[:1000])
    monkeypatch.setattr(emoji, "render", lambda font: (points, images))
    emoji.read_emoji(8, 20, cache=tmp_path, font=FONT)
    with np.load(tmp_path / "emoji" / kept.name) as arrays:
        assert np.array_equal(arrays["images"], images)


@with_font
@pytest.mark.slow
def test_the_whole_font_gives_about_1290_pictures_that_lose_no_ink():
    points, images = emoji.render(FONT)
    assert 1250 < len(points) < 1400
    assert len(np.unique([hashlib.sha256(image.tobytes()).hexdigest() for image in images])) > 0.99 * len(images)
    assert all((image < 250).any() for image in images)


def test_every_code_point_has_exactly_one_group():
    points = list(emoji._points())
    assert len(points) == len(set(points))
    ranges = sorted(span for _, spans in emoji.GROUPS for span in spans)
    assert all(last < first for (_, last), (first, _) in pairwise(ranges))
    assert emoji.GROUPS[emoji.label_of(0x1F984)][0] == "animals"
    assert emoji.GROUPS[emoji.label_of(0x1F600)][0] == "faces"
    with pytest.raises(DatasetError, match=r"U\+41"):
        emoji.label_of(0x41)


def test_a_name_that_this_python_does_not_know_is_described():
    assert emoji.caption_of(0x1F680) == "rocket"
    assert emoji.caption_of(0x1FFFE) == "emoji u+1fffe"


def test_without_a_font_the_package_to_install_is_named(monkeypatch):
    monkeypatch.setattr(emoji, "FONTS", (emoji.Font(Path("/absent/font.ttf"), 109, 128),))
    with pytest.raises(DatasetError, match=r"/absent/font\.ttf; apt-get install fonts-noto-color-emoji"):
        data.find("emoji")


def test_a_file_that_is_no_font_is_named(tmp_path):
    (tmp_path / "font.ttf").write_bytes(b"not a font")
    with pytest.raises(DatasetError, match=r"font\.ttf: cannot be read as a font"):
        emoji.read_emoji(cache=tmp_path, font=emoji.Font(tmp_path / "font.ttf", 109, 128))


@pytest.mark.parametrize("resolution", [0, 129])
def test_an_edge_that_the_font_cannot_give_is_refused(resolution):
    with pytest.raises(DatasetError, match="allowed is an edge from 1 to 128"):
        emoji.read_emoji(resolution)
