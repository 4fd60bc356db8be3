"""Pace: the share of the time, in pauses short enough to keep a GPU awake."""

import pytest

from autotuner.adapters.pause import LONGEST_PAUSE_SECONDS, Pauses


class Clock:
    """Time that passes only by work and by sleep."""

    def __init__(self):
        self.now = 0.0
        self.slept = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


def worked(clock, pauses, pace, *pieces):
    for seconds in pieces:
        clock.now += seconds
        pauses.rest(pace)
    return clock.slept


@pytest.mark.parametrize("pace", [0.5, 0.6, 0.7, 0.85])
def test_computing_is_the_share_of_the_time_that_pace_says(pace):
    clock = Clock()
    slept = worked(clock, Pauses(clock.sleep, clock), pace, *[0.1] * 50)
    assert 5.0 / (5.0 + sum(slept)) == pytest.approx(pace)
    assert max(slept) <= LONGEST_PAUSE_SECONDS


def test_at_full_pace_nobody_sleeps():
    clock = Clock()
    assert worked(clock, Pauses(clock.sleep, clock), 1.0, 1.0, 1.0) == []


def test_a_long_pass_is_paid_for_after_the_short_ones_that_follow():
    clock = Clock()
    slept = worked(clock, Pauses(clock.sleep, clock), 0.5, 1.0, 0.1, 0.1, 0.1)
    assert slept == pytest.approx([0.4, 0.4, 0.2, 0.1])


def test_a_debt_that_can_never_be_paid_is_not_kept():
    clock = Clock()
    pauses = Pauses(clock.sleep, clock)
    worked(clock, pauses, 0.5, *[10.0] * 20)
    clock.slept.clear()
    worked(clock, pauses, 0.5, *[0.01] * 1000)
    assert sum(clock.slept) < 25.0
