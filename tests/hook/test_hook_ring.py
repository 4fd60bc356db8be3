"""The ring: what was written is read, what was not written is never read, whatever happened to the bytes."""

import dataclasses
import math
import os
import threading
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotuner.errors import ProtocolError
from autotuner.hook.held import HeldFile
from autotuner.hook.record import FRAME, RECORD_BYTES, SAMPLE_BODY
from autotuner.hook.ring import DEFAULT_CAPACITY, HEADER_BYTES, RingReader, RingWriter
from autotuner.messages import KIND_SAMPLE, PROTOCOL_VERSION, Acknowledgement, Evaluation, Goodbye, Sample

CAPACITY = 16


def write_sample(ring, step):
    ring.sample(step, step * 0.5, 1.0 / step, step * 64, 0.25, 1 << 33, 1 << 20, 1 << 34, 3, 1, 4)


def sample(step):
    return Sample(step, step * 0.5, 1.0 / step, step * 64, 0.25, 1 << 33, 1 << 20, 1 << 34, 3, 1, 4)


def corrupt(path, offset, data):
    descriptor = os.open(path, os.O_WRONLY)
    os.pwrite(descriptor, data, offset)
    os.close(descriptor)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "telemetry.ring"


@pytest.fixture
def ring(path):
    return RingWriter(path, CAPACITY)


@pytest.fixture
def reader(ring, path):
    reader = RingReader(path)
    yield reader
    reader.close()


def slot_offset(number):
    return HEADER_BYTES + number % CAPACITY * RECORD_BYTES


def test_every_kind_of_record_arrives_as_it_was_written(ring, reader):
    evaluation = Evaluation(7, 1.5, 0.25, quality=3.5, quality_steps=4, seconds=2.0, stage=1, gap=1.25)
    accepted = Acknowledgement(9, 7, 2.5, positions=(3, 0, 2))
    refused = Acknowledgement(10, 8, 3.5, refused=True, detail=2, positions=(3, 0, 2))
    write_sample(ring, 1)
    ring.evaluation(evaluation)
    ring.acknowledgement(accepted)
    ring.acknowledgement(refused)
    ring.goodbye(Goodbye(4.5, 1))
    assert reader.read() == [sample(1), evaluation, accepted, refused, Goodbye(4.5, 1)]
    assert reader.lost == 0


def test_an_empty_ring_has_nothing_to_read(reader):
    assert reader.read() == []
    assert reader.lost == 0


def test_a_second_read_gives_only_what_is_new(ring, reader):
    write_sample(ring, 1)
    reader.read()
    assert reader.read() == []
    write_sample(ring, 2)
    assert reader.read() == [sample(2)]


def test_reading_in_time_loses_nothing_however_often_the_ring_wraps(ring, reader):
    seen = []
    for step in range(1, 10 * CAPACITY):
        write_sample(ring, step)
        if step % (CAPACITY - 1) == 0:
            seen += reader.read()
    seen += reader.read()
    assert [record.step for record in seen] == list(range(1, 10 * CAPACITY))
    assert reader.lost == 0


def test_the_writer_overwrites_the_oldest_and_the_reader_counts_them(ring, reader):
    for step in range(1, 3 * CAPACITY + 6):
        write_sample(ring, step)
    records = reader.read()
    assert [record.step for record in records] == list(range(2 * CAPACITY + 6, 3 * CAPACITY + 6))
    assert reader.lost == 2 * CAPACITY + 5


def test_a_reader_resumes_after_the_sequence_that_it_is_given(ring, path):
    for step in range(1, 6):
        write_sample(ring, step)
    reader = RingReader(path, from_sequence=3)
    assert [record.step for record in reader.read()] == [4, 5]
    assert (reader.sequence, reader.lost) == (5, 0)
    reader.close()


def test_a_damaged_record_is_skipped_and_counted(ring, reader, path):
    for step in range(1, 6):
        write_sample(ring, step)
    corrupt(path, slot_offset(3) + 40, b"\xff")
    assert [record.step for record in reader.read()] == [1, 2, 4, 5]
    assert reader.lost == 1


def test_a_record_whose_two_sequences_differ_is_not_believed(ring, reader, path):
    for step in range(1, 4):
        write_sample(ring, step)
    corrupt(path, slot_offset(2) + RECORD_BYTES - 8, b"\x12")  # as left by the round before
    assert [record.step for record in reader.read()] == [1, 3]
    assert reader.lost == 1


