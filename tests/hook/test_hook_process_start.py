"""process_start() on both platforms, driven by texts and bytes as the systems give them."""

import os
import struct
import subprocess
import sys
import time

import pytest

from autotuner.hook.process import process_start

STAT = (
    "4242 (python (odd) name) {state} 1 4242 4242 0 -1 4194560 1508 0 0 0 3 1 0 0 20 0 1 0 {start} 15929344 2304 "
    "18446744073709551615 1 1 0 0 0 0 0 16781312 2 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
)


def missing(pid):
    raise FileNotFoundError(pid)


def bsdinfo(seconds, microseconds):
    """``struct proc_bsdinfo`` of sys/proc_info.h: 11 u32, a reserved u32, comm[16], name[32], 6 u32, two u64."""
    return struct.pack("<12I16s32s6IQQ", *range(12), b"python", b"python3.12", *range(6), seconds, microseconds)


def test_linux_reads_field_22_whatever_the_command_is_called():
    assert process_start(4242, platform="linux", read_stat=lambda pid: STAT.format(state="S", start=987654)) == 987654.0


@pytest.mark.parametrize("text", ["", "4242 (python", "4242 (python) S 1 2", STAT.format(state="S", start="soon")])
def test_a_stat_file_that_makes_no_sense_is_no_start(text):
    assert process_start(4242, platform="linux", read_stat=lambda pid: text) is None


@pytest.mark.parametrize("state", ["Z", "X"])
def test_a_process_that_only_waits_to_be_collected_has_no_start(state):
    assert process_start(4242, platform="linux", read_stat=lambda pid: STAT.format(state=state, start=1)) is None


def test_a_process_that_is_gone_has_no_start():
    assert process_start(4242, platform="linux", read_stat=missing) is None


def test_macos_asks_libproc():
    data = bsdinfo(1763840401, 250000)
    assert len(data) == 136
    assert process_start(7, platform="darwin", pid_info=lambda pid: data, run_ps=missing) == 1763840401.25


def test_macos_falls_back_to_ps(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    start = process_start(7, platform="darwin", pid_info=missing, run_ps=lambda pid: "S+   Sat Nov 22 19:40:01 2025    \n")
    assert start == 1763840401.0
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("text", ["", "no such process", "S Sat Nov 32 19:40:01 2025", "Z Sat Nov 22 19:40:01 2025"])
def test_a_ps_that_makes_no_sense_is_no_start(text):
    assert process_start(7, platform="darwin", pid_info=missing, run_ps=lambda pid: text) is None


def test_short_bytes_of_libproc_are_no_start():
    assert process_start(7, platform="darwin", pid_info=lambda pid: b"", run_ps=missing) is None


def test_this_process_has_a_start_that_does_not_change():
    assert process_start(os.getpid()) is not None
    assert process_start(os.getpid()) == process_start(os.getpid())


def test_a_child_that_has_ended_and_was_waited_for_has_none():
    child = subprocess.Popen([sys.executable, "-S", "-c", "pass"])
    child.wait()
    assert process_start(child.pid) is None
