"""Hugging Face datasets, by object, by folder or by name; the library is imported only here (extra ``hub``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autotuner.diffusion.data.area import Size
from autotuner.diffusion.data.dataset import HELD_OUT, Dataset, split
from autotuner.diffusion.data.folder import CAPTION_KEYS, FEWEST, FOLDER_EDGE, chosen, fitted
from autotuner.errors import DatasetError

LABEL_KEYS = ("label", "labels", "fine_label")
ADVICE = "pip install 'diffusion-autotuner[hub]'"


def read_hub(
    source: Any,
    resolution: Size = FOLDER_EDGE,
    held_out: int = HELD_OUT,
    *,
    split_name: str = "train",
    image: str | None = None,
    label: str | None = None,
    caption: str | None = None,
) -> Dataset:
    """A ``datasets.Dataset``, a folder (from ``save_to_disk``, or of pictures), or a name on the Hub.

    Pictures are cropped around their middle to ``resolution``. Columns that are not named are found: the image by its type,
    label and caption by their usual names. Raises DatasetError with the splits or columns that there are.
    """
    table = _split_of(_loaded(source) if isinstance(source, str | Path) else source, split_name, source)
    columns = _columns(table)
    image = _column(columns, image, [name for name, feature in columns.items() if type(feature).__name__ == "Image"], "image")
    if image is None:
        raise DatasetError(f"{_name(source)} has no column of images; its columns are {', '.join(columns)}")
    label = _column(columns, label, [name for name in LABEL_KEYS if name in columns], "label")
    caption = _column(columns, caption, [name for name in CAPTION_KEYS if name in columns], "caption")
    if len(table) < FEWEST:
        raise DatasetError(f"{_name(source)}: {len(table)} pictures found; at least {FEWEST} are needed")
    images = np.stack([_decoded(table, number, image, resolution) for number in range(len(table))])
    labels, names = _labels(table, label)
    captions = tuple(str(text) for text in table[caption]) if caption is not None else ()
    rest, kept = split(len(images), held_out)
    return Dataset(
        _name(source),
        f"{len(images)} pictures of the split {split_name!r} of {_name(source)}",
        images[rest],
        labels[rest],
        images[kept],
        labels[kept],
        captions=chosen(captions, rest),
        held_out_captions=chosen(captions, kept),
        label_names=names,
    )


def _loaded(source: str | Path) -> Any:
    try:
        import datasets
    except ImportError:
        raise DatasetError(f"{source}: the library for it is not installed; {ADVICE}") from None
    path = Path(source).expanduser()
    try:
        if any((path / file).is_file() for file in ("dataset_info.json", "dataset_dict.json")):
            return datasets.load_from_disk(str(path))
        if path.is_dir() and not any(path.glob("*.py")) and not list(path.rglob("*.parquet")):
            return datasets.load_dataset("imagefolder", data_dir=str(path))
        return datasets.load_dataset(str(path) if path.is_dir() else str(source))
    except Exception as error:  # the library raises many kinds; all of them mean that there are no images
        raise DatasetError(f"{source}: cannot be loaded as a dataset ({type(error).__name__}: {error})") from error


def _split_of(loaded: Any, split_name: str, source: Any) -> Any:
    if not isinstance(loaded, dict):
        return loaded
    if split_name not in loaded:
        raise DatasetError(f"{_name(source)} has no split {split_name!r}; allowed: {', '.join(loaded)}")
    return loaded[split_name]


def _columns(table: Any) -> dict[str, Any]:
    features = getattr(table, "features", None)
    if features is None:
        raise DatasetError(
            f"a {type(table).__name__} is no dataset; allowed are datasets.Dataset, DatasetDict, a path or a name"
        )
    return dict(features)


def _column(columns: dict[str, Any], asked: str | None, usual: Sequence[str], what: str) -> str | None:
    if asked is not None and asked not in columns:
        raise DatasetError(f"there is no {what} column {asked!r}; allowed: {', '.join(columns)}")
    return asked or next(iter(usual), None)


def _decoded(table: Any, number: int, image: str, resolution: Size) -> np.ndarray:
    try:
        return fitted(table[number][image], resolution)
    except Exception as error:  # decoders raise many kinds
        raise DatasetError(f"row {number}, column {image!r}: not a picture ({type(error).__name__}: {error})") from error


def _labels(table: Any, label: str | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """int32 labels from 0 on and their names; all 0 where there is no column."""
    if label is None:
        return np.zeros(len(table), np.int32), ()
    values = list(table[label])
    names = getattr(table.features[label], "names", None)
    if names is None:
        known = sorted(set(values), key=str)
        names = [str(value) for value in known]
        values = [known.index(value) for value in values]
    return np.array(values, np.int32), tuple(names)


def _name(source: Any) -> str:
    return str(source) if isinstance(source, str | Path) else "a dataset in memory"
