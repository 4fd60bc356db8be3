"""Reports, polls and acknowledgements of one run, with the daemon's side of the page in the test's hands."""

import copy
import math
import pickle
import threading
import warnings
from time import monotonic

import pytest

from autotuner.hook import AutotunerWarning, Run
from autotuner.messages import (
    FLAG_CHECKPOINT,
    FLAG_NOT_FINITE,
    OUTCOMES,
    Evaluation,
    Goodbye,
    Sample,
)


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
    run.evaluation(5, 0.25, quality=3.5, quality_steps=4, seconds=1.5, stage=1, gap=1.25)
    (record,) = daemon.records(Evaluation)
    assert record == Evaluation(5, record.time, 0.25, 3.5, 4, 1.5, 1, 1.25)


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
