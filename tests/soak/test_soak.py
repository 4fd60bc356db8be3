"""The daemon holds no more at the end of a day than in its second quarter; the day itself is `python -m tests.soak.day`."""

from __future__ import annotations

import pytest

from tests.soak import day
from tests.soak.day import ALLOWED_GROWTH, Look, growth


def lived(tmp_path, hours):
    return day.day(tmp_path, hours, seed=1, told=lambda text: None)


def test_a_part_of_a_day_leaves_no_descriptor_and_no_thread(tmp_path, monkeypatch):
    monkeypatch.setattr(day, "LOOK_SECONDS", 60.0)
    monkeypatch.setattr(day, "RUN_SECONDS", (60.0, 120.0))
    monkeypatch.setattr(day, "CLIENT_SECONDS", 30.0)
    looks = lived(tmp_path, 0.2)
    assert looks[-1].runs > 10
    grown = growth(looks)
    assert (grown["descriptors"], grown["threads"]) == (0, 0)


def test_what_grows_is_seen():
    looks = [Look(hour, 40.0 + hour, 20 + int(hour), 3, 1.0, 3) for hour in (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)]
    assert growth(looks) == {"rss_mb": 4.0, "descriptors": 4, "threads": 0}


@pytest.mark.slow
def test_a_day_is_flat(tmp_path):
    grown = growth(lived(tmp_path, 24.0))
    assert all(grown[name] <= allowed for name, allowed in ALLOWED_GROWTH.items()), grown
