"""Pictures as the latents of an autoencoder, captions as what a U-Net sees of them: encoded once, kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autotuner.diffusion import array_file
from autotuner.diffusion.blas import mx
from autotuner.diffusion.data import Dataset, resize
from autotuner.diffusion.data.area import Size
from autotuner.diffusion.models.autoencoder_kl import AutoencoderKL
from autotuner.diffusion.models.weights import load
from autotuner.diffusion.sample import to_pixels
from autotuner.diffusion.text_conditioning import Condition, TextConditioning
from autotuner.errors import ConfigurationError, DatasetError

EMPTY = ""
"""The prompt of the table's last row: no caption."""
AT_ONCE = 16
"""Captions that are encoded in one batch."""


class Prepared(NamedTuple):
    """A dataset of latents whose labels are rows of a table of captions."""

    dataset: Dataset
    captions: Path
    """The table's file, for the network's ``captions``."""


def prepare(folder: str | Path, dataset: Dataset, resolutions: Sequence[int], cache: Path) -> Prepared:
    """Encode pictures and captions with the networks of a Stable Diffusion folder, or read what was encoded before.

    ``resolutions`` are edges in pixels; the largest is the dataset's own, and each is encoded from pictures of that size.
    Files in ``cache`` are named after hashes of all that they depend on. Labels become rows of the table, and augmentation
    is left out: it works on pixels. Raises DatasetError for pictures without captions, ConfigurationError for other edges.
    """
    folder = Path(folder)
    training, held_out = captions_of(dataset)
    told = tuple(dict.fromkeys((*training, *held_out)))
    rows = {caption: row for row, caption in enumerate(told)}
    captions = _captions(folder, told, max(resolutions), cache)  # first: what is missing there shows within seconds
    encoded = {edge: _latents(folder, dataset, edge, cache) for edge in resolutions}
    full = encoded[max(resolutions)]
    return Prepared(
        Dataset(
            name=f"{dataset.name}-latents",
            origin=f"latents of {dataset.origin}",
            images=full["training"],
            labels=np.array([rows[caption] for caption in training], np.int32),
            held_out_images=full["held_out"],
            held_out_labels=np.array([rows[caption] for caption in held_out], np.int32),
            captions=training,
            held_out_captions=held_out,
            label_names=told,
            _resized=_by_edge(encoded.values(), "training"),
            _held_out_resized=_by_edge(encoded.values(), "held_out"),
        ),
        captions,
    )


def captions_of(dataset: Dataset) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A caption for each training and each held-out picture: its own, or the name of its label; DatasetError without either."""
    if dataset.captions and dataset.held_out_captions:
        return dataset.captions, dataset.held_out_captions
    if dataset.label_names:
        names = dataset.label_names
        return tuple(names[i] for i in dataset.labels), tuple(names[i] for i in dataset.held_out_labels)
    raise DatasetError(f"{dataset.origin}: no captions; a text beside each picture, or names of the labels, are needed")


def encode(vae: AutoencoderKL, images: np.ndarray) -> np.ndarray:
    """Standardised latents, the distribution's means, of uint8 pictures (count, height, width, 3 or 1), one after another.

    Raises ConfigurationError when an edge is no multiple of the autoencoder's reduction.
    """
    height, width, channels = images.shape[1:]
    wanted = vae.config["in_channels"]
    if images.dtype != np.uint8 or channels not in (1, wanted) or height % vae.reduction or width % vae.reduction:
        raise ConfigurationError(
            f"images {images.dtype} {images.shape[1:]}; allowed are uint8 with {wanted} channels or 1, "
            f"and edges that are multiples of {vae.reduction}"
        )
    return np.concatenate([_encode(vae, image, wanted) for image in images])


def _encode(vae: AutoencoderKL, image: np.ndarray, channels: int) -> np.ndarray:
    coloured = np.broadcast_to(image, (*image.shape[:2], channels))
    return np.array(vae.standardise(vae.encode(mx.array(coloured[None].astype(np.float32) / 127.5 - 1)).mean))


def decode(vae: AutoencoderKL, standardised: np.ndarray) -> np.ndarray:
    """uint8 pictures (count, height, width, 3) of standardised latents, one after another."""
    return np.concatenate([to_pixels(np.array(vae.decode(vae.raw(mx.array(row[None]))))) for row in standardised])


def read_captions(path: Path) -> Condition:
    """The table that ``prepare`` wrote: arrays whose row ``label`` belongs to the caption, the last one to no caption.

    Raises ConfigurationError.
    """
    try:
        return _table(path, path.stat().st_mtime_ns)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise ConfigurationError(f"captions {str(path)!r}: not a table of captions ({error})") from None


@lru_cache(maxsize=1)
def _table(path: Path, modified: int) -> Condition:
    """One table for every network of a training."""
    arrays: Any = mx.load(str(path), format="safetensors")
    return Condition(arrays["context"], arrays.get("pooled"), arrays.get("sizes"))


def _latents(folder: Path, dataset: Dataset, edge: int, cache: Path) -> dict[str, np.ndarray]:
    parts = {"training": dataset.images, "held_out": dataset.held_out_images}
    path = cache / f"latents-{edge}-{_hash(*_files(folder / 'vae'), *parts.values(), edge)}.safetensors"
    if not path.exists():
        vae = load(AutoencoderKL, folder / "vae")
        array_file.write(path, {name: mx.array(encode(vae, resize(images, edge))) for name, images in parts.items()})
    found: Any = mx.load(str(path), format="safetensors")
    return {name: np.array(array) for name, array in found.items()}


def _by_edge(encoded: Iterable[dict[str, np.ndarray]], part: str) -> dict[Size, np.ndarray]:
    return {each[part].shape[1]: each[part] for each in encoded}


def _captions(folder: Path, captions: Sequence[str], edge: int, cache: Path) -> Path:
    files = [file for part in ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2") for file in _files(folder / part)]
    path = cache / f"captions-{_hash(*files, *captions, edge)}.safetensors"
    if not path.exists():
        text, rows = TextConditioning.load(folder), [*captions, EMPTY]
        parts = [text.encode(rows[start : start + AT_ONCE], (edge, edge)) for start in range(0, len(rows), AT_ONCE)]
        named = {name: [getattr(part, name) for part in parts] for name in Condition._fields}
        array_file.write(path, {name: mx.concatenate(arrays) for name, arrays in named.items() if arrays[0] is not None})
    return path


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*") if file.is_file())


def _hash(*parts: Path | str | int | np.ndarray) -> str:
    """Of files by their contents, of arrays by shape and values."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            with part.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        else:
            shaped = isinstance(part, np.ndarray)
            told = f"{part.shape}{part.dtype}" if isinstance(part, np.ndarray) else repr(part)
            total.update(told.encode())
            total.update(np.ascontiguousarray(part).tobytes() if shaped else b"")
    return total.hexdigest()[:24]
