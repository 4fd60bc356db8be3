"""Cut one batch into pieces for smaller forward passes: whatever a loader collates, without knowing the framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

UNKNOWN = 0
MAX_SHAPES = 8
"""Most sizes of pieces that are offered: each is a shape, for which the framework keeps memory."""


class NotDivisible(ValueError):  # noqa: N818 - it is an answer, not a fault
    """A batch holds something of which nobody knows how to cut it."""


def images_in(batch: Any) -> int:
    """How many images a batch holds: the first length of its first tensor; UNKNOWN without one."""
    shape = getattr(batch, "shape", None)
    if shape is not None:
        return int(shape[0]) if len(shape) else UNKNOWN
    for part in _parts(batch):
        count = images_in(part)
        if count != UNKNOWN:
            return count
    return UNKNOWN


def cut(batch: Any, size: int) -> list[Any]:
    """Pieces of at most ``size`` images, in order; raises NotDivisible for a batch that cannot be cut evenly."""
    images = images_in(batch)
    if images == UNKNOWN:
        raise NotDivisible("the batch holds no tensor whose first length is the number of images")
    return [_part(batch, slice(start, start + size), images) for start in range(0, images, size)]


def _part(value: Any, where: slice, images: int) -> Any:
    shape = getattr(value, "shape", None)
    if shape is not None:
        if len(shape) == 0:
            return value
        if shape[0] != images:
            raise NotDivisible(f"a tensor has the shape {tuple(shape)}, the batch {images} images")
        return value[where]
    if isinstance(value, Mapping):
        return _like_mapping(value, {key: _part(part, where, images) for key, part in value.items()})
    if isinstance(value, (list, tuple)):
        return _sequence(value, where, images)
    if value is None or isinstance(value, (str, bytes, int, float, bool)):
        return value
    raise NotDivisible(f"the batch holds {type(value).__name__}, which nobody knows how to cut")


def _sequence(value: Any, where: slice, images: int) -> Any:
    """A collection of tensors is cut one by one; a list of anything else, such as captions, is one entry for each image."""
    if any(_holds_tensors(part) for part in value):
        parts = [_part(part, where, images) for part in value]
    elif len(value) == images:
        parts = list(value[where])
    else:
        raise NotDivisible(f"the batch holds {len(value)} x {type(value[0]).__name__ if value else 'nothing'}, not {images}")
    if hasattr(value, "_fields"):
        return type(value)(*parts)
    return type(value)(parts)


def _holds_tensors(value: Any) -> bool:
    return hasattr(value, "shape") or any(_holds_tensors(part) for part in _parts(value))


def _parts(value: Any) -> Sequence[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return value if isinstance(value, (list, tuple)) else ()


def _like_mapping(original: Mapping[Any, Any], parts: dict[Any, Any]) -> Any:
    """The same type where it takes a dict, as BatchEncoding and BatchFeature do."""
    try:
        return parts if type(original) is dict else type(original)(parts)  # type: ignore[call-arg]
    except TypeError:
        return parts


def divisors(batch: int) -> list[int]:
    """Sizes into which a batch can be cut without a remainder, which would be one more shape: the largest of them."""
    return [size for size in range(batch, 0, -1) if batch % size == 0][:MAX_SHAPES]
