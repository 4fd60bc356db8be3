"""Images out of a denoiser: class labels, noise, a solver and its grid of noise levels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from autotuner.diffusion import betas
from autotuner.diffusion.blas import mx
from autotuner.diffusion.distillation.segments import CLOCKS, ends
from autotuner.diffusion.noise import rho_schedule
from autotuner.diffusion.solvers import SOLVERS

CHUNK = 32
Network = Callable[[mx.array, mx.array, mx.array], mx.array]
"""D(x, sigma, label): a denoiser, guided or not."""


def student_schedule(steps: int, sigma_min: float, sigma_max: float, clock: str = "cosine") -> np.ndarray:
    """The ends of a student's segments, downwards: what multistep consistency distillation trains for."""
    return ends(steps, sigma_min, sigma_max, CLOCKS[clock])


def teacher_schedule(steps: int, sigma_min: float, sigma_max: float) -> np.ndarray:
    """The grid for solvers: rho = 7."""
    return rho_schedule(steps, sigma_min, sigma_max)


def told_levels(process: str, beta_schedule: str, sigma_min: float, sigma_max: float) -> tuple[float, float]:
    """The part of sigma_min to sigma_max that the process can tell its network: the steps of a variance-preserving one end.

    It does not reach up to that end: the last steps of the linear and the cosine schedule (157 and 20,291) hold hardly more
    than noise, and few-step samplers that begin there do worse.
    """
    if not process.startswith("vp_"):
        return sigma_min, sigma_max
    table = betas.sigmas(beta_schedule)
    return max(sigma_min, float(table[0])), min(sigma_max, float(table[-1]))


def solve(
    denoiser: Network, labels: np.ndarray, shape: tuple[int, int, int], sigmas: np.ndarray, solver: str, seed: int
) -> np.ndarray:
    """float32 images (count, height, width, channels), one for each label, as the solver leaves them: about in [-1, 1].

    The same seed gives the same noise, whatever solver and grid.
    """
    noise = np.random.default_rng(seed).standard_normal((len(labels), *shape)).astype(np.float32)
    parts = []
    for start in range(0, len(labels), CHUNK):
        label = mx.array(labels[start : start + CHUNK].astype(np.int32))
        x = mx.array(noise[start : start + CHUNK]) * float(sigmas[0])
        x = SOLVERS[solver](partial(_labelled, denoiser, label), x, [float(s) for s in sigmas])
        parts.append(np.array(x.astype(mx.float32)))
    return np.concatenate(parts)


def generate(
    denoiser: Network, labels: np.ndarray, shape: tuple[int, int, int], sigmas: np.ndarray, solver: str, seed: int
) -> np.ndarray:
    """uint8 images (count, height, width, channels), one for each label; the same seed gives the same noise.

    A network of latents decodes them itself: its images are larger than ``shape``.
    """
    decode = getattr(getattr(denoiser, "network", None), "decode", to_pixels)
    return np.asarray(decode(solve(denoiser, labels, shape, sigmas, solver, seed)))


def to_pixels(images: np.ndarray) -> np.ndarray:
    """float32 images in [-1, 1] as uint8, what lies outside at the border; a pixel that is not a number is black."""
    return np.clip(np.nan_to_num(np.rint((images + 1) * np.float32(127.5)), nan=0.0), 0, 255).astype(np.uint8)


def evaluations(solver: str, sigmas: np.ndarray) -> int:
    """Network evaluations that ``solver`` spends on one image: counted, with a denoiser that costs nothing."""
    count = 0

    def counted(x: mx.array, sigma: mx.array) -> mx.array:
        nonlocal count
        count += 1
        return x * 0

    SOLVERS[solver](counted, mx.ones((1, 1, 1, 1)), [float(s) for s in sigmas])
    return count


def _labelled(denoiser: Network, label: mx.array, x: mx.array, sigma: mx.array) -> mx.array:
    return denoiser(x, sigma, label)


def save_grid(images: np.ndarray, path: str, columns: int = 8, zoom: int = 2) -> None:
    """Write images as one PNG, row by row."""
    from PIL import Image

    rows = -(-len(images) // columns)
    count, height, width, channels = images.shape
    canvas = np.zeros((rows * columns, height, width, channels), np.uint8)
    canvas[:count] = images
    grid = canvas.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    pixels = grid.reshape(rows * height, columns * width, channels)
    picture = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST).save(path)
