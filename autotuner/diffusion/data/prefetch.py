"""The next batches are prepared on a background thread while the device works on the present one."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeVar

Request = TypeVar("Request", bound=Hashable)
"""Names what is wanted, completely: position in the run, count, resolution or view."""
Answer = TypeVar("Answer")


class Inline(Generic[Request, Answer]):
    """Prepares every batch when it is asked for, on the training thread: what a prefetch is compared with."""

    def __init__(self, prepare: Callable[[Request], Answer], clock: Callable[[], float] = time.monotonic) -> None:
        self._prepare = prepare
        self._clock = clock
        self.wait_seconds = 0.0
        """Time that ``take`` has spent preparing."""

    def take(self, request: Request) -> Answer:
        """What this request names."""
        began = self._clock()
        answer = self._prepare(request)
        self.wait_seconds += self._clock() - began
        return answer

    def close(self) -> None:
        """Nothing was begun."""


@dataclass(frozen=True)
class _Failed:
    error: BaseException


class Prefetch(Generic[Request, Answer]):
    """Hands out batches in the order in which they are asked for, most of them prepared beforehand.

    The consumer names what it wants; a prepared batch is handed out only if it was prepared for exactly that request, otherwise
    everything prepared is dropped and the batch is made anew. So a knob that moves between two steps takes effect at once and
    loses no image, and a run resumed at a position sees what it would have seen.

    ``take`` and ``close`` belong to the training thread. The worker makes NumPy arrays only; what goes wrong in it is raised
    by the ``take`` that asks for the batch concerned.
    """

    def __init__(
        self,
        prepare: Callable[[Request], Answer],
        follow: Callable[[Request], Request],
        depth: int = 2,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep up to ``depth`` answers ready.

        ``prepare`` is a pure function; ``follow`` foretells the request after one, on the training thread, and may be wrong.
        """
        self._prepare = prepare
        self._depth = depth
        self._follow = follow
        self._clock = clock
        self._changed = threading.Condition()
        self._queue: deque[Request] = deque()
        """Requests not answered yet, in order; the first one may be in the worker's hands."""
        self._ready: dict[Request, Answer | _Failed] = {}
        self._closing = False
        self._worker: threading.Thread | None = None
        self.wait_seconds = 0.0
        """Time that ``take`` has spent waiting."""
        self.dropped = 0
        """Batches that were prepared, or being prepared, for a request that never came."""

    def take(self, request: Request) -> Answer:
        """What this request names; raises what preparing it raised."""
        began = self._clock()
        self._start()
        with self._changed:
            if request not in self._ready and request not in self._queue:
                self._drop_all()
                self._queue.append(request)
                self._changed.notify_all()
            self._changed.wait_for(lambda: request in self._ready)
            answer = self._ready.pop(request)
            self._look_ahead(request)
        self.wait_seconds += self._clock() - began
        if isinstance(answer, _Failed):
            raise answer.error
        return answer

    def close(self) -> None:
        """End the worker and forget what was prepared; a later ``take`` begins anew."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._worker is not None:
            self._worker.join()
            self._worker = None
        self._drop_all()
        self._closing = False

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _start(self) -> None:
        if self._worker is None:
            self._worker = threading.Thread(target=self._work, name="autotuner-prefetch", daemon=True)
            self._worker.start()

    def _drop_all(self) -> None:
        self.dropped += len(self._ready) + len(self._queue)
        self._ready.clear()
        self._queue.clear()

    def _look_ahead(self, request: Request) -> None:
        ahead = []
        for _ in range(self._depth):
            request = self._follow(request)
            ahead.append(request)
        self.dropped += sum(wanted not in ahead for wanted in (*self._ready, *self._queue))
        self._ready = {wanted: answer for wanted, answer in self._ready.items() if wanted in ahead}
        self._queue = deque(wanted for wanted in ahead if wanted not in self._ready)
        self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._queue)
                if self._closing:
                    return
                request = self._queue[0]
            answer = self._answer(request)
            with self._changed:
                if request in self._queue:  # nobody has changed their mind meanwhile
                    self._queue.remove(request)
                    self._ready[request] = answer
                    self._changed.notify_all()

    def _answer(self, request: Request) -> Answer | _Failed:
        try:
            return self._prepare(request)
        except BaseException as error:  # every kind belongs to the training thread, not to this one
            return _Failed(error)
