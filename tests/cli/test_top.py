"""``autotuner top``: its view as text, and the terminal that it takes and gives back."""

import json
import os
import pty
import re
import select
import signal
import sys
import termios

import pytest

from autotuner.cli import main
from autotuner.cli.frame import frame, painted
from autotuner.journal import ChangeRecord, DecisionRecord, Journal, RunRecord, journal_path
from tests.suites.fake_run import FakeRun
from tests.suites.hand_driven_daemon import at, kill, start_daemon

KNOBS = [
    {"name": "micro_batch", "unit": "images", "values": [8, 16, 32], "asked": 8, "acknowledged": 16, "pinned": False},
    {"name": "pace", "unit": "", "values": [0.5, 1.0], "asked": 1.0, "acknowledged": 1.0, "pinned": True},
]
RUN = {
    "run_id": "cats-1", "name": "cats", "state": "stalled", "mode": "observe", "mode_why": "the first run on this machine",
    "step": 400, "loss": 0.02, "held_out_loss": None, "images_per_second": 640.0, "peak_bytes": 2**30, "budget_used": 0.25,
    "knobs": KNOBS, "held_out": False,
}  # fmt: skip
MACHINE = {
    "memory_available_bytes": 2**33, "memory_total_bytes": 2**34, "memory_pressure": 1, "thermal_level": 3, "celsius": 61.4,
    "injected": True,
}  # fmt: skip
DOCUMENT = {
    "version": "0.1", "mode": "act", "policy": "rules", "unix_time": 7300.0, "started_unix": 100.0, "machine": MACHINE,
    "sensors": [{"up": True}, {"name": "macmon", "up": False}], "problems": ["the disk is full"], "notice": "", "runs": [RUN],
}  # fmt: skip
EVENT = {"time_unix": 1.0, "run_id": "cats-1", "what": "pace 1 to 0.5", "state": "observed", "why": "hot", "by": "rules"}
VIEW = {
    "unix_time": 7300.0, "why": "", "daemon": DOCUMENT, "labels": {"cats-1": "cats"}, "events": [EVENT],
    "advice": [{"advice_id": "abc", "run_id": "cats-1", "what": "pace 1 to 0.5"}],
}  # fmt: skip


def text(view=VIEW, columns=80, rows=24, colour=False):
    return [painted(line, columns, colour) for line in frame(view, columns, rows)]


def test_a_view_shows_machine_runs_knobs_and_decisions():
    shown = "\n".join(text())
    assert re.search(r"autotuner  act  policy rules  up 2 h  version 0.1  ..:..:..  injected readings", shown)
    assert "memory #####..... 8 GiB of 16 GiB free  pressure warn  heat trapping 61 °C" in shown
    assert "! the disk is full" in shown
    assert "advice abc cats: pace 1 to 0.5" in shown
    assert re.search(r"cats +stalled observe +400 +0.02 +- +640 +1 GiB +25 %", shown)
    assert "micro_batch 8 [16] 32 ->8   pace 0.5 [1] pinned" in shown
    assert "observe: the first run on this machine" in shown
    assert "cats pace 1 to 0.5 [observed] rules: hot" in shown


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (40, 8), (20, 4), (200, 60)])
@pytest.mark.parametrize("runs", [0, 1, 30])
def test_a_view_fills_its_terminal_and_never_more(columns, rows, runs):
    many = [{**RUN, "run_id": f"a-rather-long-name-{i}"} for i in range(runs)]
    view = {**VIEW, "daemon": {**DOCUMENT, "runs": many}, "events": [EVENT] * 50}
    lines = text(view, columns, rows)
    assert len(lines) == rows
    assert max(map(len, lines)) <= columns
    assert lines[-1].startswith(" q leaves")


def test_runs_that_do_not_fit_are_counted():
    view = {**VIEW, "daemon": {**DOCUMENT, "runs": [RUN] * 30}}
    counted = next(line for line in text(view) if line.endswith("more: autotuner status"))
    shown = sum("stalled" in line for line in text(view))
    assert shown >= 3
    assert counted == f"and {30 - shown} more: autotuner status"


def test_colours_only_when_wanted():
    assert "\x1b" not in "".join(text())
    coloured = "".join(text(colour=True))
    assert "\x1b[31mtrapping\x1b[0m" in coloured
    assert re.sub(r"\x1b\[[0-9]+m", "", coloured).replace(" ", "") == "".join(text()).replace(" ", "")


def test_an_ended_run_is_one_line():
    assert "\n".join(text({**VIEW, "daemon": {**DOCUMENT, "runs": [{**RUN, "state": "ended"}]}})).count("micro_batch") == 0


def test_what_is_wished_again_and_again_is_one_event(state, monkeypatch):
    from autotuner.cli.top import view

    FakeRun(state).train(0.0, 9.0)
    daemon = start_daemon(state, monkeypatch, mode="observe")
    for now in (2.0, 4.0, 6.0, 8.0):
        daemon.tick(at(now))
    kill(daemon)
    assert [(event["what"], event["state"]) for event in view(state)["events"]] == [
        ("micro_batch 32 to 16", "not made: observe")
    ]


