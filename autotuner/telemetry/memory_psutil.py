"""Memory as psutil sees it: the last resort on every platform."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from autotuner.telemetry.sensor import Reading, Unavailable, checked

READ = {
    "virtual_memory": {"memory_total_bytes": "total", "memory_available_bytes": "available"},
    "swap_memory": {"swap_used_bytes": "used"},
}
"""The calls, and which of their fields are which quantity. Of macOS psutil tells no pressure, and its ``sin`` and ``sout`` are
pages read and written, not swapped; it has no temperatures there."""


class MemoryPsutil:
    """Total, available and swap by psutil, of which some versions raise RuntimeError on newer macOS."""

    name = "memory_psutil"
    source = "psutil"

    def read(self, now: float) -> tuple[Reading, ...]:
        """Total and available memory, and swap in use; one call that fails does not cost what the other tells."""
        try:
            import psutil
        except ImportError:
            raise Unavailable("psutil is not installed") from None
        readings: list[Reading] = []
        failures: list[str] = []
        for call, fields in READ.items():
            try:
                readings += self._told(getattr(psutil, call), fields)
            except (Unavailable, RuntimeError, OSError) as error:  # psutil issue 2853: "(ipc/mig) array not large enough"
                failures.append(f"{call}: {error}")
        if not readings:
            raise Unavailable(f"psutil failed: {'; '.join(failures)}")
        return tuple(readings)

    def _told(self, call: Callable[[], Any], fields: dict[str, str]) -> Iterator[Reading]:
        answer = call()
        for quantity, field in fields.items():
            yield checked(quantity, getattr(answer, field), self.source)
