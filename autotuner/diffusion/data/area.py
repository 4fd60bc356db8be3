"""Area averages: the one way in which images change their size."""

from __future__ import annotations

import numpy as np

Size = int | tuple[int, int]
"""Edge of a square, or (height, width)."""


def both(size: Size) -> tuple[int, int]:
    """(height, width) of a size."""
    return (size, size) if isinstance(size, int) else size


def resize(images: np.ndarray, size: Size, block: int = 4096) -> np.ndarray:
    """Area-average images (count, height, width, channels) down (or up) to ``size``, in blocks.

    uint8 pixels are rounded back to uint8; floats stay floats.
    """
    height, width = both(size)
    rows, columns = area_weights(images.shape[1], height), area_weights(images.shape[2], width)
    parts = []
    for start in range(0, len(images), block):
        pixels = images[start : start + block].astype(np.float32)
        half = np.tensordot(rows, pixels, axes=(1, 1))  # (height, count, width before, channels)
        full = np.tensordot(columns, half, axes=(1, 2)).transpose(2, 1, 0, 3)  # was (width, height, count, channels)
        parts.append(_like(full, images.dtype))
    return np.concatenate(parts)


def area_weights(source: int, target: int) -> np.ndarray:
    """Matrix (target, source): share of each source pixel in each target pixel."""
    edges = np.linspace(0, source, target + 1)
    pixels = np.arange(source)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = np.maximum(overlap, 0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _like(pixels: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8) if dtype == np.uint8 else np.ascontiguousarray(pixels, dtype)
