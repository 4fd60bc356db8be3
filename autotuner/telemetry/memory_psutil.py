"""Memory as psutil sees it: the last resort on every platform."""

from __future__ import annotations

from autotuner.telemetry.sensor import Reading, Unavailable, checked


class MemoryPsutil:
    """Total, available and swap by psutil, of which some versions raise RuntimeError on newer macOS."""

    name = "memory_psutil"
    source = "psutil"

    def read(self, now: float) -> tuple[Reading, ...]:
        """Total and available memory, and swap in use."""
        try:
            import psutil

            memory, swap = psutil.virtual_memory(), psutil.swap_memory()
        except ImportError:
            raise Unavailable("psutil is not installed") from None
        except (RuntimeError, OSError) as error:  # psutil issue 2853: "(ipc/mig) array not large enough"
            raise Unavailable(f"psutil failed: {error}") from None
        return (
            checked("memory_total_bytes", memory.total, self.source),
            checked("memory_available_bytes", memory.available, self.source),
            checked("swap_used_bytes", swap.used, self.source),
        )
