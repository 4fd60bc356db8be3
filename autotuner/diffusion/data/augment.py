"""Augmentation that is a function of (seed, position of the image in the run): a resumed run sees the same pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Augment:
    """Mirror half of the images, move each a little (the border repeats) and turn its hue."""

    flip: bool = True
    shift: float = 1 / 16
    """Longest move in either direction, as a share of the edge."""
    hue_radians: float = 0.3
    """Largest turn about the grey axis; greys, white and black stay as they are. Grey images are left alone."""

    def __call__(self, images: np.ndarray, seed: int, first_image: int) -> np.ndarray:
        """Images (count, height, width, channels) of the positions from ``first_image`` on, in shape and type as given."""
        chance = uniforms(seed, first_image, len(images), 4)
        height, width = images.shape[1:3]
        rows = _places(height, self._moves(chance[:, 0], height))
        columns = _places(width, self._moves(chance[:, 1], width))
        mirrored = chance[:, 2] < 0.5 if self.flip else np.zeros(len(images), bool)
        columns = np.where(mirrored[:, None], columns[:, ::-1], columns)
        moved = images[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]
        return self._turn_hue(moved, chance[:, 3]) if self.hue_radians and images.shape[3] == 3 else moved

    def _moves(self, chance: np.ndarray, edge: int) -> np.ndarray:
        farthest = int(self.shift * edge)
        return np.floor(chance * (2 * farthest + 1)).astype(np.int64) - farthest

    def _turn_hue(self, images: np.ndarray, chance: np.ndarray) -> np.ndarray:
        turned = images.astype(np.float32).reshape(len(images), -1, 3) @ hue_turns(self.hue_radians * (2 * chance - 1))
        turned = turned.reshape(images.shape)
        return np.clip(np.rint(turned), 0, 255).astype(np.uint8) if images.dtype == np.uint8 else turned.astype(images.dtype)


def _places(edge: int, moves: np.ndarray) -> np.ndarray:
    """Which pixel of a line each of the ``edge`` places shows, (count, edge)."""
    return np.clip(np.arange(edge)[None, :] - moves[:, None], 0, edge - 1)


def hue_turns(radians: np.ndarray) -> np.ndarray:
    """Rotations (count, 3, 3) of RGB row vectors about the grey axis: circulant, so that each row adds up to 1."""
    third = 2 * np.pi / 3
    first, second, last = ((1 + 2 * np.cos(radians + k * third)) / 3 for k in (0, 1, 2))
    rows = [np.stack(row, -1) for row in ((first, second, last), (last, first, second), (second, last, first))]
    return np.stack(rows, axis=1).astype(np.float32)


def uniforms(seed: int, first: int, count: int, lanes: int) -> np.ndarray:
    """Numbers in [0, 1), shape (count, lanes), each a hash of (seed, position, lane).

    A counter-based generator: the SplitMix64 finaliser (Steele et al. 2014, Fig. 17) over a Weyl sequence.
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    position = np.arange(first, first + count, dtype=np.uint64)[:, None] * np.uint64(lanes) + np.arange(lanes, dtype=np.uint64)
    state = (position + np.uint64(1)) * golden
    return (_mixed(state ^ _mixed(np.full(1, seed % 2**64, np.uint64) + golden)) >> np.uint64(11)) * 2.0**-53


def _mixed(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
