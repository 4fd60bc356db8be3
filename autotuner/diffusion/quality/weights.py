"""The trained feature networks that come with the package, each checked against its hash before it is used."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import mlx.nn as nn
import numpy as np

from autotuner.diffusion.blas import mx
from autotuner.diffusion.data import Dataset
from autotuner.diffusion.quality.network import FEATURES, FeatureNetwork
from autotuner.errors import ArtefactError

FOLDER = Path(__file__).with_name("trained")


@dataclass(frozen=True)
class Trained:
    """One committed network: what it is called, what it reads, and the hash of its file."""

    metric: str
    """Name of the Frechet distance on its features."""
    file: str
    channels: int
    edge: int
    sha256: str
    classes: int = 0
    """Classes that its head knows; 0 where it has no head."""


TRAINED: dict[str, Trained] = {
    "fashion-mnist": Trained(
        "frechet_classifier_fashion",
        "fashion-mnist.safetensors",
        1,
        28,
        "25ad5c125ac80cc5708168d7b3f6c6b7aa2f12cb87cc3f9a4bc66580a17abad5",
        classes=10,
    ),
    "emoji": Trained(
        "frechet_classifier_emoji",
        "emoji.safetensors",
        3,
        32,
        "e23aa641fa5ba3718c1ab7a09823e194316fab7e4559791be288a7d966033023",
    ),
}
"""By the name of the dataset. ``python -m autotuner.diffusion.quality.train_features`` makes the files.

Both look at shapes and colours more than at detail: blurring held-out emoji of 64 pixels to 16, or Fashion-MNIST to 14,
hardly moves the distances. Sharpness is what the held-out loss at low noise and the paired error show.
"""


def of_dataset(dataset: Dataset) -> str | None:
    """The network for a dataset, by its name and colours; None where there is none, and for latents."""
    row = TRAINED.get(dataset.name)
    known = row is not None and row.channels == dataset.channels and dataset.images.dtype == np.uint8
    return dataset.name if known else None


@lru_cache(maxsize=4)
def load(name: str, folder: Path = FOLDER) -> tuple[FeatureNetwork, nn.Linear | None]:
    """The network for the dataset called ``name``, and its head if it has one.

    Raises ArtefactError where the file is missing or is not the one whose hash stands here.
    """
    row = TRAINED[name]
    path = folder / row.file
    _check(path, row.sha256)
    loaded: Any = mx.load(str(path))
    vectors = {key: array.astype(mx.float32) for key, array in loaded.items()}
    network = FeatureNetwork(row.channels, row.edge)
    network.load_weights([(key, array) for key, array in vectors.items() if not key.startswith("head.")])
    if not row.classes:
        return network, None
    head = nn.Linear(FEATURES, row.classes)
    head.load_weights([(key.removeprefix("head."), array) for key, array in vectors.items() if key.startswith("head.")])
    return network, head


def _check(path: Path, expected: str) -> None:
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ArtefactError(f"{path}: {error.strerror}; it holds the feature network and comes with the package") from None
    if found != expected:
        raise ArtefactError(f"{path}: sha256 is {found}, allowed is {expected}: distances on other features do not compare")
