"""Reports, polls and acknowledgements of one run, with the daemon's side of the page in the test's hands."""

import copy
import math
import pickle
import threading
import warnings
from time import monotonic

import pytest

from autotuner.hook import AutotunerWarning, Run, attach, knob
from autotuner.hook import run as run_module
from autotuner.hook.page import PageWriter
from autotuner.hook.ring import RingReader
from autotuner.messages import (
    FLAG_CHECKPOINT,
    FLAG_NOT_FINITE,
    OUTCOMES,
    REFUSALS,
    Acknowledgement,
    Evaluation,
    Goodbye,
    Sample,
)


class Daemon:
    """What a daemon does to one run."""

    def __init__(self, run):
        self.page = PageWriter(run.directory / "knobs.page")
        self.ring = RingReader(run.directory / "telemetry.ring")

    def ask(self, *positions):
        return self.page.write(positions, monotonic())

    def records(self, kind):
        return [record for record in self.ring.read() if isinstance(record, kind)]

    def close(self):
        self.page.close()
        self.ring.close()


@pytest.fixture
def run(start):
    return start()


@pytest.fixture
def manual(start):
    return start(auto=False)


@pytest.fixture
def attached():
    daemons = []

    def make(run):
        daemons.append(Daemon(run))
        return daemons[-1]

    yield make
    for daemon in daemons:
        daemon.close()


def refusal(record):
    return REFUSALS[record.detail] if record.refused else None


def test_a_report_carries_all_its_fields(run, attached):
    daemon = attached(run)
    run.report(
        5, 0.25, images=320, step_seconds=0.5, active_bytes=1, cache_bytes=2, peak_bytes=3, stage=2, flags=FLAG_CHECKPOINT
    )
    (sample,) = daemon.records(Sample)
    assert 0 <= monotonic() - sample.time < 60
    assert sample == Sample(5, sample.time, 0.25, 320, 0.5, 1, 2, 3, 0, 2, FLAG_CHECKPOINT)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_flagged(run, attached, loss):
    daemon = attached(run)
    run.report(1, loss, flags=FLAG_CHECKPOINT)
    (sample,) = daemon.records(Sample)
    assert repr(sample.loss) == repr(loss)
    assert sample.flags == FLAG_NOT_FINITE | FLAG_CHECKPOINT


def test_an_unknown_loss_is_nan_without_a_flag(run, attached):
    daemon = attached(run)
    run.report(1, None)
    (sample,) = daemon.records(Sample)
    assert math.isnan(sample.loss)
    assert sample.flags == 0


class Scalar:
    """Like a NumPy or torch scalar: no float, but it has one."""

    def __init__(self, value):
        self.value = value

    def __float__(self):
        return self.value


@pytest.mark.parametrize(("loss", "flags"), [(3, 0), (Scalar(0.5), 0), (Scalar(math.nan), FLAG_NOT_FINITE)])
def test_a_loss_of_another_number_type_is_taken_as_a_float(run, attached, loss, flags):
    daemon = attached(run)
    run.report(1, loss)
    (sample,) = daemon.records(Sample)
    assert repr(sample.loss) == repr(float(loss))
    assert sample.flags == flags


def test_a_report_that_cannot_be_used_is_left_out_with_one_warning_and_the_hook_stays_on(run, attached):
    daemon = attached(run)
    with pytest.warns(AutotunerWarning, match="report at step 1 is left out"):
        run.report(1, "low")
    run.report(2, 0.5, peak_bytes="many")  # a second warning would be an error here
    run.report(3, 0.5)
    assert [sample.step for sample in daemon.records(Sample)] == [3]


def test_an_evaluation_carries_all_its_fields(run, attached):
    daemon = attached(run)
    run.evaluation(5, 0.25, quality=3.5, quality_steps=4, seconds=1.5, stage=1)
    (record,) = daemon.records(Evaluation)
    assert record == Evaluation(5, record.time, 0.25, 3.5, 4, 1.5, 1)


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
    run = attach("shapes", knobs=knobs, max_shapes=2, auto=False)
    daemon = attached(run)
    daemon.ask(0, 1, 1)  # the second shape
    assert run.poll() is not None
    daemon.ask(0, 0, 1)  # would be the third
    assert run.poll() is None
    daemon.ask(0, 1, 0)  # no shape at all
    assert run.poll() is not None
    daemon.ask(1, 1, 0)  # the first one again
    assert run.poll() is not None
    assert [refusal(record) for record in daemon.records(Acknowledgement)] == ["shape budget spent"]


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


@pytest.mark.parametrize(
    ("mode", "age", "guided"), [("act", 1.0, True), ("act", 31.0, False), ("advise", 1.0, False), ("observe", 1.0, False)]
)
def test_a_run_is_guided_while_a_daemon_that_acts_is_alive(run, attached, mode, age, guided):
    daemon = attached(run)
    daemon.page.heartbeat(monotonic() - age, mode)
    assert (run.guided, run.mode) == (guided, mode)


def test_no_daemon_is_not_an_error(run):
    for step in range(1, 20):
        run.report(step, 0.5)
        assert run.poll() is None
    assert (run.guided, run.mode) == (False, None)


