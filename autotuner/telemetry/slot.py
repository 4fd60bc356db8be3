"""What the registry remembers of one sensor, and how it is asked: in a thread, so that one that hangs keeps nobody waiting."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

from autotuner.telemetry.sensor import Absent, Reading, Sensor, Unavailable, checked

PATIENCE_SECONDS = 0.5
"""So long a sensor may keep the daemon's tick waiting, once; while it hangs it is not asked again."""

FRESH_SECONDS = 5.0
"""An answer that came late is taken up to this age."""

FIRST_RETRY_SECONDS = 2.0
LAST_RETRY_SECONDS = 60.0
"""A failed sensor is left alone for so long, doubling from the first to the last."""


@dataclass(frozen=True, slots=True)
class Row:
    """One sensor of a chain."""

    sensor: Sensor
    every_seconds: float = 0.0
    """Its readings are held for so long; 0 reads it every time."""
    backs_off: bool = True


@dataclass(frozen=True, slots=True)
class SensorStatus:
    """How one sensor fares."""

    name: str
    source: str
    up: bool
    seconds: float
    """How long its last reading took."""
    age_seconds: float
    """Since its last good reading, or since it was first asked."""
    reason: str = ""
    """Why it has no value; empty when it has."""
    failures: int = 0
    """How often a reading failed or came too late; what this machine has not is no failure."""


class _Question:
    """One call of a sensor in a thread of its own; nobody can end a call that hangs, so it is left behind."""

    def __init__(self, sensor: Sensor, now: float) -> None:
        self.asked_at = now
        self._readings: tuple[Reading, ...] = ()
        self._error: Exception | None = None
        self._answered = threading.Event()
        threading.Thread(target=self._ask, args=(sensor,), name=f"sensor-{sensor.name}", daemon=True).start()

    def _ask(self, sensor: Sensor) -> None:
        try:
            self._readings = sensor.read(self.asked_at)
        except Exception as error:
            self._error = error
        finally:
            self._answered.set()

    def answered(self, seconds: float) -> bool:
        """Whether there is an answer, waiting so long for it."""
        return self._answered.wait(seconds)

    def answer(self) -> tuple[Reading, ...]:
        """What it read; raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._readings


class Slot:
    """What the registry remembers of one sensor."""

    def __init__(self, row: Row, patience_seconds: float) -> None:
        self.row = row
        self._patience = patience_seconds
        self._question: _Question | None = None
        self.readings: tuple[Reading, ...] = ()
        self.reason = ""
        self.seconds = 0.0
        self.absent = False
        self.first_asked_at = math.inf
        self.asked_at = -math.inf
        self.good_at = -math.inf
        self.retry_at = -math.inf
        self.failures = 0
        self.failures_ever = 0

    def consult(self, now: float, clock: Callable[[], float]) -> tuple[Reading, ...]:
        """The sensor's readings, held or new; none while it backs off."""
        self.asked_at, self.first_asked_at = now, min(self.first_asked_at, now)
        held = not self.reason and 0 <= now - self.good_at < self.row.every_seconds
        if held or self.good_at == now or now < self.retry_at:
            return self.readings
        began = clock()
        try:
            readings = self._ask(now)
            self.readings = tuple(checked(reading.quantity, reading.value, reading.source) for reading in readings)
            self.good_at, self.reason, self.absent, self.failures = now, "", False, 0
        except Unavailable as error:
            self._fail(now, str(error), absent=isinstance(error, Absent))
        except Exception as error:  # a defect of one sensor must not cost us the others
            self._fail(now, f"{type(error).__name__}: {error}")
        self.seconds = clock() - began
        return self.readings

    def _ask(self, now: float) -> tuple[Reading, ...]:
        """What it answers within our patience; an answer that comes later is taken when it is asked again, if it is fresh."""
        waiting = self._question
        if waiting is not None and waiting.answered(0.0) and now - waiting.asked_at > FRESH_SECONDS:
            waiting = None
        question = self._question = waiting or _Question(self.row.sensor, now)
        if not question.answered(0.0 if waiting else self._patience):
            raise Unavailable(f"no answer for {now - question.asked_at + self._patience:.1f} s; nobody waits for it")
        self._question = None
        return question.answer()

    def _fail(self, now: float, reason: str, absent: bool = False) -> None:
        doubled = min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(self.failures, 10))
        self.readings, self.reason, self.absent = (), reason, absent
        self.failures += 1
        self.failures_ever += not absent
        self.retry_at = now + (LAST_RETRY_SECONDS if absent else doubled) if self.row.backs_off else now

    def status(self, now: float) -> SensorStatus:
        """How it fares at this moment."""
        sensor, since = self.row.sensor, self.first_asked_at if math.isinf(self.good_at) else self.good_at
        age = max(0.0, now - since)
        return SensorStatus(sensor.name, sensor.source, not self.reason, self.seconds, age, self.reason, self.failures_ever)
