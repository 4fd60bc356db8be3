"""Modes per run and per machine, accept and undo, and the switch that ends it all, tick by tick."""

from dataclasses import replace

import pytest

from autotuner.controller.actions import action_index
from autotuner.controller.policy import Choice
from autotuner.daemon.exporter import Tick
from autotuner.daemon.modes import switch_off, switch_on
from autotuner.daemon.status_page import status_page
from autotuner.errors import JournalError
from autotuner.journal import Journal, PinRecord, RequestRecord
from tests.suites.fake_run import FakeRun
from tests.suites.hand_driven_daemon import UNIX, Wishes, at, kill, start_daemon


class Once:
    """Wishes one step down, once."""

    name = "once"

    def __init__(self, knob="micro_batch", step=-1):
        self.action, self.wished = action_index(knob, step), False

    def choose(self, observation, mask, window):
        if self.wished or not mask[self.action]:
            return Choice(0, "hold")
        self.wished = True
        return Choice(self.action, "policy", "the test wants it")


@pytest.fixture
def cats(tmp_path):
    return FakeRun(tmp_path)


@pytest.fixture
def started(tmp_path, monkeypatch):
    daemons = []

    def start(**settings):
        """A daemon in place of the one before, which is killed."""
        while daemons:
            kill(daemons.pop())
        daemons.append(start_daemon(tmp_path, monkeypatch, **settings))
        return daemons[0]

    yield start
    for daemon in daemons:
        kill(daemon)


def ask(daemon, kind, subject, now, run_id="cats-1"):
    """What the command line does; the request's number."""
    with Journal(daemon.journal.path) as outside:
        return outside.ask(RequestRecord(kind, run_id, subject, UNIX + now))


def answered(daemon, number):
    found = daemon.journal.request(number)
    return bool(found.done), found.answer


def own_mode(daemon, mode):
    with Journal(daemon.journal.path) as outside:
        outside.update_run("cats-1", own_mode=mode)


def advised(started, cats, **settings):
    """A daemon that advises micro_batch 32 to 16 since second 4; the advice."""
    daemon = started(mode="advise", **settings)
    cats.train(0.0, 4.0)
    daemon.tick(at(4.0))
    (advice,) = daemon.journal.advice("cats-1")
    return daemon, advice


def test_advice_that_is_accepted_is_made_and_observed(started, cats):
    daemon, advice = advised(started, cats)
    page = str(status_page(Tick(daemon.snapshot, 4.0), late=False))
    assert f"autotuner accept {advice.advice_id}" in page
    assert "not made: mode advise" in page
    number = ask(daemon, "accept", advice.advice_id, 4.5)
    daemon.tick(at(5.0))
    assert daemon.snapshot.runs[0].advice == ()
    assert answered(daemon, number) == (True, "asked cats-1 for micro_batch 32 to 16")
    assert cats.asked().positions == (1, 2)
    assert daemon.journal.advice("cats-1") == []
    cats.acknowledge(5.1)
    for now in (7.0, 9.0, 11.0):
        cats.train(now - 1.5, now)
        daemon.tick(at(now))
    (change,) = daemon.journal.changes("cats-1")
    assert (change.state, change.reason, change.policy) == ("observed", "accepted", "you")
    assert daemon.live["cats-1"].mode == "advise"


def test_accepted_advice_is_waited_for_while_the_mode_still_advises(started, cats):
    daemon, advice = advised(started, cats)
    ask(daemon, "accept", advice.advice_id, 4.5)
    for now in (5.0, 7.0, 9.0):
        cats.train(now - 0.5, now)
        daemon.tick(at(now))
    assert daemon.live["cats-1"].loop.pending


