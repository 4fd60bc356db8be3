"""MNIST-like sets in idx files."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from autotuner.diffusion.data.dataset import HELD_OUT, Dataset
from autotuner.errors import DatasetError

PIXELS_OF_DTYPE = 0x08
"""Type code of unsigned bytes in an idx header."""


def parse_idx(data: bytes, origin: str) -> np.ndarray:
    """An idx file (gzip or plain) of unsigned bytes; raises DatasetError naming ``origin`` and what is wrong."""
    try:
        raw = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, ValueError) as error:
        raise DatasetError(f"{origin}: damaged gzip file ({error})") from None
    if len(raw) < 4 or raw[0] or raw[1] or raw[2] != PIXELS_OF_DTYPE:
        raise DatasetError(f"{origin}: not an idx file of unsigned bytes (starts with {raw[:4].hex() or 'nothing'})")
    header = 4 + 4 * raw[3]
    shape = tuple(int.from_bytes(raw[i : i + 4], "big") for i in range(4, header, 4))
    if len(raw) < header or len(raw) - header != int(np.prod(shape)):
        raise DatasetError(f"{origin}: header promises {shape}, the file holds {max(len(raw) - header, 0)} bytes of data")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


IDX_NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def read_idx_directory(path: Path, name: str, origin: str, held_out: int = HELD_OUT) -> Dataset:
    """The four files of an MNIST-like set, gzipped or not; the held-out part is the start of its test set."""
    arrays = []
    for stem in IDX_NAMES:
        found = next((path / (stem + suffix) for suffix in (".gz", "") if (path / (stem + suffix)).is_file()), None)
        if found is None:
            raise DatasetError(f"{path}: {stem}.gz is missing; expected {', '.join(IDX_NAMES)}, gzipped or not")
        arrays.append(parse_idx(found.read_bytes(), str(found)))
    images, labels, test_images, test_labels = arrays
    for pictures, marks, part in ((images, labels, "training"), (test_images, test_labels, "test")):
        if pictures.ndim != 3 or marks.ndim != 1 or len(pictures) != len(marks):
            raise DatasetError(f"{path}: {part} images {pictures.shape} and labels {marks.shape} do not belong together")
    return Dataset(
        name,
        origin,
        images[..., None],
        labels.astype(np.int32),
        test_images[:held_out, ..., None],
        test_labels[:held_out].astype(np.int32),
    )
