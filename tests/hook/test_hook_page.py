"""The knob page: a revision is whole or it is not there, whenever the daemon dies."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotuner.errors import ProtocolError
from autotuner.hook import page as page_module
from autotuner.hook.page import MAX_POSITIONS, PAGE_BYTES, PageReader, PageWriter, Revision, create_page


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "knobs.page"
    create_page(path, (3, 1), 5.0)
    return path


@pytest.fixture
def writer(path):
    writer = PageWriter(path)
    yield writer
    writer.close()


def set_word(path, value):
    descriptor = os.open(path, os.O_WRONLY)
    os.pwrite(descriptor, value.to_bytes(8, "little"), 16)
    os.close(descriptor)


def test_a_new_page_holds_the_positions_that_the_script_starts_with(path):
    reader = PageReader(path)
    assert reader.announced() == 0
    assert reader.revision() == Revision(0, 5.0, (3, 1))
    assert reader.heartbeat() is None


def test_a_write_rings_the_bell_and_carries_time_and_positions(path, writer):
    reader = PageReader(path)
    assert writer.write((2, 0), 7.5) == 1
    assert reader.announced() == 1
    assert reader.revision() == Revision(1, 7.5, (2, 0))
    assert writer.write((1, 0), 8.5) == 2
    assert reader.revision() == Revision(2, 8.5, (1, 0))
    assert reader.damaged == 0


def test_the_next_revision_is_known_before_it_is_written(writer):
    for expected in (1, 2, 3):
        assert writer.next_revision == expected
        assert writer.write((0, 0), 0.0) == expected
        assert writer.revision == expected


def test_a_reopened_page_continues_its_numbers_and_knows_what_was_asked(path, writer):
    writer.write((2, 0), 7.5)
    writer.write((1, 0), 8.5)
    again = PageWriter(path)
    assert (again.revision, again.asked()) == (2, Revision(2, 8.5, (1, 0)))
    assert again.write((0, 0), 9.5) == 3
    again.close()


def test_a_heartbeat_carries_time_and_mode(path, writer):
    reader = PageReader(path)
    writer.heartbeat(12.5, "advise")
    beat = reader.heartbeat()
    assert (beat.time, beat.mode) == (12.5, "advise")


def test_a_heartbeat_in_a_mode_of_a_later_version_counts_as_none(path, writer, monkeypatch):
    monkeypatch.setattr(page_module, "MODES", (*page_module.MODES, "command"))
    writer.heartbeat(12.5, "command")
    monkeypatch.undo()
    assert PageReader(path).heartbeat() is None


def test_a_heartbeat_is_no_revision(path, writer):
    reader = PageReader(path)
    writer.heartbeat(12.5, "act")
    assert reader.announced() == 0


def test_more_positions_than_fit_are_refused(writer):
    writer.write((0,) * MAX_POSITIONS, 0.0)
    with pytest.raises(ValueError, match="17 positions; at most 16"):
        writer.write((0,) * (MAX_POSITIONS + 1), 0.0)


def test_closing_the_writer_twice_is_no_error(path):
    writer = PageWriter(path)
    writer.close()
    writer.close()


@pytest.mark.parametrize("side", [PageReader, PageWriter])
@pytest.mark.parametrize("content", [b"", b"ATPAGE1\0", bytes(PAGE_BYTES), b"\xff" * PAGE_BYTES])
def test_a_file_that_is_no_page_is_a_protocol_error(tmp_path, side, content):
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(ProtocolError, match="knob page"):
        side(path)


@pytest.mark.parametrize("side", [PageReader, PageWriter])
def test_a_page_of_another_version_is_a_protocol_error(path, side):
    data = bytearray(path.read_bytes())
    data[8] ^= 2
    path.write_bytes(data)
    with pytest.raises(ProtocolError, match="version"):
        side(path)


def test_a_damaged_slot_leaves_the_revision_before_it_readable(path, writer):
    reader = PageReader(path)
    writer.write((2, 0), 7.5)
    writer.write((1, 0), 8.5)
    descriptor = os.open(path, os.O_WRONLY)
    os.pwrite(descriptor, b"\x63", 64 + 20)
    os.close(descriptor)
    assert reader.revision() == Revision(1, 7.5, (2, 0))
    assert reader.damaged == 1
    assert writer.asked() is None


def test_a_damaged_word_does_not_carry_the_numbers_away(path, writer):
    writer.write((2, 0), 7.5)
    set_word(path, 2**63)
    again = PageWriter(path)
    assert (again.revision, again.next_revision) == (1, 2)
    again.close()


class Killed(BaseException):
    """Stands for SIGKILL in the middle of a write."""


@pytest.fixture
def kill_after(monkeypatch):
    """Let the next page writes store this many bytes altogether, then die."""

    def arm(count):
        left, pwrite = [count], os.pwrite

        def dying(descriptor, data, offset):
            part = data[: left[0]]
            left[0] -= len(part)
            pwrite(descriptor, part, offset)
            if len(part) < len(data):
                raise Killed
            return len(part)

        monkeypatch.setattr(page_module.os, "pwrite", dying)
        return monkeypatch.undo

    return arm


SLOT_BYTES = 40
WORD_BYTES = 8


@pytest.mark.parametrize("before", [1, 2, 255])
def test_a_daemon_killed_after_any_byte_of_a_write_leaves_a_whole_revision(tmp_path, kill_after, before):
    for count in range(SLOT_BYTES + WORD_BYTES):
        path = tmp_path / f"{count}.page"
        create_page(path, (0, 0), 0.0)
        writer, reader = PageWriter(path), PageReader(path)
        for number in range(1, before + 1):
            writer.write((number % 8, 1), float(number))
        old, new = Revision(before, float(before), (before % 8, 1)), Revision(before + 1, 99.0, (7, 7))
        undo = kill_after(count)
        with pytest.raises(Killed):
            writer.write(new.positions, new.time)
        undo()
        writer.close()
        assert reader.revision() in (old, new, None)  # None: keep what is in force
        if reader.revision() == new:
            assert reader.announced() == new.number

        restarted = PageWriter(path)
        assert restarted.next_revision > before
        number = restarted.write((5, 5), 100.0)
        assert reader.revision() == Revision(number, 100.0, (5, 5))
        restarted.close()


def test_a_revision_that_was_not_announced_before_the_kill_is_never_delivered_late(path, kill_after):
    writer, reader = PageWriter(path), PageReader(path)
    writer.write((2, 0), 1.0)
    undo = kill_after(SLOT_BYTES)
    with pytest.raises(Killed):
        writer.write((0, 0), 2.0)
    undo()
    writer.close()
    restarted = PageWriter(path)
    assert reader.revision() == Revision(1, 1.0, (2, 0))
    assert (restarted.revision, restarted.next_revision) == (1, 3)
    restarted.close()


@pytest.mark.parametrize("count", range(16))
def test_a_daemon_killed_in_a_heartbeat_leaves_the_old_one_or_none(path, kill_after, count):
    writer, reader = PageWriter(path), PageReader(path)
    writer.heartbeat(1.0, "act")
    undo = kill_after(count)
    with pytest.raises(Killed):
        writer.heartbeat(1e6 + 0.1, "observe")
    undo()
    writer.close()
    beat = reader.heartbeat()
    assert beat is None or (beat.time, beat.mode) in ((1.0, "act"), (1e6 + 0.1, "observe"))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "knobs.page"
    create_page(path, (3, 1), 5.0)
    writer = PageWriter(path)
    for number in (1, 2, 3):
        writer.write((number, 0), float(number))
    writer.heartbeat(9.5, "act")
    writer.close()
    return path.read_bytes(), path.with_name("damaged")


WRITTEN = {Revision(0, 5.0, (3, 1)), *(Revision(number, float(number), (number, 0)) for number in (1, 2, 3)), None}


def check_only_written_revisions_are_read(data, path):
    with path.open("r+b" if path.exists() else "wb") as file:  # ext4 flushes a file that was emptied first: 20 ms
        file.write(data)
    try:
        reader = PageReader(path)
    except ProtocolError:
        return
    assert reader.revision() in WRITTEN
    beat = reader.heartbeat()
    assert beat is None or (beat.time, beat.mode) == (9.5, "act")
    writer = PageWriter(path)
    assert writer.asked() in WRITTEN
    writer.close()


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, 8 * 200 - 1))
def test_a_flipped_bit_never_yields_a_revision_that_was_not_written(written, place):
    data, path = written
    flipped = bytearray(data)
    flipped[place // 8] ^= 1 << place % 8
    check_only_written_revisions_are_read(bytes(flipped), path)


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, PAGE_BYTES), noise=st.binary(max_size=300))
def test_random_bytes_over_a_page_never_yield_a_revision_that_was_not_written(written, place, noise):
    data, path = written
    check_only_written_revisions_are_read((data[:place] + noise + data[place + len(noise) :])[:PAGE_BYTES], path)