def test_a_corrupt_page_keeps_the_knobs_and_costs_no_exception(run, attached):
    daemon = attached(run)
    daemon.ask(2, 3)
    run.poll()
    path = run.directory / "knobs.page"
    with path.open("r+b") as file:
        file.seek(16)
        file.write(b"\x63" * 400)
    for step in range(1, 5):
        run.report(step, 0.5)
        assert run.poll() is None
    assert run.knobs.micro_batch == 32
    assert (run.guided, run.mode) == (False, None)
    assert [sample.revision for sample in daemon.records(Sample)] == [1] * 4


def test_a_page_that_is_whole_again_is_followed(run, attached):
    daemon = attached(run)
    path = run.directory / "knobs.page"
    whole = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(16)
        file.write(b"\x63" * 400)
    run.report(1, 0.5)
    with path.open("r+b") as file:
        file.write(whole)
    daemon.ask(1, 3)
    run.report(2, 0.5)
    assert run.knobs.micro_batch == 16


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_close_says_how_the_run_ended(run, attached, outcome):
    daemon = attached(run)
    run.close(outcome)
    run.close("failed")
    assert [record.outcome for record in daemon.records(Goodbye)] == [OUTCOMES.index(outcome)]


def test_an_unknown_outcome_is_told_and_recorded_as_failed(run, attached):
    daemon = attached(run)
    with pytest.warns(AutotunerWarning, match=r"close\('done'\): allowed are finished, interrupted, failed"):
        run.close("done")
    assert [OUTCOMES[record.outcome] for record in daemon.records(Goodbye)] == ["failed"]


@pytest.mark.parametrize(
    ("raised", "outcome"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (ValueError("bad"), "failed"),
        (SystemExit(0), "finished"),
        (SystemExit(2), "failed"),
    ],
)
def test_an_exception_through_with_is_the_outcome_and_passes(start, attached, raised, outcome):
    daemons = []

    def train():
        with start() as run:
            daemons.append(attached(run))
            raise raised

    with pytest.raises(type(raised)):
        train()
    assert [OUTCOMES[record.outcome] for record in daemons[0].records(Goodbye)] == [outcome]


def test_a_with_block_that_ends_is_finished(start, attached):
    with start() as run:
        daemon = attached(run)
    assert [OUTCOMES[record.outcome] for record in daemon.records(Goodbye)] == ["finished"]


def test_a_closed_run_writes_nothing_and_keeps_its_knobs(run, attached):
    daemon = attached(run)
    daemon.ask(2, 3)
    run.poll()
    run.close()
    daemon.records(Goodbye)
    run.report(9, 0.5)
    run.evaluation(9, 0.5)
    run.acknowledge(9)
    run.set("micro_batch", 8)
    assert daemon.ring.read() == []
    assert run.poll() is None


@pytest.mark.parametrize("copied", [lambda run: pickle.loads(pickle.dumps(run)), copy.deepcopy])
def test_a_copy_of_a_run_is_inert_and_knows_its_knobs(run, attached, copied):
    daemon = attached(run)
    daemon.ask(2, 3)
    run.poll()
    other = copied(run)
    assert isinstance(other, Run)
    assert (other.knobs.micro_batch, other.directory, other.name) == (32, None, "my-run")
    other.report(1, 0.5)
    other.close()
    assert daemon.records((Sample, Goodbye)) == []


CALLS = {
    "report": lambda run: run.report(1, 0.5),
    "poll": lambda run: run.poll(),
    "acknowledge": lambda run: run.acknowledge(1),
    "set": lambda run: run.set("pace", 0.5),
}


@pytest.mark.parametrize("call", CALLS)
def test_an_unexpected_error_turns_the_hook_off_with_one_warning(run, attached, monkeypatch, call):
    daemon = attached(run)

    def broken(*arguments):
        raise ZeroDivisionError("a bug")

    if call == "acknowledge":
        daemon.ask(2, 3)
        run.poll()
        monkeypatch.setattr(Run, "_acknowledge", broken)
    else:
        daemon.ask(2, 3)
        monkeypatch.setattr(Run, "_accept", broken)
        monkeypatch.setattr(Run, "_apply", broken)
    with pytest.warns(AutotunerWarning, match="the hook is off; training goes on: ZeroDivisionError: a bug"):
        CALLS[call](run)
    CALLS[call](run)  # a second warning would be an error here
    assert run.directory is None


def test_a_keyboard_interrupt_passes_through_the_hook(run, attached, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    attached(run).ask(2, 3)
    monkeypatch.setattr(Run, "_accept", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.report(1, 0.5)


def test_threads_may_report_and_poll_at_once(run, attached):
    daemon = attached(run)
    changes = []

    def work():
        for step in range(300):
            run.report(step, 0.5)
            changes.append(run.poll())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(50):
        daemon.ask(number % 4, 3)
    for thread in threads:
        thread.join()
    run.poll()
    assert len(daemon.records(Sample)) == 1200
    assert daemon.ring.lost == 0
    assert run.knobs.micro_batch == 16


def test_a_run_shows_where_it_writes(run):
    assert repr(run) == f"Run('my-run', {str(run.directory)!r}, Knobs(micro_batch=64, pace=1.0))"
    run.close()
    assert repr(run) == "Run('my-run', 'off', Knobs(micro_batch=64, pace=1.0))"


def test_a_quiet_run_warns_of_nothing(start):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with start() as run:
            run.report(1, 0.5)
