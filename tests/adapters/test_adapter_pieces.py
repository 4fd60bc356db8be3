"""Batches of every usual form are cut, and put together again they are what they were."""

from collections import namedtuple

import numpy as np
import pytest

from autotuner.adapters.pieces import UNKNOWN, NotDivisible, cut, images_in

IMAGES = np.arange(10 * 3 * 4).reshape(10, 3, 4)
Pair = namedtuple("Pair", "images labels")


class Encoding(dict):
    """As transformers' BatchEncoding: a mapping with a type of its own."""


def test_a_dict_with_tensors_captions_and_a_scalar_is_cut_in_order():
    batch = {"pixels": IMAGES, "captions": [f"image {n}" for n in range(10)], "scale": 0.5, "mask": None}
    pieces = cut(batch, 4)
    assert [len(piece["pixels"]) for piece in pieces] == [4, 4, 2]
    assert np.array_equal(np.concatenate([piece["pixels"] for piece in pieces]), IMAGES)
    assert [caption for piece in pieces for caption in piece["captions"]] == batch["captions"]
    assert {piece["scale"] for piece in pieces} == {0.5}


def test_tuples_lists_nested_dicts_and_named_tuples_keep_their_types():
    for batch in (
        (IMAGES, IMAGES[:, 0]),
        [IMAGES, IMAGES[:, 0]],
        Pair(IMAGES, IMAGES[:, 0]),
        {"deep": [IMAGES]},
        Encoding(a=IMAGES),
    ):
        pieces = cut(batch, 5)
        assert len(pieces) == 2
        assert all(type(piece) is type(batch) for piece in pieces)
        assert [images_in(piece) for piece in pieces] == [5, 5]


def test_a_zero_dimensional_tensor_belongs_to_every_piece():
    assert [piece["level"] for piece in cut({"images": IMAGES, "level": np.float32(2)}, 5)] == [2, 2]


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ({"images": IMAGES, "other": IMAGES[:3]}, "a tensor has the shape (3, 3, 4), the batch 10 images"),
        ({"images": IMAGES, "captions": ["one"]}, "1 x str, not 10"),
        ({"images": IMAGES, "what": object()}, "object, which nobody knows how to cut"),
        ({"captions": ["one", "two"]}, "no tensor"),
    ],
)
def test_what_cannot_be_cut_is_named(batch, said):
    with pytest.raises(NotDivisible, match=said.replace("(", r"\(").replace(")", r"\)")):
        cut(batch, 4)


def test_a_batch_without_tensors_has_an_unknown_number_of_images():
    assert images_in({"captions": ["one"]}) == UNKNOWN
    assert images_in(np.float32(1)) == UNKNOWN
