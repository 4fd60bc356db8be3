"""What a framework holds of the machine's memory: MPS, CUDA, MLX, or the process itself."""

from __future__ import annotations

import os
import re
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes in use, bytes kept for reuse, and the highest use since the last reading; 0 is unknown."""

    active_bytes: int = 0
    cache_bytes: int = 0
    peak_bytes: int = 0


Reading = Callable[[], Memory]


def of_torch(torch: Any, device: str) -> Reading:
    """The reading for a device type of PyTorch: ``mps``, ``cuda``; everything else is the process."""
    if device == "mps":
        return lambda: mps_memory(torch.mps)
    if device == "cuda":
        return lambda: cuda_memory(torch.cuda)
    return process_memory


def mps_memory(mps: Any) -> Memory:
    """PyTorch on an Apple GPU, which counts no peak: the driver's allocation, which only grows, stands for it."""
    active, driver = int(mps.current_allocated_memory()), int(mps.driver_allocated_memory())
    return Memory(active, max(0, driver - active), driver)


def cuda_memory(cuda: Any) -> Memory:
    """PyTorch on an NVIDIA GPU."""
    active, peak = int(cuda.memory_allocated()), int(cuda.max_memory_allocated())
    cuda.reset_peak_memory_stats()
    return Memory(active, max(0, int(cuda.memory_reserved()) - active), peak)


def mlx_memory(core: Any) -> Memory:
    """MLX on any device; ``core`` is ``mlx.core``."""
    memory = Memory(int(core.get_active_memory()), int(core.get_cache_memory()), int(core.get_peak_memory()))
    core.reset_peak_memory()
    return memory


def process_memory() -> Memory:
    """The resident memory of this process: what PyTorch's CPU allocator shows of itself."""
    if sys.platform == "linux":
        return _linux_memory()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS; of the whole life
    return Memory(0, 0, int(peak))


def _linux_memory() -> Memory:
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            memory = parse_status(file.read())
        descriptor = os.open("/proc/self/clear_refs", os.O_WRONLY)
        try:
            os.write(descriptor, b"5")  # the peak begins anew: proc(5), since Linux 4.0
        finally:
            os.close(descriptor)
    except OSError:
        return Memory(0, 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    return memory


def parse_status(text: str) -> Memory:
    """VmRSS and VmHWM of ``/proc/self/status``."""
    kibibytes = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", text, re.MULTILINE))
    active = int(kibibytes.get("VmRSS", 0)) * 1024
    return Memory(active, 0, max(active, int(kibibytes.get("VmHWM", 0)) * 1024))


def torch_cache_clearing(torch: Any, device: str) -> Callable[[], object] | None:
    """What gives cached blocks back after a change of shapes; None where nothing is cached."""
    module = {"mps": torch.mps, "cuda": torch.cuda}.get(device) if device in ("mps", "cuda") else None
    return module.empty_cache if module is not None else None
