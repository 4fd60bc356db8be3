"""What the second version of the observation added: the gap that a stage's gate reads, and where memory is going."""

from __future__ import annotations

import math

import pytest
from controller_bench import MEGABYTE, a_declaration, make_bench

from autotuner.controller.observation import FEATURES
from autotuner.knobs import declare
from autotuner.messages import Evaluation


def see(bench, name):
    return bench.loop.observe(bench.now)[FEATURES.index(name)]


def distilling():
    knobs = (declare("distill", 1, (0, 1, 2)),)
    return make_bench(declaration=a_declaration(knobs=knobs))


def measure(bench, gap, stage=1):
    bench.loop.feed(Evaluation(10, bench.now, 0.2, quality=20.0, quality_steps=4, stage=stage, gap=gap))


def test_the_gap_of_the_present_stage_is_seen_with_its_course():
    bench = distilling()
    bench.pass_interval()
    assert (see(bench, "gap_known"), see(bench, "gap")) == (0.0, 0.0)
    measure(bench, 2.0)
    measure(bench, 1.5)
    assert see(bench, "gap_known") == 1.0
    assert see(bench, "gap") == pytest.approx(math.log(1.5))
    assert see(bench, "gap_slope") == pytest.approx(2 * math.log(1.5 / 2.0))


def test_a_gap_of_another_stage_or_none_is_not_seen():
    bench = distilling()
    bench.pass_interval()
    measure(bench, 1.2, stage=2)
    measure(bench, math.nan)
    assert see(bench, "gap_known") == 0.0


def test_memory_that_grows_at_one_shape_shows_before_it_runs_out():
    bench = make_bench()
    for used in (100, 120, 140):
        bench.used = used * MEGABYTE
        bench.pass_interval()
        bench.loop.observe(bench.now)
    assert see(bench, "memory_trend") > 0