def test_a_request_waits_for_a_journal_that_can_be_written(started, cats, monkeypatch):
    daemon, advice = advised(started, cats)

    def full():
        raise JournalError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(daemon.journal, "commit", full)
        daemon.tick(at(4.2))
        number = ask(daemon, "accept", advice.advice_id, 4.3)
        daemon.tick(at(4.4))
        assert daemon.frozen
    assert daemon.journal.request(number).answered_unix is None
    assert cats.asked() is None
    daemon.tick(at(4.6))
    assert answered(daemon, number)[0]
    assert cats.asked().positions == (1, 2)


def test_stale_advice_is_refused_with_where_the_knob_stands(started, cats):
    daemon, advice = advised(started, cats)
    cats.set((3, 2), 4.2)
    daemon.tick(at(4.3))
    number = ask(daemon, "accept", advice.advice_id, 4.4)
    daemon.tick(at(4.5))
    assert answered(daemon, number) == (
        False,
        f"advice {advice.advice_id} is stale: micro_batch stands at 64 now, the advice was micro_batch 32 to 16",
    )
    assert cats.asked() is None


def test_the_guard_is_asked_again_when_advice_is_accepted(started, cats):
    daemon, advice = advised(started, cats, policy=Wishes("micro_batch", 1))
    assert advice.what == "micro_batch 32 to 64"
    daemon._machine.state = replace(daemon._machine.state, memory_pressure=1)
    daemon.tick(at(4.4))
    number = ask(daemon, "accept", advice.advice_id, 4.4)
    daemon.tick(at(4.5))
    assert answered(daemon, number) == (False, "refused: the machine reports memory pressure")
    assert cats.asked() is None


