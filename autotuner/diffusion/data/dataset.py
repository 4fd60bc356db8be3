"""Images with labels and captions, a held-out part, an order that follows from a seed, and sizes made once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from autotuner.diffusion.data.area import Size, resize

HELD_OUT = 512

Augmentation = Callable[[np.ndarray, int, int], np.ndarray]
"""(images, seed, position of the first of them in the run) to images of the same shape and type."""


class Batch(NamedTuple):
    """What one optimizer step trains on: images of one shape."""

    images: np.ndarray
    """(count, height, width, channels)."""
    labels: np.ndarray
    """int32 (count,)."""
    indices: np.ndarray
    """(count,): which training images these are; captions and other attributes go by them."""
    weights: np.ndarray
    """float32 (count,): 1, or 0 where an image only fills up the shape."""


@dataclass
class Dataset:
    """Images (count, height, width, channels) with labels, and a part that training never sees.

    Images are uint8 pixels, or float32 latents.
    """

    name: str
    origin: str
    """One sentence: where the images came from."""
    images: np.ndarray
    labels: np.ndarray
    held_out_images: np.ndarray
    held_out_labels: np.ndarray
    captions: tuple[str, ...] = ()
    """One for each training image, or none at all."""
    held_out_captions: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ()
    """What the labels mean, where it is known."""
    augmentation: Augmentation | None = None
    """What each batch of training images goes through; held-out images never do."""
    _resized: dict[Size, np.ndarray] = field(default_factory=dict, repr=False)
    _held_out_resized: dict[Size, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def resolution(self) -> int:
        """Edge length of the images."""
        return int(self.images.shape[1])

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return int(self.images.shape[3])

    @property
    def classes(self) -> int:
        """Number of labels."""
        return int(max(self.labels.max(), self.held_out_labels.max())) + 1

    @cached_property
    def sigma_data(self) -> float:
        """Standard deviation of what the network sees (pixels in [-1, 1], or latents), over the first 4,096 images."""
        first = self.images[:4096].astype(np.float32)
        return float(np.std(first / 127.5 - 1 if self.images.dtype == np.uint8 else first))

    def at(self, resolution: Size) -> np.ndarray:
        """The training images at an edge length or a (height, width): area-averaged once, then kept.

        Latents are not averaged: they are encoded from pictures of each size beforehand.
        """
        return self._once(self._resized, self.images, resolution)

    def held_out_at(self, resolution: Size) -> np.ndarray:
        """The held-out images, as ``at``."""
        return self._once(self._held_out_resized, self.held_out_images, resolution)

    def scaled(self, resolution: Size) -> Dataset:
        """This dataset with all its images, the held-out ones too, area-averaged to ``resolution``."""
        if resolution in (self.resolution, self.images.shape[1:3]):
            return self
        sizes: dict[str, Any] = {"_resized": {}, "_held_out_resized": {}}
        return replace(self, images=self.at(resolution), held_out_images=self.held_out_at(resolution), **sizes)

    def batch(self, first_image: int, count: int, seed: int, resolution: Size) -> Batch:
        """The next ``count`` images after ``first_image`` have been seen, at ``resolution``: a function of its arguments."""
        indices = self.batch_indices(first_image, count, seed)
        images = self.at(resolution)[indices]
        if self.augmentation is not None:
            images = self.augmentation(images, seed, first_image)
        return Batch(images, self.labels[indices], indices, np.ones(count, np.float32))

    def batch_indices(self, first_image: int, count: int, seed: int) -> np.ndarray:
        """Indices of the next ``count`` images after ``first_image`` have been seen: a new order each epoch."""
        positions = np.arange(first_image, first_image + count)
        epochs, offsets = np.divmod(positions, len(self.images))
        return np.concatenate([self._order(int(epoch), seed)[offsets[epochs == epoch]] for epoch in np.unique(epochs)])

    def _once(self, kept: dict[Size, np.ndarray], images: np.ndarray, resolution: Size) -> np.ndarray:
        if resolution in (self.resolution, images.shape[1:3]):
            return images
        if resolution not in kept:
            kept[resolution] = resize(images, resolution)
        return kept[resolution]

    def _order(self, epoch: int, seed: int) -> np.ndarray:
        cached = getattr(self, "_last_order", None)
        if cached is None or cached[0] != (epoch, seed):
            cached = ((epoch, seed), np.random.default_rng([seed, epoch]).permutation(len(self.images)))
            self._last_order = cached
        return cached[1]


def split(count: int, held_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices (training, held out) of ``count`` images in an order that is always the same; at most a tenth is held out."""
    order = np.random.default_rng(0).permutation(count)
    apart = min(held_out, max(1, count // 10))
    return order[apart:], order[:apart]
