"""How a change travels: asked in the page, checked by the run, in force at a safe point, acknowledged in the ring."""

from time import monotonic

import pytest

from autotuner.hook import AutotunerWarning, attach, knob
from autotuner.hook import run as run_module
from autotuner.messages import REFUSALS, Acknowledgement


def refusal(record):
    return REFUSALS[record.detail] if record.refused else None


def test_the_three_lines_follow_a_change_at_the_next_step(run, attached):
    daemon = attached(run)
    run.report(1, 0.5)
    assert daemon.ask(2, 1) == 1
    assert run.knobs.micro_batch == 64  # nothing changes between two reports
    run.report(2, 0.5)
    assert (run.knobs.micro_batch, run.knobs["pace"]) == (32, 0.7)
    run.report(3, 0.5)
    first, second, acknowledgement, third = daemon.ring.read()
    assert (first.revision, second.revision, third.revision) == (0, 0, 1)
    assert acknowledgement == Acknowledgement(1, 3, acknowledgement.time, positions=(2, 1))


def test_a_change_is_acknowledged_once(run, attached):
    daemon = attached(run)
    daemon.ask(2, 1)
    for step in range(1, 6):
        run.report(step, 0.5)
    assert [record.step for record in daemon.records(Acknowledgement)] == [2]


def test_poll_tells_what_changed_and_report_acknowledges_it(run, attached):
    daemon = attached(run)
    daemon.ask(2, 3)
    change = run.poll()
    assert (change.revision, change.changed) == (1, {"micro_batch": (64, 32)})
    assert run.poll() is None
    assert daemon.records(Acknowledgement) == []
    run.report(1, 0.5)
    assert [(record.revision, record.step) for record in daemon.records(Acknowledgement)] == [(1, 1)]


def test_without_auto_only_the_script_polls_and_acknowledges(manual, attached):
    daemon = attached(manual)
    daemon.ask(2, 3)
    manual.report(1, 0.5)
    assert manual.knobs.micro_batch == 64
    assert manual.poll().changed == {"micro_batch": (64, 32)}
    manual.report(2, 0.5)
    assert daemon.records(Acknowledgement) == []
    manual.acknowledge(3)
    manual.acknowledge(4)
    assert [(record.revision, record.step) for record in daemon.records(Acknowledgement)] == [(1, 3)]


def test_only_the_newest_of_several_revisions_is_applied(run, attached):
    daemon = attached(run)
    daemon.ask(2, 3)
    daemon.ask(1, 3)
    daemon.ask(0, 2)
    assert run.poll().revision == 3
    assert (run.knobs.micro_batch, run.knobs.pace) == (8, 0.85)


def test_positions_outside_the_ladder_are_refused_and_the_values_stay(manual, attached):
    daemon = attached(manual)
    for positions in [(4, 3), (-1, 3), (2,), (2, 3, 0)]:
        daemon.ask(*positions)
        assert manual.poll() is None
        (record,) = daemon.records(Acknowledgement)
        assert refusal(record) == "outside the ladder"
        assert record.positions == (3, 3)
        assert record.revision == daemon.page.revision
    assert (manual.knobs.micro_batch, manual.knobs.pace) == (64, 1.0)
    daemon.ask(2, 3)
    assert manual.poll() is not None


def test_a_knob_that_must_not_be_touched_is_refused(attached):
    run = attach("fixed", knobs={"micro_batch": knob(8, [4, 8]), "pace": knob(1.0, [0.5, 1.0], effect="none")})
    daemon = attached(run)
    daemon.ask(0, 0)
    assert run.poll() is None
    assert [refusal(record) for record in daemon.records(Acknowledgement)] == ["knob is not tunable"]
    daemon.ask(0, 1)
    assert run.poll().changed == {"micro_batch": (8, 4)}


def test_the_shape_budget_is_kept_and_known_shapes_stay_allowed(attached):
    knobs = {"resolution": knob(32, [16, 32, 64]), "micro_batch": knob(8, [4, 8]), "pace": knob(1.0, [0.5, 1.0])}
    run = attach("shapes", knobs=knobs, max_shapes=2, shape_dwell_steps=0, auto=False)
    daemon = attached(run)
    daemon.ask(0, 1, 1)  # the second shape
    assert run.poll() is not None
    daemon.ask(0, 0, 1)  # would be the third
    assert run.poll() is None
    daemon.ask(0, 1, 0)  # no shape at all
    assert run.poll() is not None
    daemon.ask(1, 1, 0)  # the first one again
    assert run.poll() is not None
    answers = [refusal(record) for record in daemon.records(Acknowledgement)]
    assert answers == [None, "shape budget spent"]  # the script acknowledged none: the refusal does it for the first