@pytest.mark.parametrize(
    ("kind", "subject", "run_id", "asked_at", "sentence"),
    [
        ("accept", "0123456789", "cats-1", 4.5, "no advice 0123456789 stands any more"),
        ("undo", "", "dogs-1", 4.5, "run dogs-1 is not live"),
        ("undo", "", "cats-1", -40.0, "no daemon heard it in time"),
        ("undo", "", "cats-1", 4.5, "no change of cats-1 is left to take back"),
        ("dance", "", "cats-1", 4.5, "knows no request 'dance'; it knows: accept, undo"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(started, cats, kind, subject, run_id, asked_at, sentence):
    daemon, _ = advised(started, cats)
    number = ask(daemon, kind, subject, asked_at, run_id)
    daemon.tick(at(5.0))
    done, said = answered(daemon, number)
    assert not done
    assert sentence in said


def changed(started, cats, policy=None):
    """A daemon whose change of micro_batch 32 to 16 is acknowledged."""
    daemon = started(policy=policy or Once())
    cats.train(0.0, 4.0)
    daemon.tick(at(4.0))
    cats.acknowledge(4.1)
    daemon.tick(at(4.2))
    return daemon


def test_undo_takes_the_last_change_back_and_pins_it(started, cats):
    daemon = changed(started, cats, policy=Wishes())
    number = ask(daemon, "undo", "", 4.5)
    daemon.tick(at(5.0))
    done, said = answered(daemon, number)
    assert done
    assert said.startswith("asked cats-1 for micro_batch 16 to 32; pinned there")
    assert "autotuner release cats-1 micro_batch" in said
    cats.acknowledge(5.1)
    for now in range(7, 40, 2):
        cats.train(now - 0.5, now)
        daemon.tick(at(float(now)))
    assert cats.positions == (2, 2)
    assert cats.asked() is None
    assert [(pin.knob, pin.value, pin.origin) for pin in daemon.journal.pins("cats-1")] == [("micro_batch", None, "you")]
    assert daemon.journal.changes("cats-1")[-1].reason == "undone"


def test_a_second_undo_does_not_undo_the_first(started, cats):
    daemon = changed(started, cats)
    ask(daemon, "undo", "", 4.5)
    daemon.tick(at(5.0))
    cats.acknowledge(5.1)
    number = ask(daemon, "undo", "", 5.2)
    daemon.tick(at(5.5))
    assert answered(daemon, number) == (False, "no change of cats-1 is left to take back")


def test_a_change_that_the_script_has_not_answered_is_not_undone_yet(started, cats):
    daemon = started(policy=Once())
    cats.train(0.0, 4.0)
    daemon.tick(at(4.0))
    number = ask(daemon, "undo", "", 4.5)
    daemon.tick(at(5.0))
    assert "has not answered micro_batch 32 to 16 yet" in answered(daemon, number)[1]


def test_a_way_back_that_memory_forbids_is_refused(started, cats):
    daemon = changed(started, cats)
    daemon._machine.state = replace(daemon._machine.state, memory_pressure=1)
    cats.train(4.5, 5.0)
    daemon.tick(at(5.0))
    number = ask(daemon, "undo", "", 5.1)
    daemon.tick(at(5.5))
    assert answered(daemon, number) == (False, "refused: the machine reports memory pressure")
    assert daemon.journal.pins("cats-1") == []


def test_off_gives_every_script_its_own_values_back_and_keeps_away(tmp_path, started, cats):
    daemon = changed(started, cats, policy=Wishes())
    with Journal(daemon.journal.path) as outside:
        outside.pin(PinRecord("cats-1", "pace", 0.5, "you", UNIX))
    daemon.tick(at(4.5))
    cats.acknowledge(4.6)
    assert cats.positions == (1, 0)
    switch_off(tmp_path)
    daemon.tick(at(5.0))
    assert cats.asked().positions == (2, 2)
    cats.acknowledge(5.1)
    number = ask(daemon, "undo", "", 6.0)
    for now in range(7, 60, 2):
        cats.train(now - 0.5, now)
        daemon.tick(at(float(now)))
    assert cats.asked() is None
    assert "switched off" in answered(daemon, number)[1]
    assert cats.page.heartbeat().mode == "observe"
    assert daemon.snapshot.mode == "off"
    assert daemon.snapshot.notice.startswith("switched off by you at 20")
    assert daemon.snapshot.problems == ()
    assert daemon.journal.run("cats-1").mode == "off"
    switch_on(tmp_path)
    for now in (62.0, 64.0):
        cats.train(now - 0.5, now)
        daemon.tick(at(now))
    assert cats.asked().positions[1] == 0, "the pin holds again"
    assert daemon.snapshot.notice == ""


def test_off_overtakes_what_was_asked_for_and_asks_a_refusing_script_once(tmp_path, started, cats):
    daemon = changed(started, cats, policy=Wishes())
    for now in (8.0, 10.0, 12.0, 14.0):
        cats.train(now - 1.5, now)
        daemon.tick(at(now))
    assert cats.asked().positions == (0, 2)
    switch_off(tmp_path)
    daemon.tick(at(15.0))
    assert cats.asked().positions == (2, 2)
    cats.refuse(15.1)
    for now in (16.0, 17.0, 18.0):
        daemon.tick(at(now))
    assert cats.asked() is None


def test_off_leaves_what_the_script_moved_itself(tmp_path, started, cats):
    daemon = changed(started, cats)
    cats.set((1, 0), 4.4)
    daemon.tick(at(4.5))
    switch_off(tmp_path)
    daemon.tick(at(5.0))
    assert cats.asked().positions == (2, 0)


def test_a_daemon_that_starts_after_off_gives_back_what_another_one_changed(tmp_path, started, cats):
    changed(started, cats)
    switch_off(tmp_path)
    restarted = started(policy=Wishes())
    restarted.tick(at(6.0))
    assert cats.asked().positions == (2, 2)


def test_a_persons_mode_for_one_run_is_above_the_machines(started, cats):
    daemon = started(mode="observe")
    cats.train(0.0, 4.0)
    daemon.tick(at(4.0))
    assert cats.asked() is None
    own_mode(daemon, "act")
    cats.train(4.5, 6.0)
    daemon.tick(at(6.0))
    assert cats.asked().positions == (1, 2)
    run = daemon.snapshot.runs[0]
    assert (daemon.snapshot.mode, run.mode, run.mode_why) == ("observe", "act", "you chose it for this run")
    own_mode(daemon, "")
    daemon.tick(at(6.5))
    row = daemon.journal.run("cats-1")
    assert (row.mode, row.mode_why) == ("observe", "")


def test_a_persons_mode_outlives_the_daemon(tmp_path, started, cats):
    daemon = started()
    daemon.tick(at(0.5))
    own_mode(daemon, "observe")
    daemon.tick(at(1.0))
    restarted = started()
    cats.train(1.0, 6.0)
    restarted.tick(at(6.0))
    assert restarted.live["cats-1"].mode == "observe"
    assert cats.asked() is None


def test_a_pinned_value_is_asked_for_in_mode_advise_but_not_in_observe(started, cats):
    daemon = started(mode="observe")
    cats.train(0.0, 1.0)
    daemon.tick(at(1.0))
    with Journal(daemon.journal.path) as outside:
        outside.pin(PinRecord("cats-1", "pace", 0.5, "you", UNIX))
    daemon.tick(at(1.5))
    assert cats.asked() is None
    own_mode(daemon, "advise")
    daemon.tick(at(2.0))
    assert cats.asked().positions == (2, 0)


def test_a_pinned_value_is_asked_for_while_the_first_run_is_only_observed(started, cats):
    daemon = started(observe_first=100)
    cats.train(0.0, 1.0)
    daemon.tick(at(1.0))
    with Journal(daemon.journal.path) as outside:
        outside.pin(PinRecord("cats-1", "pace", 0.5, "you", UNIX))
    daemon.tick(at(1.5))
    assert daemon.live["cats-1"].mode == "observe"
    assert cats.asked().positions == (2, 0)


def test_advice_ends_with_the_mode_that_gave_it(started, cats):
    daemon, _ = advised(started, cats)
    own_mode(daemon, "observe")
    daemon.tick(at(4.5))
    assert daemon.journal.advice("cats-1") == []


def test_a_run_that_a_person_treats_differently_tells_nothing_of_the_gain(tmp_path, started, cats):
    daemon = started()
    daemon.tick(at(0.5))
    daemon.live["cats-1"].arm = "treated"
    daemon.journal.update_run("cats-1", arm="treated")
    own_mode(daemon, "observe")
    daemon.tick(at(1.0))
    assert daemon.journal.run("cats-1").arm == ""


def test_the_first_run_of_a_machine_is_only_observed_until_its_memory_is_known(started, cats):
    daemon = started(observe_first=3)
    asked = []
    for now in range(2, 16, 2):
        cats.train(now - 1.5, now)
        daemon.tick(at(float(now)))
        asked.append(cats.asked() is not None)
        if len(asked) == 2:
            run = daemon.snapshot.runs[0]
            assert run.mode == "observe"
            assert "first run on this machine is only observed for 3 decisions" in run.mode_why
            assert "1 taken, the memory of 1 tensor shape so far" in run.mode_why
            assert daemon.journal.run("cats-1").mode_why == run.mode_why
            assert cats.page.heartbeat().mode == "observe"
    assert asked[:3] == [False, False, False]
    assert asked[-1]
    assert daemon.snapshot.runs[0].mode_why == ""
    assert daemon.journal.decisions("cats-1")[0].mode == "observe"


def test_the_second_run_of_a_machine_is_guided_at_once(tmp_path, started, cats):
    daemon = started(observe_first=3)
    cats.train(0.0, 1.0)
    daemon.tick(at(1.0))
    cats.goodbye(1.5)
    daemon.tick(at(2.0))
    dogs = FakeRun(tmp_path, "dogs-1")
    dogs.train(2.5, 6.0)
    daemon.tick(at(6.0))
    assert daemon.live["dogs-1"].mode == "act"
    assert dogs.asked() is not None