def test_nothing_that_a_run_says_can_steer_the_terminal():
    view = {**VIEW, "labels": {"cats-1": "\x1b[2Jcats\r\n"}}
    assert not any(letter in "".join(text(view)) for letter in "\x1b\r\n")


def test_without_a_daemon_the_view_says_so():
    lines = text({**VIEW, "daemon": None, "why": "no daemon is running for /x", "events": [], "advice": []})
    assert "no daemon is running for /x" in lines[0]
    assert "none" in lines


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOTUNER_STATE_DIR", str(tmp_path))
    return tmp_path


def test_output_that_is_no_terminal_gets_one_view(capsys, state, monkeypatch):
    with Journal(journal_path(state)) as journal:
        journal.write(RunRecord("cats-1", "cats", "", "m", "{}", 1.0, 2.0))
        journal.intend([ChangeRecord("cats-1", 1, "pace", 1, 0, 1.0, 0.5, "heat", "pace 1 to 0.5", "hot", "rules", 3.0)])
        veto = DecisionRecord("cats-1", 4.0, "act", 4, "hold", "hold", "refused: too soon", "rules", vetoed="dwell")
        journal.write(veto)
    assert main(["top"]) == 4
    out = capsys.readouterr().out
    assert "no daemon is running" in out
    assert out.index("cats hold [refused] rules: refused: too soon") < out.index("cats pace 1 to 0.5 [intended] rules: hot")
    assert "\x1b" not in out
    assert main(["top", "--json"]) == 4
    assert [event["state"] for event in json.loads(capsys.readouterr().out)["events"]] == ["intended", "refused"]


def test_runs_of_one_name_are_called_by_their_ids(state, monkeypatch):
    from autotuner.cli.top import view

    for run_id in ("cats-1", "cats-2", "dogs-1"):
        FakeRun(state, run_id)
    daemon = start_daemon(state, monkeypatch)
    daemon.tick(at(1.0))
    kill(daemon)
    assert view(state)["labels"] == {"cats-1": "cats-1", "cats-2": "cats-2", "dogs-1": "dogs"}


class Terminal:
    """A pseudo terminal with ``autotuner top`` in it."""

    def __init__(self, state, **environment):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update({"TERM": "xterm", "AUTOTUNER_STATE_DIR": str(state), "OPENBLAS_NUM_THREADS": "1", **environment})
            os.execv(sys.executable, [sys.executable, "-m", "autotuner", "top", "--seconds", "0.1"])
        self.said = ""

    def until(self, words):
        while words not in self.said:
            assert select.select([self.fd], [], [], 60)[0], f"{words!r} never came: {self.said!r}"
            self.said += os.read(self.fd, 65536).decode()

    def settings(self):
        return termios.tcgetattr(self.fd)[3] & (termios.ICANON | termios.ECHO)

    def ended(self):
        """The exit status, once everything was read."""
        while True:
            try:
                self.said += os.read(self.fd, 65536).decode()
            except OSError:
                break
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        return status


@pytest.mark.parametrize(("leave", "status"), [(b"q", 0), (b"\x03", 0), (signal.SIGTERM, 143)])
def test_the_terminal_is_given_back_however_one_leaves(state, leave, status):
    terminal = Terminal(state, NO_COLOR="1")
    before = terminal.settings()
    terminal.until("q leaves")
    assert terminal.settings() != before
    if isinstance(leave, bytes):
        os.write(terminal.fd, leave)
    else:
        os.kill(terminal.pid, leave)
    terminal.until("\x1b[?1049l")
    assert terminal.ended() == status
    assert terminal.said.count("\x1b[?1049h") == terminal.said.count("\x1b[?1049l") == 1
    assert "\x1b[?25h" in terminal.said
    assert "\x1b[31m" not in terminal.said


def test_ctrl_z_gives_the_terminal_back_until_the_view_goes_on(state):
    terminal = Terminal(state)
    before = terminal.settings()
    terminal.until("q leaves")
    os.write(terminal.fd, b"\x1a")
    assert os.WIFSTOPPED(os.waitpid(terminal.pid, os.WUNTRACED)[1])
    terminal.until("\x1b[?1049l")
    assert terminal.settings() == before
    terminal.said = ""
    os.kill(terminal.pid, signal.SIGCONT)
    terminal.until("\x1b[?1049h")
    terminal.until("q leaves")
    os.write(terminal.fd, b"q")
    assert terminal.ended() == 0


def test_a_terminal_that_is_closed_ends_the_view(state):
    terminal = Terminal(state)
    terminal.until("q leaves")
    os.close(terminal.fd)
    assert os.waitstatus_to_exitcode(os.waitpid(terminal.pid, 0)[1]) == 128 + signal.SIGHUP
