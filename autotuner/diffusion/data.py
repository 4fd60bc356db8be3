"""Image datasets: found on disk or downloaded with a pinned checksum, resized once per resolution, ordered by a seed."""

from __future__ import annotations

import gzip
import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from autotuner.errors import DatasetError

PIXELS_OF_DTYPE = 0x08
"""Type code of unsigned bytes in an idx header."""
HELD_OUT = 512


@dataclass
class Dataset:
    """Images uint8 (count, height, width, channels) with labels, and a part that training never sees."""

    name: str
    origin: str
    """One sentence: where the images came from."""
    images: np.ndarray
    labels: np.ndarray
    held_out_images: np.ndarray
    held_out_labels: np.ndarray
    _resized: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def resolution(self) -> int:
        """Edge length of the images."""
        return int(self.images.shape[1])

    @property
    def channels(self) -> int:
        """1 or 3."""
        return int(self.images.shape[3])

    @property
    def classes(self) -> int:
        """Number of labels."""
        return int(max(self.labels.max(), self.held_out_labels.max())) + 1

    @cached_property
    def sigma_data(self) -> float:
        """Standard deviation of the pixels in [-1, 1], over the first 4,096 training images."""
        return float(np.std(self.images[:4096].astype(np.float32) / 127.5 - 1))

    def at(self, resolution: int) -> np.ndarray:
        """The training images at ``resolution``: area-averaged once, then kept."""
        if resolution == self.resolution:
            return self.images
        if resolution not in self._resized:
            self._resized[resolution] = resize(self.images, resolution)
        return self._resized[resolution]

    def batch_indices(self, first_image: int, count: int, seed: int) -> np.ndarray:
        """Indices of the next ``count`` images after ``first_image`` have been seen: a new order each epoch."""
        positions = np.arange(first_image, first_image + count)
        epochs, offsets = np.divmod(positions, len(self.images))
        return np.concatenate([self._order(int(epoch), seed)[offsets[epochs == epoch]] for epoch in np.unique(epochs)])

    def _order(self, epoch: int, seed: int) -> np.ndarray:
        cached = getattr(self, "_last_order", None)
        if cached is None or cached[0] != (epoch, seed):
            cached = ((epoch, seed), np.random.default_rng([seed, epoch]).permutation(len(self.images)))
            self._last_order = cached
        return cached[1]


def resize(images: np.ndarray, resolution: int, block: int = 4096) -> np.ndarray:
    """Area-average uint8 images (count, side, side, channels) down (or up) to ``resolution``, in blocks."""
    weights = _area_weights(images.shape[1], resolution)
    parts = []
    for start in range(0, len(images), block):
        pixels = images[start : start + block].astype(np.float32)
        half = np.tensordot(weights, pixels, axes=(1, 1))  # (out, count, side, channels)
        full = np.tensordot(weights, half, axes=(1, 2))  # (out_x, out_y, count, channels)
        parts.append(np.clip(np.rint(full.transpose(2, 1, 0, 3)), 0, 255).astype(np.uint8))
    return np.concatenate(parts)


def _area_weights(source: int, target: int) -> np.ndarray:
    """Matrix (target, source): share of each source pixel in each target pixel."""
    edges = np.linspace(0, source, target + 1)
    pixels = np.arange(source)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = np.maximum(overlap, 0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


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


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def read_folder(path: Path, resolution: int = 32, held_out: int = HELD_OUT) -> Dataset:
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


def digits() -> Dataset:
    """The 8x8 digits inside scikit-learn; raises DatasetError when it is not installed."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DatasetError("scikit-learn is not installed; its digits are the offline fallback") from None
    bunch = load_digits()
    images = np.rint(bunch.images * 255 / 16).astype(np.uint8)[..., None]
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], bunch.target[order].astype(np.int32)
    return Dataset(
        "digits", "1,797 digits of 8x8 pixels from scikit-learn", images[256:], labels[256:], images[:256], labels[:256]
    )


FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FASHION_MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
"""Checksums published with the dataset."""
LAST_RESORT = "scikit-learn"
FASHION_DIRECTORIES = (Path("/usr/share/datasets/fashion-mnist"),)
FASHION_ADVICE = "apt-get install dataset-fashion-mnist, or pass --data with a folder of pictures or idx files"


def download_fashion(directory: Path, fetch: Callable[[str], bytes] | None = None) -> Path:
    """Download what is missing of Fashion-MNIST into ``directory`` and check every file; raises DatasetError."""
    directory.mkdir(parents=True, exist_ok=True)
    for file, checksum in FASHION_MD5.items():
        target = directory / file
        if target.is_file() and hashlib.md5(target.read_bytes(), usedforsecurity=False).hexdigest() == checksum:
            continue
        try:
            data = (fetch or _fetch)(FASHION_URL + file)
        except (OSError, urllib.error.URLError) as error:
            raise DatasetError(f"Fashion-MNIST cannot be downloaded ({error}); {FASHION_ADVICE}") from None
        found = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if found != checksum:
            raise DatasetError(f"{FASHION_URL}{file}: checksum {found}, expected {checksum}; {FASHION_ADVICE}")
        partial = target.with_suffix(".part")
        partial.write_bytes(data)
        partial.replace(target)
    return directory


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as response:
        return bytes(response.read())


def _given(path: Path) -> Dataset:
    if not path.exists():
        raise DatasetError(f"{path} does not exist; {FASHION_ADVICE}")
    if any((path / (stem + suffix)).is_file() for stem in IDX_NAMES for suffix in (".gz", "")):
        return read_idx_directory(path, path.name, f"idx files of {path}")
    return read_folder(path)


def candidates(cache: Path) -> Iterator[tuple[str, Callable[[], Dataset]]]:
    """Where ``find`` looks, best first."""
    for directory in FASHION_DIRECTORIES:
        origin = f"Fashion-MNIST from {directory}"
        yield str(directory), partial(read_idx_directory, directory, "fashion-mnist", origin)
    yield "download", partial(_downloaded, cache / "fashion-mnist")
    yield LAST_RESORT, digits


def _downloaded(directory: Path) -> Dataset:
    return read_idx_directory(download_fashion(directory), "fashion-mnist", f"Fashion-MNIST downloaded from {FASHION_URL}")


def find(path: Path | None = None, cache: Path | None = None) -> Dataset:
    """The images of ``path``, else the best that this machine offers; raises DatasetError that lists every attempt."""
    if path is not None:
        return _given(path)
    failures = []
    for where, read in candidates(cache or Path.home() / ".cache" / "autotuner"):
        try:
            dataset = read()
        except DatasetError as error:
            failures.append(f"{where}: {error}")
            continue
        if where != LAST_RESORT:
            return dataset
        return replace(dataset, origin=f"{dataset.origin}, because there is nothing better here ({'; '.join(failures)})")
    raise DatasetError("no images found. " + "; ".join(failures))
