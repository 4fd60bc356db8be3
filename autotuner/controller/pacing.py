"""Whether a lower pace pays in heat: seldom, because throttling is cheaper than waiting, except where the clock cycles."""

from __future__ import annotations

from itertools import pairwise
from statistics import fmean

from autotuner.controller.window import Interval, RunWindow

LOOK_BACK = 12
"""Intervals in which a cycle must show."""
SWING = 0.2
"""Images a second must swing by this share of the highest to count as a cycle of the governor, not as noise."""
CROSSINGS = 4
"""...and cross their mean so often."""
TURNS = 2
"""...and heat must have become heavy and lighter again: a machine that only warms up, or noise, is no cycle."""
ENOUGH = 5
"""Intervals on either side of a change of pace that make its effect measured."""
AGAIN = 24
"""Intervals before a pace is tried again that was found worse."""
HEAVY = 2


def pace_wish(window: RunWindow) -> tuple[int, str]:
    """The step of pace that heat and measured images a second ask for (-1, 0, +1), with the numbers behind it."""
    since = window.since_change("pace")
    direction = window.changed.get("pace", (0, 0))[1]
    if direction < 0:
        gain = measured_gain(window)
        if gain is None and since < LOOK_BACK:
            return 0, ""
        if gain is not None and gain > 0.0:
            return (-1, f"the last step gave {gain:+.0%} images/s") if cycles(window) else (0, "")
        return 1, "a lower pace was not measured faster" if gain is None else f"the lower pace gave {gain:+.0%} images/s"
    if cycles(window) and (direction == 0 or since >= AGAIN):
        return -1, "images/s and heat swing against each other"
    return 1, "heat does not cycle"


def cycles(window: RunWindow) -> bool:
    """Whether the governor drops the clock, cools and ramps again, at the pace and shape in force."""
    quiet = min(window.since_change(knob) for knob in ("pace", "resolution", "micro_batch", "distill"))
    recent = _measured(list(window.intervals)[-min(quiet, LOOK_BACK) :]) if quiet else []
    if len(recent) < 8:
        return False
    rates = [i.images_per_second for i in recent]
    mean = fmean(rates)
    signs = [rate > mean for rate in rates]
    crossings = sum(a != b for a, b in pairwise(signs))
    heavy = [(i.thermal_level or 0) >= HEAVY for i in recent]
    turns = sum(a != b for a, b in pairwise(heavy))
    swings = max(rates) - min(rates) > SWING * max(rates)
    return swings and crossings >= CROSSINGS and turns >= TURNS


def measured_gain(window: RunWindow) -> float | None:
    """Relative change of images a second by the last change of pace; None before enough was measured on either side."""
    since = window.since_change("pace")
    others = min(window.since_change(knob) for knob in ("resolution", "micro_batch", "distill"))
    intervals = list(window.intervals)
    if since < ENOUGH or since > len(intervals) - ENOUGH or others < since + ENOUGH:
        return None
    after = _measured(intervals[-since + 1 :])
    before = _measured(intervals[-since - min(since, LOOK_BACK) : -since])
    if not after or not before:
        return None
    return fmean(i.images_per_second for i in after) / fmean(i.images_per_second for i in before) - 1.0


def _measured(intervals: list[Interval]) -> list[Interval]:
    return [i for i in intervals if i.images_per_second > 0]
