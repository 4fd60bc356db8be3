"""What every adapter does around an optimizer step: rest for pace, read the memory, report, follow the cache limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from autotuner.adapters.device_memory import Memory, Reading
from autotuner.adapters.pause import Pauses
from autotuner.messages import NAN

if TYPE_CHECKING:
    from autotuner.hook import Run

PACES = (0.5, 0.6, 0.7, 0.85, 1.0)


class Training:
    """One training loop around a run of the hook; also for a loop of one's own, see ``examples/own_loop_torch.py``.

    ``memory`` reads what the framework holds, ``set_cache_limit`` gives the knob ``cache_limit`` to its allocator.
    """

    def __init__(
        self,
        run: Run,
        *,
        memory: Reading = Memory,
        set_cache_limit: Callable[[int], object] | None = None,
        pauses: Pauses | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.run = run
        self.step = 0
        self.images = 0
        self._memory = memory
        self._set_cache_limit = set_cache_limit
        self._cache_limit: int | None = None
        self._pauses = pauses or Pauses()
        self._clock = clock
        self._began: float | None = None
        self._first = {name: run.knobs[name] for name in run.knobs}
        self._moved: dict[str, None] = {}

    def rest(self) -> None:
        """Pause for pace; call it after each forward and backward pass, so that the pauses are many and short."""
        self._pauses.rest(self.knob("pace", 1.0))

    def stepped(self, loss: float | None, images: int = 0, step: int | None = None, flags: int = 0) -> None:
        """Tell that an optimizer step is done: ``images`` of it, ``step`` when the trainer counts by itself."""
        self.step = self.step + 1 if step is None else step
        self.images += images
        memory = self._memory()
        now = self._clock()
        self.run.report(
            self.step,
            loss,
            images=self.images,
            step_seconds=NAN if self._began is None else now - self._began,
            active_bytes=memory.active_bytes,
            cache_bytes=memory.cache_bytes,
            peak_bytes=memory.peak_bytes,
            flags=flags,
        )
        self._began = now
        self._moved |= {name: None for name, value in self._first.items() if self.run.knobs[name] != value}
        self._follow_cache_limit()

    @property
    def summary(self) -> str:
        """Which knobs have moved, for the last line of a script: ``412 steps; moved: pace; not moved: micro_batch``."""
        still = [name for name in self._first if name not in self._moved]
        return f"{self.step} steps; moved: {', '.join(self._moved) or 'no knob'}; not moved: {', '.join(still) or 'no knob'}"

    def knob(self, name: str, otherwise: Any) -> Any:
        """The value in force of a knob, or ``otherwise`` when the run does not offer it."""
        knobs = self.run.knobs
        return knobs[name] if name in knobs else otherwise  # noqa: SIM401 - it is no dict and has no get

    def _follow_cache_limit(self) -> None:
        limit = self.knob("cache_limit", None)
        if limit is not None and limit != self._cache_limit and self._set_cache_limit is not None:
            self._cache_limit = int(limit)
            self._set_cache_limit(self._cache_limit)
