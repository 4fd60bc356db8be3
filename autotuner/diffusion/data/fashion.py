"""Fashion-MNIST: from the Debian package, or downloaded with pinned checksums."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from autotuner.diffusion.data.dataset import Dataset
from autotuner.diffusion.data.idx import read_idx_directory
from autotuner.errors import DatasetError

FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FASHION_MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
"""Checksums published with the dataset."""
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


def installed(directory: Path) -> Dataset:
    """What the Debian package put into ``directory``; raises DatasetError."""
    return read_idx_directory(directory, "fashion-mnist", f"Fashion-MNIST from {directory}")


def downloaded(cache: Path) -> Dataset:
    """What is in the cache, completed by a download; raises DatasetError."""
    directory = download_fashion(cache / "fashion-mnist")
    return read_idx_directory(directory, "fashion-mnist", f"Fashion-MNIST downloaded from {FASHION_URL}")
