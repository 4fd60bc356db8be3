"""Folders of pictures, with sub-folders as labels and captions in files beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from autotuner.diffusion.data.area import Size, both
from autotuner.diffusion.data.dataset import HELD_OUT, Dataset, split
from autotuner.errors import DatasetError

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDER_EDGE = 32
"""Edge length where none is asked for."""
FEWEST = 8
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
METADATA = "metadata.jsonl"
CAPTION_KEYS = ("text", "caption", "prompt")
"""Under which a line of ``metadata.jsonl`` may hold the caption, best first."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Listing:
    """What a folder holds, before any picture is decoded."""

    path: Path
    files: tuple[Path, ...]
    labels: np.ndarray
    label_names: tuple[str, ...]
    captions: tuple[str, ...]
    """One for each file, or none at all; "" where only this file has none."""


def read_folder(path: Path, resolution: int = FOLDER_EDGE, held_out: int = HELD_OUT) -> Dataset:
    """A folder of pictures, cropped to squares of ``resolution``; the first level of sub-folders are the labels.

    Captions come from ``metadata.jsonl`` (lines with ``file_name`` and ``text``) or from ``x.txt`` beside ``x.png``. Raises
    DatasetError that names the folder or the file.
    """
    listing = list_folder(path)
    images = np.stack([decoded(file, lambda picture: fitted(picture, resolution)) for file in listing.files])
    rest, kept = split(len(images), held_out)
    return Dataset(
        path.name,
        f"{len(images)} pictures of {path}",
        images[rest],
        listing.labels[rest],
        images[kept],
        listing.labels[kept],
        captions=chosen(listing.captions, rest),
        held_out_captions=chosen(listing.captions, kept),
        label_names=listing.label_names,
    )


def list_folder(path: Path) -> Listing:
    """The pictures below ``path`` in order of their names, hidden ones left out; raises DatasetError when they are too few."""
    found = (file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    files = sorted(file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts))
    if len(files) < FEWEST:
        raise DatasetError(f"{path}: {len(files)} pictures found; at least {FEWEST} are needed ({', '.join(IMAGE_SUFFIXES)})")
    groups = [file.relative_to(path).parts[0] if file.parent != path else "" for file in files]
    names = sorted(set(groups))
    labels = np.array([names.index(group) for group in groups], np.int32)
    return Listing(path, tuple(files), labels, tuple(names), captions_of(path, files))


def captions_of(path: Path, files: Sequence[Path]) -> tuple[str, ...]:
    """A caption for each file, or () where no file has one. Raises DatasetError for metadata that cannot be understood."""
    told: dict[Path, str] = {}
    for metadata in sorted(path.rglob(METADATA)):
        told.update(_told(metadata))
    captions = tuple(told.get(file) or _beside(file) for file in files)
    return captions if any(captions) else ()


def _told(metadata: Path) -> dict[Path, str]:
    told = {}
    for number, line in enumerate(metadata.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name = row["file_name"]
        except (ValueError, KeyError, TypeError):
            raise DatasetError(f"{metadata}:{number}: expected a JSON object with file_name, found {line[:80]!r}") from None
        key = next((key for key in CAPTION_KEYS if isinstance(row.get(key), str)), None)
        if key is not None:
            told[metadata.parent / name] = row[key]
    return told


def _beside(file: Path) -> str:
    text = file.with_suffix(".txt")
    return text.read_text(encoding="utf-8").strip() if text.is_file() else ""


def chosen(captions: Sequence[str], indices: np.ndarray) -> tuple[str, ...]:
    """The captions of some pictures; none stay none."""
    return tuple(captions[i] for i in indices) if captions else ()


def decoded(file: Path, use: Callable[[Image], Result]) -> Result:
    """What ``use`` makes of the opened picture, upright; raises DatasetError for one that cannot be decoded."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file) as picture:
            ImageOps.exif_transpose(picture, in_place=True)
            return use(picture)
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{file}: damaged picture ({error})") from None


def fitted(picture: Image, size: Size) -> np.ndarray:
    """uint8 RGB (height, width, 3): the largest part around the middle that has the shape's aspect, area-averaged to it.

    What is transparent shows white.
    """
    from PIL import Image

    height, width = both(size)
    scale = min(picture.width / width, picture.height / height)
    across, down = round(scale * width), round(scale * height)
    left, top = (picture.width - across) // 2, (picture.height - down) // 2
    part = _opaque(picture).crop((left, top, left + across, top + down))
    return np.asarray(part.resize((width, height), Image.Resampling.BOX))


def _opaque(picture: Image) -> Image:
    from PIL import Image

    if "A" not in picture.getbands() and "transparency" not in picture.info:
        return picture.convert("RGB")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
