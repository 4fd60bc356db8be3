"""Area averages: the one way in which images change their size."""

from __future__ import annotations

import os

# Before NumPy, as in ``blas``, for who reads images first: on a busy machine its threads wait for each other 30 times longer.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

Size = int | tuple[int, int]
"""Edge of a square, or (height, width)."""


def both(size: Size) -> tuple[int, int]:
    """(height, width) of a size."""
    return (size, size) if isinstance(size, int) else size


def resize(images: np.ndarray, size: Size, block: int = 1024) -> np.ndarray:
    """Area-average images (count, height, width, channels) down (or up) to ``size``, in blocks that bound the memory.

    uint8 pixels are rounded back to uint8; floats stay floats.
    """
    count, source_height, source_width, channels = images.shape
    height, width = both(size)
    rows = area_weights(source_height, height)
    columns = np.kron(area_weights(source_width, width), np.eye(channels, dtype=np.float32)).T
    resized = np.empty((count, height, width, channels), images.dtype)
    for start in range(0, count, block):
        pixels = images[start : start + block].astype(np.float32)
        half = pixels.reshape(-1, source_width * channels) @ columns
        full = np.matmul(rows, half.reshape(len(pixels), source_height, width * channels)).reshape(-1, height, width, channels)
        resized[start : start + block] = np.clip(np.rint(full), 0, 255) if images.dtype == np.uint8 else full
    return resized


def area_weights(source: int, target: int) -> np.ndarray:
    """Matrix (target, source): share of each source pixel in each target pixel."""
    edges = np.linspace(0, source, target + 1)
    pixels = np.arange(source)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = np.maximum(overlap, 0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
