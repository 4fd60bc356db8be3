"""Whether a training fits, from a probe's steps and from earlier runs."""

import pytest

from autotuner.search.fit import Estimate, Interval, Past, Step, from_past, from_probe, judge, together

GIB = 2**30


def test_a_probe_leaves_out_its_first_step_and_keeps_its_highest_peak():
    steps = [Step(9.0, GIB), *(Step(0.1 * n, 2 * GIB) for n in range(1, 6))]
    estimate = from_probe(steps, process_bytes=GIB // 2, students=False)
    assert estimate.needed_bytes == Interval(2 * GIB, 2 * GIB, pytest.approx(2.2 * GIB))
    assert estimate.step_seconds.likely == pytest.approx(0.3)
    assert (estimate.step_seconds.low, estimate.step_seconds.high) == pytest.approx((0.1, 0.5))


def test_a_student_to_come_widens_the_upper_end():
    plain, taught = (from_probe([Step(1, GIB)] * 3, 0, students) for students in (False, True))
    assert taught.needed_bytes.high == pytest.approx(1.5 * plain.needed_bytes.high)


def test_one_step_is_no_probe_since_it_compiles():
    assert from_probe([Step(1.0, GIB)], 0, False) is None


def test_the_same_model_counts_before_others():
    past = [Past({"width": 64}, [Step(0.2, GIB)], GIB, True), Past({"width": 512}, [], 64 * GIB, False)]
    estimate = from_past({"width": 64}, past)
    assert estimate.needed_bytes.high == pytest.approx(1.1 * GIB)
    assert estimate.step_seconds.likely == 0.2
    assert estimate.source == "1 earlier run of this model"


def test_other_sizes_are_extrapolated_in_memory_and_time_with_a_wide_interval():
    past = [Past({"width": width}, [Step(width / 1000, GIB)], width * GIB // 64, False) for width in (64, 128, 256)]
    estimate = from_past({"width": 512}, past)
    assert estimate.needed_bytes.low < 8 * GIB < estimate.needed_bytes.high
    assert estimate.needed_bytes.high < 16 * GIB
    assert estimate.step_seconds.low < 0.512 < estimate.step_seconds.high < 1.024
    assert estimate.source == "3 earlier runs of other sizes"


def test_other_sizes_that_were_not_timed_at_this_shape_give_no_time():
    past = [Past({"width": width}, [], width * GIB, False) for width in (1, 2, 4)]
    assert from_past({"width": 8}, past).step_seconds is None


def test_nothing_alike_is_no_estimate():
    assert from_past({"width": 64}, []) is None
    assert from_past({"width": 64}, [Past({"layers": 3}, [], GIB, False)]) is None


def test_several_sources_widen_each_other():
    narrow = Estimate(Interval(1, 1, 2), None, "a probe")
    wide = Estimate(Interval(1, 3, 4), Interval(5, 6, 7), "the past")
    assert together([narrow, wide]) == Estimate(Interval(1, 1, 4), Interval(5, 6, 7), "a probe and the past")


def test_what_is_only_modelled_does_not_widen_what_was_measured():
    probe = Estimate(Interval(1, 1, 2), Interval(1, 1, 1), "a probe")
    modelled = Estimate(Interval(1, 50, 90), Interval(5, 6, 7), "others", measured=False)
    assert together([probe, modelled]) == probe
    assert together([modelled]) == modelled


@pytest.mark.parametrize(
    ("available", "fits", "said"),
    [
        (20 * GIB, True, "fits"),
        (10 * GIB, False, "may not fit"),
        (5 * GIB, False, "does not fit"),
        (None, False, "cannot be said"),
    ],
)
def test_the_verdict_needs_the_upper_end_to_fit(available, fits, said):
    verdict = judge(Interval(7 * GIB, 8 * GIB, 10 * GIB), available)
    assert verdict.fits is fits
    assert verdict.sentence.startswith(said)
