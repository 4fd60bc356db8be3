"""The fixed measurement: loss on held-out images with fixed noise at fixed levels, of averaged weights.

It depends on no knob, so it compares any two moments of a run and any two runs on the same images. At a lower resolution
the images are made as training's are (``Dataset.held_out_at``) and the levels shrink alike (``resolution_scale``); values
of two resolutions do not compare with each other.
"""

from __future__ import annotations

import mlx.nn as nn
import numpy as np

from autotuner.diffusion.blas import mx
from autotuner.diffusion.data import Dataset
from autotuner.diffusion.loss import denoising_errors, to_model
from autotuner.diffusion.noise import reference_sigmas, resolution_scale

BINS = 10
CHUNK = 32
SEED = 20240607


class HeldOut:
    """Images, noise and levels of the measurement, drawn once; at ``resolution``, or at the images' own."""

    def __init__(self, dataset: Dataset, count: int, resolution: int | None = None) -> None:
        resolution = resolution or dataset.resolution
        images = dataset.held_out_at(resolution)
        count = min(count, len(images))
        which = np.arange(max(count, BINS)) % count  # a few images come again, so that every noise level has one
        self.count = len(which)
        self._images = np.asarray(images[which])
        self._labels = np.asarray(dataset.held_out_labels[which], np.int32)
        self._noise = np.random.default_rng(SEED).standard_normal(self._images.shape).astype(np.float32)
        self._bins = np.arange(self.count) % BINS
        levels = reference_sigmas(BINS) * resolution_scale(resolution, dataset.resolution)
        self._sigma = levels[self._bins].astype(np.float32)

    def losses(self, denoiser: nn.Module) -> np.ndarray:
        """Mean weighted error in each of the BINS noise levels."""
        errors = []
        for start in range(0, self.count, CHUNK):
            part = slice(start, start + CHUNK)
            images, noise = mx.array(self._images[part]), mx.array(self._noise[part])
            sigma, labels = mx.array(self._sigma[part]), mx.array(self._labels[part])
            errors.append(np.array(denoising_errors(denoiser, to_model(images), labels, noise, sigma)))
        together = np.concatenate(errors)
        return np.array([together[self._bins == b].mean() for b in range(BINS)])