def test_a_fixed_knob_counts_in_the_joint_limit(attached):
    knobs = {"resolution": knob(32, [32]), "micro_batch": knob(4, [2, 4, 8])}
    run = attach("pixels", knobs=knobs, max_pixels=4 * 32 * 32)
    daemon = attached(run)
    daemon.ask(2)
    assert run.poll() is None
    assert [refusal(record) for record in daemon.records(Acknowledgement)] == ["joint limit on pixels"]
    daemon.ask(0)
    assert run.poll().changed == {"micro_batch": (4, 2)}


def test_a_run_that_starts_above_its_joint_limit_may_still_step_down(attached):
    knobs = {"resolution": knob(32, [32]), "micro_batch": knob(8, [2, 4, 8, 16])}
    run = attach("pixels", knobs=knobs, max_pixels=2 * 32 * 32)
    daemon = attached(run)
    daemon.ask(3)
    assert run.poll() is None
    daemon.ask(1)
    assert run.poll().changed == {"micro_batch": (8, 4)}


def test_a_knob_set_by_the_script_is_told_with_an_unchanged_revision(run, attached):
    daemon = attached(run)
    run.report(1, 0.5)
    run.set("micro_batch", 16)
    assert run.knobs.micro_batch == 16
    (record,) = daemon.records(Acknowledgement)
    assert (record.revision, record.refused, record.positions) == (0, False, (1, 3))


def test_a_change_that_waits_for_its_acknowledgement_is_acknowledged_before_the_script_sets_a_knob(manual, attached):
    daemon = attached(manual)
    daemon.ask(2, 3)
    manual.poll()
    manual.set("pace", 0.5)
    manual.acknowledge(1)
    found = daemon.records(Acknowledgement)
    assert [(record.revision, record.positions) for record in found] == [(1, (2, 3)), (1, (2, 0))]


def test_a_revision_that_could_not_know_of_the_scripts_own_change_leaves_it_alone(run, attached):
    daemon = attached(run)
    run.set("micro_batch", 16)
    daemon.ask(3, 0)
    assert run.poll().changed == {"pace": (1.0, 0.5)}
    assert run.knobs.micro_batch == 16


def test_a_later_revision_may_move_a_knob_that_the_script_has_set(run, attached):
    daemon = attached(run)
    run.set("micro_batch", 16)
    daemon.page.write((0, 3), monotonic() + 10 * run_module.SETTLE_SECONDS)
    assert run.poll().changed == {"micro_batch": (16, 8)}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("micro_batch", 24, r"not on the ladder .* \[8, 16, 32, 64\]"), ("width", 3, "allowed are .*'micro_batch', 'pace'")],
)
def test_setting_what_is_not_allowed_is_a_warning_and_changes_nothing(run, attached, name, value, words):
    daemon = attached(run)
    with pytest.warns(AutotunerWarning, match=words):
        run.set(name, value)
    assert run.knobs.micro_batch == 64
    assert daemon.records(Acknowledgement) == []


def test_knobs_can_be_listed_but_not_assigned(run):
    assert dict(zip(run.knobs, map(run.knobs.__getitem__, run.knobs), strict=True)) == {"micro_batch": 64, "pace": 1.0}
    assert (len(run.knobs), "pace" in run.knobs, "width" in run.knobs) == (2, True, False)
    assert repr(run.knobs) == "Knobs(micro_batch=64, pace=1.0)"
    with pytest.raises(AttributeError, match=r"run\.set\('pace', 0\.5\)"):
        run.knobs.pace = 0.5
    with pytest.raises(AttributeError, match="no knob 'width'"):
        _ = run.knobs.width
    with pytest.raises(KeyError, match="no knob 'width'"):
        _ = run.knobs["width"]


def test_a_change_that_waits_for_its_acknowledgement_is_acknowledged_before_a_newer_one_is_refused(manual, attached):
    daemon = attached(manual)
    daemon.ask(2, 3)
    manual.poll()
    daemon.ask(9, 3)
    assert manual.poll() is None
    manual.acknowledge(1)
    assert [(r.revision, r.refused, r.positions) for r in daemon.records(Acknowledgement)] == [
        (1, False, (2, 3)),
        (2, True, (2, 3)),
    ]
