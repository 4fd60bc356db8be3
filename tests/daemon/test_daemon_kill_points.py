"""A tick has some twenty writes; the daemon is killed before and in the middle of each one of them."""

import sqlite3

from autotuner.controller.loop import ControlLoop
from autotuner.hook.page import PageWriter
from autotuner.journal import Journal
from tests.suites.fake_run import FakeRun
from tests.suites.hand_driven_daemon import Killed, Wishes, at, kill, start_daemon

FATES = {"acknowledged", "lost", "refused", "delivered"}


class Reaper:
    """Counts writes to journal and page, and kills at the chosen one; a page write dies half done."""

    def __init__(self, patch, fatal: int) -> None:
        self.count, self.fatal = 0, fatal
        execute, pwrite = Journal._execute, PageWriter._pwrite

        def dying_execute(journal, statement, arguments=()):
            self.strike()
            return execute(journal, statement, arguments)

        def dying_pwrite(page, data, offset):
            try:
                self.strike()
            except Killed:
                pwrite(page, data[: len(data) // 2], offset)
                raise
            pwrite(page, data, offset)

        patch.setattr(Journal, "_execute", dying_execute)
        patch.setattr(PageWriter, "_pwrite", dying_pwrite)

    def strike(self) -> None:
        self.count += 1
        if self.count >= self.fatal:  # from now on it is dead: nothing that runs while it unwinds may write
            raise Killed


def play(directory, monkeypatch, fatal: int) -> bool:
    """One change with the daemon killed at its ``fatal``-th write; whether it died. Checks what must hold afterwards."""
    cats = FakeRun(directory)
    first = start_daemon(directory, monkeypatch)
    first.tick(at(0.0))
    cats.train(0.0, 4.0)
    with monkeypatch.context() as patch:
        Reaper(patch, fatal)
        try:
            first.tick(at(4.0))
            died = False
        except Killed:
            died = True
    kill(first)
    frozen = cats.page.revision()
    if cats.asked() is not None:
        cats.acknowledge(5.0)
    cats.train(5.0, 7.0)
    with monkeypatch.context() as patch:
        patch.setattr(ControlLoop, "due", lambda self, now: False)
        second = start_daemon(directory, monkeypatch, now=8.0, policy=Wishes("pace", -1))
        second.tick(at(8.0))
    assert cats.page.revision() == frozen, "something was delivered late"
    changes = second.journal.changes("cats-1")
    assert {change.state for change in changes} <= FATES
    if cats.revision:
        assert [change.state for change in changes] == ["acknowledged"], "the script applied what the journal does not know"
    assert second.live["cats-1"].loop.positions == cats.positions
    cats.sample(10.0)
    second.tick(at(10.0))
    assert cats.asked() is not None, "the second daemon cannot guide the run"
    kill(second)
    assert not list(directory.glob("*corrupt*"))
    connection = sqlite3.connect(second.journal.path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    return died


def test_a_daemon_killed_at_any_write_of_a_tick_loses_tears_and_delivers_late_nothing(tmp_path, monkeypatch):
    deaths = 0
    while play(tmp_path / str(deaths), monkeypatch, fatal=deaths + 1):
        deaths += 1
    assert deaths > 15
