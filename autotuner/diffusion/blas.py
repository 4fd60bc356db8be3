"""The one door to MLX: loads a fast BLAS before MLX and switches off what costs more than it brings on a CPU."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

# Before NumPy, whose own OpenBLAS reads it once: small products and eigenvectors get slower with more threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

CANDIDATES: tuple[str, ...] = tuple(
    f"/usr/lib/{triplet}/openblas-{threading}/libopenblas.so.0"
    for triplet in ("x86_64-linux-gnu", "aarch64-linux-gnu")
    for threading in ("pthread", "openmp", "serial")
)
ADVICE = "apt-get install libopenblas0-pthread"
TOLERANCE = 1e-3
"""Largest relative error of the self-check; some CPUs pick a broken OpenBLAS kernel (set OPENBLAS_CORETYPE then)."""


@dataclass(frozen=True)
class BlasStatus:
    """Which BLAS multiplies matrices in this process, and what to do when it is the slow one."""

    path: str | None
    needed: bool
    """False on macOS, where the MLX wheel uses Accelerate and Metal."""
    matmul_error: float
    """Relative error of one product against NumPy."""
    compiled: bool
    """Whether mx.compile is on."""

    @property
    def healthy(self) -> bool:
        """Whether matrix products are right and as fast as this machine allows."""
        return self.matmul_error <= TOLERANCE and (self.path is not None or not self.needed)

    @property
    def sentence(self) -> str:
        """One line for doctor and demo."""
        if self.matmul_error > TOLERANCE:
            return f"matrix products are wrong by {self.matmul_error:.1e} with {self.path}; set OPENBLAS_CORETYPE=Haswell"
        if not self.needed:
            return "MLX brings its own BLAS on this platform"
        return f"OpenBLAS from {self.path}" if self.path else f"no OpenBLAS: training is 10 to 20 times slower; {ADVICE}"


def load_openblas(paths: Iterable[str] = CANDIDATES, loader: Callable[..., Any] = ctypes.CDLL) -> str | None:
    """Load the first OpenBLAS that exists, its symbols visible to MLX, and return its path; None when there is none.

    The Linux wheel of MLX is linked to the reference BLAS (about 5 GFLOP/s); symbols that are already global win.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for path in paths:
        if Path(path).exists():
            try:
                loader(path, mode=ctypes.RTLD_GLOBAL)
            except OSError:
                continue
            return path
    return None


def matmul_error(module: ModuleType, size: int = 48) -> float:
    """Relative error of one matrix product of ``module`` against NumPy in double precision."""
    values = np.sin(np.arange(2 * size * size, dtype=np.float64)).astype(np.float32)
    left, right = values[: size * size].reshape(size, size), values[size * size :].reshape(size, size)
    expected = left.astype(np.float64) @ right.astype(np.float64)
    return float(np.abs(np.array(module.array(left) @ module.array(right)) - expected).max() / np.abs(expected).max())


_NEEDED = sys.platform.startswith("linux")
_PATH = load_openblas() if _NEEDED and "mlx.core" not in sys.modules else None

import mlx.core as mx  # noqa: E402  must follow the loading of OpenBLAS

# On the CPU backend every first trace calls g++ once per fused kernel: 18 s for the smallest model, for 10 % of speed.
COMPILED = not _NEEDED or mx.default_device() != mx.cpu or os.environ.get("AUTOTUNER_MLX_COMPILE") == "1"
if not COMPILED:
    mx.disable_compile()


def status() -> BlasStatus:
    """What this process multiplies with, checked now."""
    return BlasStatus(_PATH, _NEEDED, matmul_error(mx), COMPILED)


__all__ = ["ADVICE", "CANDIDATES", "COMPILED", "BlasStatus", "load_openblas", "matmul_error", "mx", "status"]
