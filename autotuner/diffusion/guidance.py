"""Classifier-free guidance around any denoiser that was trained with some of its labels left out."""

from __future__ import annotations

from autotuner.diffusion.blas import mx
from autotuner.diffusion.precondition import Denoiser


class Guided:
    """D_w = D(x, no label) + w (D(x, label) - D(x, no label)) (Ho and Salimans 2022, Eq. 6, with w = 1 for no guidance).

    Both answers come from one pass of twice the batch.
    """

    def __init__(self, denoiser: Denoiser, classes: int, scale: float) -> None:
        self.denoiser = denoiser
        self.classes = classes
        """Also the label that means none."""
        self.scale = scale
        """w; 1 asks the denoiser once, as it is."""
        self.network = denoiser.network

    @property
    def sigma_data(self) -> float:
        """Standard deviation of the data."""
        return self.denoiser.sigma_data

    def __call__(self, x: mx.array, sigma: mx.array, label: mx.array) -> mx.array:
        """Denoise images (batch, height, width, channels) whose noise has standard deviation ``sigma`` (batch,)."""
        if self.scale == 1:
            return self.denoiser(x, sigma, label)
        none = mx.full(label.shape, self.classes, dtype=label.dtype)
        both = self.denoiser(mx.concatenate([x, x]), mx.concatenate([sigma, sigma]), mx.concatenate([label, none]))
        told, untold = mx.split(both, 2)
        return untold + self.scale * (told - untold)