def test_a_half_written_newest_record_is_not_lost_but_read_next_time(ring, reader, path):
    for step in range(1, 4):
        write_sample(ring, step)
    whole = path.read_bytes()[slot_offset(3) : slot_offset(3) + RECORD_BYTES]
    corrupt(path, slot_offset(3) + 60, bytes(40))
    assert [record.step for record in reader.read()] == [1, 2]
    corrupt(path, slot_offset(3), whole)
    assert [record.step for record in reader.read()] == [3]
    assert reader.lost == 0


def test_a_slot_that_was_taken_and_never_written_does_not_stop_the_reader(ring, reader, path):
    for step in range(1, 6):
        write_sample(ring, step)
    corrupt(path, slot_offset(2), bytes(RECORD_BYTES))
    assert [record.step for record in reader.read()] == [1, 3, 4, 5]
    assert reader.lost == 1


def test_a_record_of_another_version_or_kind_is_counted_not_guessed(ring, reader, path):
    for step in range(1, 4):
        write_sample(ring, step)
    corrupt(path, slot_offset(1) + 8, b"\x63")
    corrupt(path, slot_offset(2) + 10, b"\x63")
    assert [record.step for record in reader.read()] == [3]
    assert reader.lost == 2


@pytest.mark.parametrize("size", [0, 7, HEADER_BYTES - 1])
def test_a_file_without_a_whole_header_is_a_protocol_error(tmp_path, size):
    path = tmp_path / "short"
    path.write_bytes(bytes(size))
    with pytest.raises(ProtocolError, match="cut short"):
        RingReader(path)


@pytest.mark.parametrize(
    ("offset", "words"), [(0, "not a telemetry ring"), (8, "version"), (12, "version"), (16, "damaged header")]
)
def test_a_damaged_header_is_a_protocol_error_that_says_what_is_wrong(ring, path, offset, words):
    corrupt(path, offset, b"\x63")
    with pytest.raises(ProtocolError, match=words):
        RingReader(path)


def test_a_ring_truncated_under_the_reader_is_a_protocol_error_and_no_signal(ring, reader, path):
    write_sample(ring, 1)
    reader.read()
    os.truncate(path, HEADER_BYTES + RECORD_BYTES)
    with pytest.raises(ProtocolError, match="cut short"):
        reader.read()


def test_closing_the_reader_twice_is_no_error(ring, path):
    reader = RingReader(path)
    reader.close()
    reader.close()


def test_two_rings_have_different_tokens(tmp_path):
    tokens = set()
    for name in "ab":
        RingWriter(tmp_path / name, CAPACITY)
        reader = RingReader(tmp_path / name)
        tokens.add(reader.token)
        reader.close()
    assert len(tokens) == 2


def test_an_existing_file_is_never_overwritten(ring, path):
    with pytest.raises(FileExistsError):
        RingWriter(path, CAPACITY)


@pytest.mark.parametrize("capacity", [0, -4, 3, 1 << 21])
def test_a_capacity_that_is_no_power_of_two_is_refused(tmp_path, capacity):
    with pytest.raises(ValueError, match=f"{capacity}; allowed is a power of two"):
        RingWriter(tmp_path / "ring", capacity)


def test_the_file_has_its_final_size_and_only_its_owner_may_read_it(tmp_path):
    RingWriter(tmp_path / "ring")
    status = (tmp_path / "ring").stat()
    assert status.st_size == HEADER_BYTES + DEFAULT_CAPACITY * RECORD_BYTES
    assert status.st_blocks * 512 >= status.st_size
    assert status.st_mode & 0o777 == 0o600


def test_values_that_do_not_fit_are_made_whole_and_clipped(ring, reader):
    ring.sample(1, 0.0, 0.5, 64.0, None, 1.5e9, -3, 2**80, None, 70000, 1)
    (record,) = reader.read()
    assert (record.images, record.active_bytes, record.cache_bytes, record.peak_bytes) == (64, 1500000000, 0, 2**64 - 1)
    assert (record.revision, record.stage, record.flags) == (0, 65535, 1)
    assert math.isnan(record.step_seconds)


