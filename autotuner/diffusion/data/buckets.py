"""Pictures of many aspects in batches of a few shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from autotuner.diffusion.data.area import Size, resize
from autotuner.diffusion.data.dataset import HELD_OUT, Batch, Dataset, split
from autotuner.diffusion.data.folder import FOLDER_EDGE, chosen, decoded, fitted, list_folder
from autotuner.diffusion.data.shapes import MOST_SHAPES, Shape, assign, choose_shapes
from autotuner.errors import DatasetError


@dataclass
class Bucket:
    """The training pictures of one shape."""

    shape: Shape
    images: np.ndarray
    """uint8 (count, height, width, channels)."""
    members: np.ndarray
    """(count,): their indices in the dataset."""
    _resized: dict[tuple[int, int], np.ndarray] = field(default_factory=dict, repr=False)

    def at(self, size: tuple[int, int]) -> np.ndarray:
        """The pictures area-averaged to (height, width): once, then kept."""
        if size == self.images.shape[1:3]:
            return self.images
        if size not in self._resized:
            self._resized[size] = resize(self.images, size)
        return self._resized[size]


@dataclass
class BucketedDataset(Dataset):
    """A dataset whose training batches have the pictures' own aspects, each batch one shape.

    ``images`` and the held-out part stay squares around the middle: what evaluation and the features use. Only ``batch``
    differs: in one epoch every picture comes exactly once. What is left of a bucket after its full batches makes one more,
    filled up with other pictures of the bucket at weight 0. Positions count these fillers too.
    """

    buckets: tuple[Bucket, ...] = ()
    unit: int = 1
    """Every side of every batch is a multiple of it."""

    def shapes_at(self, resolution: int) -> tuple[tuple[int, int], ...]:
        """(height, width) of each bucket when a square picture would have this edge."""
        return tuple(self._size(bucket.shape, resolution) for bucket in self.buckets)

    def epoch_images(self, count: int) -> int:
        """Positions of one epoch in batches of ``count``, fillers included."""
        return count * sum(-(-len(bucket.members) // count) for bucket in self.buckets)

    def batch(self, first_image: int, count: int, seed: int, resolution: Size) -> Batch:
        """The batch at a position, which must be a multiple of ``count``; raises DatasetError for another."""
        if first_image % count or not isinstance(resolution, int):
            raise DatasetError(
                f"position {first_image}, batch of {count}, resolution {resolution!r}; "
                "buckets allow batches of one size throughout and a resolution that is one edge"
            )
        epoch, number = divmod(first_image // count, self.epoch_images(count) // count)
        which, places, weights = self._epoch(epoch, count, seed)[number]
        bucket = self.buckets[which]
        images, indices = bucket.at(self._size(bucket.shape, resolution))[places], bucket.members[places]
        if self.augmentation is not None:
            images = self.augmentation(images, seed, first_image)
        return Batch(images, self.labels[indices], indices, weights)

    def _size(self, shape: Shape, resolution: int) -> tuple[int, int]:
        if resolution == self.resolution:
            return shape.height, shape.width
        sides = (round(side * resolution / self.resolution / self.unit) * self.unit for side in (shape.height, shape.width))
        height, width = (max(side, self.unit) for side in sides)
        return height, width

    def _epoch(self, epoch: int, count: int, seed: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """(bucket, places in it, weights) of every batch of an epoch, in order."""
        cached = getattr(self, "_last_epoch", None)
        if cached is None or cached[0] != (epoch, count, seed):
            generator = np.random.default_rng([seed, epoch])
            batches = [part for which in range(len(self.buckets)) for part in self._batches(which, count, generator)]
            cached = ((epoch, count, seed), [batches[i] for i in generator.permutation(len(batches))])
            self._last_epoch = cached
        return cached[1]

    def _batches(self, which: int, count: int, generator: np.random.Generator) -> list[tuple[int, np.ndarray, np.ndarray]]:
        members = len(self.buckets[which].members)
        batches = -(-members // count)
        order = np.arange(batches * count)
        # noise levels ascend within a batch: with all fillers at its end, no picture of the last one would see strong noise
        order[-count:] = generator.permutation(order[-count:])
        places = np.resize(generator.permutation(members), batches * count)[order]
        weights = (order < members).astype(np.float32)
        return [(which, places[i : i + count], weights[i : i + count]) for i in range(0, batches * count, count)]


def read_buckets(
    path: Path,
    resolution: int = FOLDER_EDGE,
    unit: int = 1,
    held_out: int = HELD_OUT,
    *,
    edges: Sequence[int] = (),
    at_most: int = MOST_SHAPES,
) -> BucketedDataset:
    """A folder of pictures (see ``read_folder``) in batches of at most ``at_most`` shapes.

    ``edges`` are the pixel budgets (by default ``resolution`` alone), ``unit`` is what the network divides sides by. Raises
    DatasetError that names the folder or the file.
    """
    listing = list_folder(path)
    rest, kept = split(len(listing.files), held_out)
    sizes = [decoded(listing.files[i], lambda picture: (picture.height, picture.width)) for i in rest]
    shapes = choose_shapes(sizes, edges or (resolution,), unit, at_most)
    shape_of = np.array([assign(size, shapes) for size in sizes])
    buckets = []
    for which, shape in enumerate(shapes):
        members = np.flatnonzero(shape_of == which)
        pictures = [_shaped(listing.files[rest[i]], (shape.height, shape.width)) for i in members]
        if pictures:
            buckets.append(Bucket(shape, np.stack(pictures), members))
    return BucketedDataset(
        path.name,
        f"{len(listing.files)} pictures of {path} in {len(buckets)} shapes",
        np.stack([_shaped(listing.files[i], resolution) for i in rest]),
        listing.labels[rest],
        np.stack([_shaped(listing.files[i], resolution) for i in kept]),
        listing.labels[kept],
        captions=chosen(listing.captions, rest),
        held_out_captions=chosen(listing.captions, kept),
        label_names=listing.label_names,
        buckets=tuple(buckets),
        unit=unit,
    )


def _shaped(file: Path, size: Size) -> np.ndarray:
    return decoded(file, lambda picture: fitted(picture, size))
