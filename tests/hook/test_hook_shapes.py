"""The shape ladder: whatever is asked, a run uses few tensor shapes, keeps each for a while, and clears after a switch."""

import random

import pytest

from autotuner.hook import AutotunerWarning, attach, knob
from autotuner.messages import REFUSALS, Acknowledgement

LADDERS = {"resolution": [16, 32, 64, 128], "micro_batch": [2, 4, 8, 16]}
START = (1, 1)


def cells(run):
    return (run.knobs.resolution, run.knobs.micro_batch)


@pytest.fixture
def ladder(attached):
    """A run with sixteen shapes to choose from, and its daemon."""

    def make(**settings):
        knobs = {name: knob(ladder[start], ladder) for (name, ladder), start in zip(LADDERS.items(), START, strict=True)}
        run = attach("shapes", knobs=knobs, **settings)
        return run, attached(run)

    return make


@pytest.mark.parametrize(("settings", "budget"), [({}, 8), ({"max_shapes": 3}, 3)])
def test_a_thousand_random_requests_never_exceed_the_budget_and_each_is_answered(ladder, settings, budget):
    run, daemon = ladder(**settings)
    chance = random.Random(5)
    used, asked, answers, switched_at, step = {cells(run)}, [], [], None, 0
    for _ in range(1000):
        asked.append(daemon.ask(chance.randrange(4), chance.randrange(4)))
        for _ in range(chance.randrange(1, 15)):  # more are asked while one waits
            before, step = cells(run), step + 1
            run.report(step, 0.5)
            run.poll()  # reports as fast as these do not each look
            if cells(run) != before:
                less = cells(run)[0] ** 2 * cells(run)[1] < before[0] ** 2 * before[1]
                assert switched_at is None or step - switched_at >= 10 or less
                switched_at = step
            used.add(cells(run))
            answers += daemon.records(Acknowledgement)
    assert len(used) == budget, "a budget that is never used up shows nothing"
    for _ in range(12):
        step += 1
        run.report(step, 0.5)
        run.poll()
    answers += daemon.records(Acknowledgement)
    assert {answer.detail for answer in answers if answer.refused} == {2}
    assert sum(answer.refused for answer in answers) > 100
    assert answers[-1].revision == asked[-1], "the last ask is answered"
    assert [answer.revision for answer in answers] == sorted({answer.revision for answer in answers})


def test_a_refused_cell_says_why_and_which_positions_stay(ladder):
    run, daemon = ladder(max_shapes=1)
    revision = daemon.ask(0, 0)
    run.report(1, 0.5)
    (answer,) = daemon.records(Acknowledgement)
    assert (answer.revision, answer.refused, answer.positions) == (revision, True, START)
    assert REFUSALS[answer.detail] == "shape budget spent"


def test_a_shape_is_kept_for_its_steps_and_the_change_that_waits_comes_then(ladder):
    run, daemon = ladder(shape_dwell_steps=4)
    daemon.ask(1, 2)
    run.report(10, 0.5)
    assert cells(run) == (32, 8)  # the first switch need not wait
    revision = daemon.ask(1, 3)
    seen = []
    for step in range(11, 16):
        run.report(step, 0.5)
        seen.append(run.knobs.micro_batch)
    assert seen == [8, 8, 8, 16, 16]
    assert [(answer.revision, answer.step) for answer in daemon.records(Acknowledgement)] == [(1, 11), (revision, 15)]


def test_less_memory_need_not_wait(ladder):
    run, daemon = ladder(shape_dwell_steps=1000)
    daemon.ask(1, 3)
    run.report(1, 0.5)
    daemon.ask(1, 0)
    run.report(2, 0.5)
    assert cells(run) == (32, 2)


def test_a_newer_ask_takes_the_place_of_one_that_waits(ladder):
    run, daemon = ladder(shape_dwell_steps=1000)
    daemon.ask(1, 2)
    run.report(1, 0.5)
    daemon.ask(1, 3)
    run.report(2, 0.5)
    last = daemon.ask(0, 2)
    run.report(3, 0.5)
    run.report(4, 0.5)
    assert cells(run) == (16, 8)
    assert [answer.revision for answer in daemon.records(Acknowledgement)] == [1, last]


def test_the_cache_is_cleared_after_a_switch_and_only_then(attached):
    cleared = []
    knobs = {"micro_batch": knob(8, [4, 8, 16]), "pace": knob(1.0, [0.5, 1.0])}
    run = attach("clear", knobs=knobs, clear_cache=lambda: cleared.append(run.knobs.micro_batch), shape_dwell_steps=0)
    daemon = attached(run)
    run.report(1, 0.5)
    daemon.ask(1, 0)
    run.report(2, 0.5)
    assert cleared == []
    daemon.ask(0, 0)
    run.report(3, 0.5)
    run.set("micro_batch", 16)
    assert cleared == [4, 16]


def test_a_cache_that_cannot_be_cleared_is_told_once_and_the_change_holds(attached):
    def broken():
        raise RuntimeError("no device")

    run = attach("clear", knobs={"micro_batch": knob(8, [4, 8, 16])}, clear_cache=broken, shape_dwell_steps=0)
    daemon = attached(run)
    daemon.ask(0)
    with pytest.warns(AutotunerWarning, match="clear_cache=.*RuntimeError: no device"):
        run.report(1, 0.5)
    daemon.ask(2)
    run.report(2, 0.5)  # a second warning would be an error here
    assert run.knobs.micro_batch == 16
    assert run.directory is not None


def test_the_script_itself_cannot_set_more_shapes_than_it_declared(ladder):
    run, _ = ladder(max_shapes=2)
    run.set("micro_batch", 8)
    with pytest.warns(AutotunerWarning, match="would be one more"):
        run.set("micro_batch", 16)
    assert run.knobs.micro_batch == 8
    run.set("micro_batch", 4)
    assert run.knobs.micro_batch == 4
