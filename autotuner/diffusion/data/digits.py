"""The small offline fallback: digits that scikit-learn carries."""

from __future__ import annotations

import numpy as np

from autotuner.diffusion.data.dataset import Dataset
from autotuner.errors import DatasetError


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
