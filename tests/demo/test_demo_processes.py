"""The demo's children end with it, also those that do not want to."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from autotuner.demo import processes
from autotuner.demo.processes import Children, DemoError, daemon_port, wait_for

MODULE = """
import signal, subprocess, sys, time
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(grandchild.pid, flush=True)
time.sleep(600)
"""


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"


@pytest.fixture
def child_module(tmp_path, monkeypatch):
    (tmp_path / "patient_child.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "patient_child"


@pytest.mark.parametrize("manner", ["polite", "stubborn"])
def test_children_and_their_children_end_when_the_demo_is_interrupted(tmp_path, child_module, monkeypatch, manner):
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.3)
    pids = []

    def demo():
        with Children(tmp_path) as children:
            process = children.start("child", child_module, manner)
            wait_for(lambda: children.log("child").read_text().strip() != "", 10.0, "the child's first line")
            pids.extend([process.pid, int(children.log("child").read_text())])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo()
    wait_for(lambda: all(gone(pid) for pid in pids), 10.0, "the children's end")


def test_a_child_that_fails_is_quoted(tmp_path, monkeypatch):
    (tmp_path / "failing_child.py").write_text("raise SystemExit('no images here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Children(tmp_path) as children, pytest.raises(DemoError, match="exit code 1") as error:
        children.run("child", "failing_child", seconds=20.0)
    assert "no images here" in str(error.value)


def test_waiting_ends_when_what_is_waited_for_died():
    with pytest.raises(DemoError, match="the daemon"):
        wait_for(lambda: False, 60.0, "the daemon", alive=lambda: False)


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"port": "x"}'])
def test_a_daemon_that_has_not_written_its_port_has_none(tmp_path, text):
    if text is not None:
        (tmp_path / "daemon.json").write_text(text)
    assert daemon_port(tmp_path) is None


def test_an_interrupt_is_not_sent_to_children_by_the_terminal(tmp_path, child_module):
    with Children(tmp_path) as children:
        process = children.start("child", child_module)
        assert os.getpgid(process.pid) != os.getpgid(0)
        assert process.poll() is None
    assert process.returncode == -signal.SIGTERM