def append_samples(ring, steps):
    """As the hot path does: whole records that are not in the file yet."""
    for step in steps:
        number = ring.take()
        body = SAMPLE_BODY.pack(number, KIND_SAMPLE, PROTOCOL_VERSION, *dataclasses.astuple(sample(step)))
        ring.append(FRAME.pack(body, crc32(body), number))


def test_what_was_appended_is_in_the_file_after_a_flush_and_not_before(ring, reader):
    append_samples(ring, [1, 2, 3])
    assert reader.read() == []
    ring.flush()
    assert reader.read() == [sample(1), sample(2), sample(3)]
    ring.flush()
    assert reader.read() == []


def test_a_flush_that_wraps_puts_every_record_where_it_belongs(ring, reader):
    for step in range(1, CAPACITY - 2):
        write_sample(ring, step)
    reader.read()
    append_samples(ring, range(1, 8))
    ring.flush()
    assert reader.read() == [sample(step) for step in range(1, 8)]
    assert reader.lost == 0


def test_records_that_threads_appended_out_of_order_are_put_in_order(ring, reader):
    append_samples(ring, [1, 2, 3])
    ring._pending.rotate(1)
    ring.flush()
    assert reader.read() == [sample(1), sample(2), sample(3)]


def test_an_interrupt_in_the_middle_of_a_flush_loses_nothing(ring, reader, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    append_samples(ring, [1, 2, 3])
    with monkeypatch.context() as patch:
        patch.setattr(HeldFile, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ring.flush()
    ring.goodbye(Goodbye(1.0, 1))
    assert reader.read() == [sample(1), sample(2), sample(3), Goodbye(1.0, 1)]


def test_threads_that_write_at_once_never_share_a_slot(tmp_path):
    ring = RingWriter(tmp_path / "ring", 4096)
    steps = range(1, 501)

    def work():
        for step in steps:
            write_sample(ring, step)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader = RingReader(tmp_path / "ring")
    assert sorted(record.step for record in reader.read()) == sorted([*steps] * 4)
    assert reader.lost == 0
    reader.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The bytes of a wrapped ring, the records that were ever written into it, and a file to damage."""
    path = tmp_path_factory.mktemp("ring") / "telemetry.ring"
    ring = RingWriter(path, CAPACITY)
    for step in range(1, CAPACITY + 5):
        write_sample(ring, step)
    ring.evaluation(Evaluation(CAPACITY + 5, 1.0, 0.5, 1.0, 4, 1.0, 1, 1.5))
    records = {*map(sample, range(1, CAPACITY + 5)), Evaluation(CAPACITY + 5, 1.0, 0.5, 1.0, 4, 1.0, 1, 1.5)}
    return path.read_bytes(), records, path.with_name("damaged")


def overwrite(path, data):
    """Like write_bytes; ext4 flushes a file that was emptied first, which costs 20 ms."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(data)
        file.truncate()


def check_only_written_records_are_read(data, records, path, from_sequence):
    overwrite(path, data)
    try:
        reader = RingReader(path, from_sequence)
    except ProtocolError:
        return
    try:
        found = reader.read()
        assert set(found) <= records
        assert len(found) == len(set(found))
        assert reader.read() == []
    finally:
        reader.close()


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, 8 * (HEADER_BYTES + CAPACITY * RECORD_BYTES) - 1), known=st.integers(0, CAPACITY + 8))
def test_a_flipped_bit_never_yields_a_record_that_was_not_written(written, place, known):
    data, records, path = written
    flipped = bytearray(data)
    flipped[place // 8] ^= 1 << place % 8
    check_only_written_records_are_read(bytes(flipped), records, path, known)


@settings(max_examples=200, deadline=None)
@given(
    place=st.integers(0, HEADER_BYTES + CAPACITY * RECORD_BYTES),
    noise=st.binary(max_size=600),
    known=st.integers(0, CAPACITY + 8),
)
def test_random_bytes_over_a_ring_never_yield_a_record_that_was_not_written(written, place, noise, known):
    data, records, path = written
    check_only_written_records_are_read(data[:place] + noise + data[place + len(noise) :], records, path, known)


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=HEADER_BYTES + 4 * RECORD_BYTES))
def test_any_file_at_all_is_read_or_refused(written, data):
    check_only_written_records_are_read(data, set(), written[2], 0)
