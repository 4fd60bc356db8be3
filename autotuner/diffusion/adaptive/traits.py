"""Cheap numbers about a half-made sample: what a head may decide by, next to nothing beside one evaluation of the network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from autotuner.diffusion.blas import mx

THUMBNAIL = 3
"""The newest denoised picture is also seen as THUMBNAIL x THUMBNAIL mean values."""
MOST_CLASSES = 32
"""Labels of more classes are left out."""
MEASURES = (
    "log_size",
    "mean",
    "log_roughness",
    "saturation",
    "log_change",
    "log_change_roughness",
    "mean_change",
    "turn",
    "agreement",
)
"""Of the newest D, of its change since the one before, of the turn between the last two changes, and of D with the noise."""
_LEAST = 1e-6


def names(classes: int) -> tuple[str, ...]:
    """What the columns of ``traits`` are called."""
    places = (f"thumbnail_{row}_{column}" for row in range(THUMBNAIL) for column in range(THUMBNAIL))
    return (*MEASURES, *places, *(f"class_{label}" for label in range(_marks(classes))))


def traits(known: Sequence[mx.array], label: mx.array, classes: int) -> mx.array:
    """Numbers about each sample, shape (batch, len(names(classes))), float32.

    ``known`` is the start (batch, height, width, channels) and the outputs D_0, D_1, ... so far. What needs more outputs than
    there are is 0.
    """
    batch = known[0].shape[0]
    nothing = mx.zeros((batch,))
    start, outputs = known[0], known[1:]
    columns = [nothing] * (len(MEASURES) + THUMBNAIL**2)
    if outputs:
        newest = outputs[-1]
        columns[:4] = [_log_rms(newest), _mean(newest), _log_roughness(newest), _mean(mx.square(mx.square(newest)))]
        columns[8] = _cosine(newest, start)
        columns[len(MEASURES) :] = _thumbnail(newest)
    if len(outputs) > 1:
        change = outputs[-1] - outputs[-2]
        columns[4:7] = [_log_rms(change), _log_roughness(change), _mean(change)]
        if len(outputs) > 2:
            columns[7] = _cosine(change, outputs[-2] - outputs[-3])
    marks = (label[:, None] == mx.arange(_marks(classes))[None]).astype(mx.float32)
    return mx.concatenate([mx.stack(columns, axis=1).astype(mx.float32), marks], axis=1)


def _marks(classes: int) -> int:
    return classes if 1 < classes <= MOST_CLASSES else 0


def _mean(picture: mx.array) -> mx.array:
    return mx.mean(picture, axis=(1, 2, 3))


def _log_rms(picture: mx.array) -> mx.array:
    return 0.5 * mx.log(_mean(mx.square(picture)) + _LEAST)


def _log_roughness(picture: mx.array) -> mx.array:
    down, right = picture[:, 1:] - picture[:, :-1], picture[:, :, 1:] - picture[:, :, :-1]
    return 0.5 * mx.log(_mean(mx.square(down)) + _mean(mx.square(right)) + _LEAST)


def _cosine(a: mx.array, b: mx.array) -> mx.array:
    return _mean(a * b) * mx.rsqrt(_mean(mx.square(a)) * _mean(mx.square(b)) + _LEAST**2)


def _thumbnail(picture: mx.array) -> list[mx.array]:
    height, width = picture.shape[1:3]
    return [_mean(picture[:, rows, columns]) for rows in _thirds(height) for columns in _thirds(width)]


def _thirds(size: int) -> list[slice]:
    ends = [size * part // THUMBNAIL for part in range(THUMBNAIL + 1)]
    return [slice(begin, max(end, begin + 1)) for begin, end in pairwise(ends)]
