"""What the hook holds open: never mapped, never in the way of the script's own files, closed with its last user."""

import errno
import fcntl
import os
import sys
import threading
import time

import pytest

from autotuner.hook import AutotunerWarning, attach, held
from autotuner.hook.files import new_file
from autotuner.hook.held import HeldFile
from autotuner.messages import Sample


def descriptors():
    """The numbers that are open in this process."""
    return {number for number in range(1024) if _is_open(number)}


def _is_open(number):
    try:
        fcntl.fcntl(number, fcntl.F_GETFD)
    except OSError:
        return False
    return True


def test_a_closed_run_holds_no_file(start):
    before = descriptors()
    run = start()
    assert len(descriptors() - before) == 2
    run.close()
    assert descriptors() == before


def test_an_attach_that_fails_holds_no_file(start, state, monkeypatch):
    before = descriptors()

    def no_declaration(*arguments):
        raise OSError("no room")

    monkeypatch.setattr("autotuner.hook.start.replace_text", no_declaration)
    with pytest.warns(AutotunerWarning, match="no room"):
        start()
    assert descriptors() == before


def test_a_file_is_not_closed_while_somebody_uses_it(tmp_path):
    file = new_file(tmp_path / "file", 8)
    user, number = file, file.number
    del file
    os.pwrite(number, b"still me", 0)
    del user
    assert (tmp_path / "file").read_bytes() == b"still me"
    assert not _is_open(number)


def test_a_script_that_closes_every_small_number_gets_none_of_ours_for_its_next_file(start, attached, tmp_path):
    run = start()
    daemon = attached(run)
    own = run._ring._file.number, run._asks._page._file.number
    with (tmp_path / "checkpoint").open("wb") as checkpoint:
        assert checkpoint.fileno() < min(own)
        run.report(1, 0.5)
    assert (tmp_path / "checkpoint").read_bytes() == b""
    assert len(daemon.records(Sample)) == 1


def test_a_script_that_closes_even_ours_is_warned_once_and_its_next_file_stays_its_own(start, tmp_path):
    run = start()
    for file in (run._ring._file, run._asks._page._file):
        os.close(file.number)
    with (tmp_path / "checkpoint").open("wb"):
        with pytest.warns(AutotunerWarning, match="Bad file descriptor"):
            run.report(1, 0.5)
        run.report(2, 0.5)  # a second warning would be an error here
    assert (run.directory, (tmp_path / "checkpoint").read_bytes()) == (None, b"")


def test_a_process_with_few_descriptors_keeps_the_small_number(tmp_path, monkeypatch):
    def too_high(*arguments):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(held.fcntl, "fcntl", too_high)
    file = HeldFile(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    assert os.pwrite(file.number, b"x", 0) == 1


def test_both_files_are_closed_by_exec():
    with attach("exec") as run:
        flags = [fcntl.fcntl(file.number, fcntl.F_GETFD) for file in (run._ring._file, run._asks._page._file)]
    assert flags == [fcntl.FD_CLOEXEC] * 2


@pytest.mark.parametrize("length", [0, 20, 100])
def test_files_that_are_cut_short_in_place_cost_no_exception_and_keep_the_knobs(run, attached, length):
    daemon = attached(run)
    daemon.ask(2, 3)
    run.report(1, 0.5)
    for name in ("telemetry.ring", "knobs.page"):
        os.truncate(run.directory / name, length)
    for step in range(2, 10):
        run.report(step, 0.5)
        run.poll()
        assert (run.guided, run.mode) == (False, None)
    run.close()
    assert run.knobs.micro_batch == 32


@pytest.fixture(params=["C library", "Python"])
def calls(request, monkeypatch):
    """The two ways to read and write."""
    if request.param == "Python":
        monkeypatch.setattr(held, "_pwrite", None)
        monkeypatch.setattr(held, "_pread", None)
    return request.param


def test_what_is_written_at_an_offset_is_read_there(tmp_path, calls):
    file = new_file(tmp_path / "file", 64)
    file.write((2**63 + 5).to_bytes(8, "little"), 16)
    file.write(b"\0behind the end", 100)
    assert (file.word(16), file.word(0), file.word(1000), file.word(110)) == (2**63 + 5, 0, 0, 0)
    assert file.words(8) == bytes(8) + (2**63 + 5).to_bytes(8, "little")
    assert (file.words(1000), file.words(105)) == (b"", b"")
    assert file.read(16, 99) == b"\0\0behind the end"


def test_a_call_that_fails_says_why(tmp_path, calls):
    new_file(tmp_path / "file", 64)
    file = HeldFile(tmp_path / "file", os.O_RDONLY)
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is the message
        file.write(b"x", 0)
    assert caught.value.errno == errno.EBADF
    os.close(file.number)
    for call in (lambda: file.word(0), lambda: file.words(0), lambda: file.read(8, 0)):
        with pytest.raises(OSError, match="Bad file descriptor"):
            call()
    file.number = -1  # else it closes, some time later, what has this number by then


@pytest.mark.skipif(held._pwrite is None, reason="this C library cannot be called")
def test_a_report_does_not_hand_the_interpreter_to_another_thread(run):
    """A thread that takes the interpreter whenever it is free never gets it while reports are made."""
    turns, stop = 0, False

    def take_turns():
        nonlocal turns
        while not stop:
            turns += 1
            time.sleep(0)

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=take_turns)
    thread.start()
    sys.setswitchinterval(1000.0)  # nobody is made to give it up
    try:
        before = turns
        for step in range(2000):
            run.report(step, 0.5)
            run.poll()
        during = turns - before
    finally:
        sys.setswitchinterval(interval)
        stop = True
        thread.join()
    assert during == 0
