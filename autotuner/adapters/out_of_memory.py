"""The texts by which frameworks say that memory or the GPU's patience has run out."""

from __future__ import annotations

import re

# Sources: MPS: aten/src/ATen/mps/MPSAllocator.mm; CUDA: c10/cuda/CUDACachingAllocator.cpp; CPU: c10/core/impl/alloc_cpu.cpp;
# MLX: mlx/backend/metal/allocator.cpp and mlx issues 3267 and 4464.
OUT_OF_MEMORY: dict[str, str] = {
    "MPS": r"MPS backend out of memory|kIOGPUCommandBufferCallbackErrorOutOfMemory",
    "MLX": r"\[metal::malloc\]|\[malloc_or_wait\]|\[malloc\] Unable to allocate",
    "CUDA": r"CUDA out of memory|torch\.(cuda\.)?OutOfMemoryError|CUDNN_STATUS_ALLOC_FAILED|CUDA error: out of memory",
    "PyTorch on the CPU": r"DefaultCPUAllocator: (can't|not enough)",
    "Python": r"^MemoryError\b|numpy\.\S*ArrayMemoryError",
}
"""Who says it, to the pattern of what it says."""

GPU_WATCHDOG = r"kIOGPUCommandBufferCallbackError(Timeout|ImpactingInteractivity|SubmissionsIgnored)|Caused GPU (Timeout|Hang)"
"""macOS ends GPU work that keeps the display waiting, however much memory there is (mlx issue 3267)."""


def out_of_memory(text: str) -> str:
    """Who ran out of memory according to ``text``: a key of OUT_OF_MEMORY, empty when nobody says so."""
    return next((who for who, pattern in OUT_OF_MEMORY.items() if re.search(pattern, text, re.MULTILINE)), "")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this exception says that memory ran out."""
    return bool(out_of_memory(f"{type(error).__name__}: {error}")) or isinstance(error, MemoryError)
