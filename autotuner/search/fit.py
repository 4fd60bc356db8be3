"""Will a training fit this machine, and how fast will it be? Pure judgement over a probe's steps and earlier runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from autotuner.search import memory

ALLOWED_SHARE = 0.9
"""Share of the available memory that may be planned with; the guard plans with the same."""
PROBE_MARGIN = 1.1
"""A probe is short: fragmentation and the first checkpoint are still to come."""
STUDENT_FACTOR = 1.5
"""Assumed growth when a student joins its teacher, as the controller assumes it."""
MODELLED_MARGIN = 1.25
"""Around what is only modelled from other architectures."""


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step that was measured."""

    seconds: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Past:
    """One earlier run: its architecture, and its steps at the knob values that are asked about (or its highest peak alone)."""

    model: Mapping[str, Any]
    steps: Sequence[Step]
    peak_bytes: int
    same: bool
    """Whether it was this very model at these knob values."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Least, likeliest and largest value."""

    low: float
    likely: float
    high: float

    def times(self, factor: float) -> Interval:
        """All three multiplied."""
        return Interval(self.low * factor, self.likely * factor, self.high * factor)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is expected, and from what."""

    needed_bytes: Interval
    step_seconds: Interval | None
    """None: nothing like it was timed here."""
    source: str
    measured: bool = True
    """On this very model; else it is modelled from others."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether it fits: only when even the upper end of what it may need does."""

    fits: bool
    sentence: str
    allowed_bytes: float


def from_probe(steps: Sequence[Step], process_bytes: int, students: bool) -> Estimate | None:
    """What a probe of a few steps says; None without a step after the first, which compiles."""
    timed = [step.seconds for step in steps[1:]]
    if not timed:
        return None
    peak = max(max(step.peak_bytes for step in steps), process_bytes)
    high = peak * PROBE_MARGIN * (STUDENT_FACTOR if students else 1.0)
    return Estimate(Interval(peak, peak, high), _spread(timed), f"a probe of {len(steps)} steps on this machine")


def from_past(model: Mapping[str, Any], past: Sequence[Past]) -> Estimate | None:
    """What earlier runs say: the same model's own peaks, or else a model of memory over their architectures."""
    same = [run for run in past if run.same and run.peak_bytes > 0]
    if same:
        peaks = [float(run.peak_bytes) for run in same]
        timed = [step.seconds for run in same for step in run.steps]
        needed = Interval(min(peaks), median(peaks), max(peaks) * PROBE_MARGIN)
        return Estimate(needed, _spread(timed) if timed else None, _counted(len(same), "earlier run", " of this model"))
    memory_needed = _modelled(model, [(run.model, run.peak_bytes) for run in past])
    if memory_needed is None:
        return None
    durations = [(run.model, round(median(step.seconds for step in run.steps) * 1e6)) for run in past if run.steps]
    microseconds = _modelled(model, durations)
    count = sum(run.peak_bytes > 0 for run in past)
    seconds = microseconds.times(1e-6) if microseconds is not None else None
    return Estimate(memory_needed, seconds, _counted(count, "earlier run", " of other sizes"), measured=False)


def _modelled(model: Mapping[str, Any], seen: Sequence[tuple[Mapping[str, Any], int]]) -> Interval | None:
    """A power law over the numeric parameters that all of ``seen`` have, as the search's model of memory."""
    forecast = memory.fit(seen)
    if forecast is None or not forecast.names or any(name not in model for name in forecast.names):
        return None
    above = float(forecast.predict(model))
    likely = above / math.exp(forecast.residual)
    return Interval(likely / MODELLED_MARGIN, likely, above * MODELLED_MARGIN)


def together(estimates: Sequence[Estimate]) -> Estimate:
    """The first one's numbers, widened by what else was measured; what is modelled counts only where nothing was."""
    told = [estimate for estimate in estimates if estimate.measured] or list(estimates)
    first = told[0]
    needed = Interval(first.needed_bytes.low, first.needed_bytes.likely, max(e.needed_bytes.high for e in told))
    timed = next((e.step_seconds for e in told if e.step_seconds is not None), None)
    return Estimate(needed, timed, " and ".join(e.source for e in told), first.measured)


def judge(needed: Interval, available_bytes: float | None) -> Verdict:
    """Compare with what this machine can give now."""
    if available_bytes is None:
        return Verdict(False, "cannot be said: no sensor tells how much memory is available", 0.0)
    allowed = available_bytes * ALLOWED_SHARE
    if needed.high <= allowed:
        return Verdict(True, "fits", allowed)
    if needed.likely <= allowed:
        return Verdict(False, "may not fit: its upper estimate is above what may be planned with", allowed)
    return Verdict(False, "does not fit", allowed)


def _spread(values: Sequence[float]) -> Interval:
    """Middle, and the range that holds four fifths of what was seen."""
    ordered = sorted(values)
    edge = len(ordered) // 10
    return Interval(ordered[edge], median(ordered), ordered[-1 - edge])


def _counted(count: int, noun: str, rest: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}{rest}"
