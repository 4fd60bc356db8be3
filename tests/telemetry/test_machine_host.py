"""The door to the machine: files, commands and libraries, and what is kept of them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from autotuner.telemetry import host as host_module
from autotuner.telemetry.host import Host, run_command
from autotuner.telemetry.process import footprint, is_running, process_start
from autotuner.telemetry.sensor import Unavailable


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-c", code)


def test_a_command_runs_in_the_c_locale_and_without_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hidden")
    printed = run_command(python("import os; print(os.environ.get('LC_ALL'), os.environ.get('SECRET_TOKEN'))"))
    assert printed.split() == ["C", "None"]


def test_a_command_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "COMMAND_TIMEOUT_SECONDS", 0.05)
    with pytest.raises(Unavailable, match=r"did not answer within 0\.05 s"):
        run_command(python("import signal; signal.pause()"))


def test_a_command_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="/nowhere/vm_stat: No such file"):
        run_command(("/nowhere/vm_stat",))


def test_a_failing_command_counts_only_if_it_printed_something() -> None:
    assert run_command(python("print('hw.memsize: 1'); raise SystemExit(1)")) == "hw.memsize: 1\n"
    with pytest.raises(Unavailable, match="failed with status 3"):
        run_command(python("raise SystemExit(3)"))


def test_bytes_that_are_no_text_do_not_break_a_reading(tmp_path: Path) -> None:
    (tmp_path / "odd").write_bytes(b"\xff 5\n")
    assert Host(tmp_path).text("odd").endswith(" 5\n")
    assert run_command(python("import os; os.write(1, b'\\xff 5')")).endswith(" 5")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="/proc/meminfo: No such file"):
        Host(tmp_path).text("proc/meminfo")


def test_a_missing_library_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"/usr/lib/libNothing\.dylib cannot be loaded"):
        Host(tmp_path).load_library("/usr/lib/libNothing.dylib")


def test_a_recording_host_keeps_what_was_read_and_what_was_not(tmp_path: Path) -> None:
    (tmp_path / "here").write_text("content")
    journal: dict[str, str] = {}
    host = Host(tmp_path, lambda argv: "printed").recording(journal)
    host.text("here")
    host.output("/bin/command", "-x")
    with pytest.raises(Unavailable):
        host.text("gone")
    assert journal == {"/here": "content", "/bin/command -x": "printed", "/gone": "unreadable: No such file or directory"}


def test_our_own_footprint_is_some_megabytes() -> None:
    found = footprint(os.getpid(), "linux")
    assert 2**20 < found.value_bytes < 2**36
    assert found.source.startswith("rss")


def test_the_footprint_of_a_process_that_is_gone_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        footprint(2**22 + 12345, "linux")


def test_a_reused_pid_is_not_the_process_that_it_was() -> None:
    start = process_start(os.getpid())
    assert start is not None
    assert is_running(os.getpid(), start)
    assert not is_running(os.getpid(), start + 1.0)
    assert not is_running(2**22 + 12345, start)
