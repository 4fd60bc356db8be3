"""Folders of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autotuner.diffusion.data.dataset import HELD_OUT, Dataset
from autotuner.errors import DatasetError

FOLDER_EDGE = 32
"""Edge length where none is asked for."""
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def read_folder(path: Path, resolution: int = FOLDER_EDGE, held_out: int = HELD_OUT) -> Dataset:
    """A folder of pictures, cropped to squares of ``resolution``; the first level of sub-folders are the labels."""
    from PIL import Image, UnidentifiedImageError

    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if len(files) < 8:
        raise DatasetError(f"{path}: {len(files)} pictures found; at least 8 are needed ({', '.join(IMAGE_SUFFIXES)})")
    groups = [file.relative_to(path).parts[0] if file.parent != path else "" for file in files]
    names = sorted(set(groups))
    pixels = []
    for file in files:
        try:
            with Image.open(file) as picture:
                side = min(picture.size)
                left, top = (picture.width - side) // 2, (picture.height - side) // 2
                square = picture.convert("RGB").crop((left, top, left + side, top + side))
                pixels.append(np.asarray(square.resize((resolution, resolution), Image.Resampling.BOX)))
        except (OSError, UnidentifiedImageError, ValueError) as error:
            raise DatasetError(f"{file}: damaged picture ({error})") from None
    images, labels = np.stack(pixels), np.array([names.index(group) for group in groups], np.int32)
    order = np.random.default_rng(0).permutation(len(images))
    apart = min(held_out, max(1, len(images) // 10))
    rest, kept = order[apart:], order[:apart]
    return Dataset(path.name, f"{len(files)} pictures of {path}", images[rest], labels[rest], images[kept], labels[kept])
