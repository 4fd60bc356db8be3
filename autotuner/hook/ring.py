"""The telemetry ring: fixed-size records in a file; the run writes, the daemon reads.

File: a 128-byte header, then ``capacity`` records of 128 bytes; record ``n`` lives in slot ``n % capacity``, counted from 1.

There is no write counter in the header: it would be one more store for each step, and after a SIGKILL it could disagree with
the records (``record.py``), which carry their sequence anyway.
"""

from __future__ import annotations

import itertools
import os
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Self
from zlib import crc32

from autotuner.errors import ProtocolError
from autotuner.hook.files import new_file
from autotuner.hook.held import HeldFile
from autotuner.hook.record import FRAME, RECORD_BYTES, body_struct, decode, fitted
from autotuner.messages import (
    KIND_ACKNOWLEDGEMENT,
    KIND_EVALUATION,
    KIND_GOODBYE,
    KIND_SAMPLE,
    PROTOCOL_VERSION,
    Acknowledgement,
    Evaluation,
    Goodbye,
    Record,
    Sample,
)

MAGIC = b"ATRING1\0"
HEADER_BYTES = 128
DEFAULT_CAPACITY = 4096
MAX_CAPACITY = 1 << 16
"""8 MiB: what a reader holds in memory when it must look at every record."""

_HEADER = struct.Struct("<8sIIIQ")  # magic, version, record size, capacity, token of the ring
_CRC = struct.Struct("<I")
_LEADING = struct.Struct(f"<Q{RECORD_BYTES - 8}x")  # the sequence that a record begins with
_CHUNK_RECORDS = 64
_MAX_POSITIONS = 16


class RingWriter:
    """Creates a ring and writes into it; overwrites the oldest record. Never maps the file, so no SIGBUS.

    A write has two halves. ``append`` takes a whole record with a number from ``take``; it costs no system call, and both are
    atomic, so that two threads never share a slot. ``flush`` brings what was appended into the file, where it outlives the
    process. What is not on the hot path does both at once, and ``sample`` does so with the fields of ``messages.Sample``.
    """

    __slots__ = ("_capacity", "_file", "_pending", "append", "take")

    def __init__(self, path: str | os.PathLike[str], capacity: int = DEFAULT_CAPACITY) -> None:
        """Create the file with all its blocks; raises OSError when there is no room."""
        if not _is_capacity(capacity):
            raise ValueError(f"ring capacity {capacity}; allowed is a power of two up to {MAX_CAPACITY}")
        file = new_file(path, HEADER_BYTES + capacity * RECORD_BYTES)
        file.write(_pack_header(capacity), 0)
        self._begin(file, capacity, 1)

    @classmethod
    def continued(cls, path: str | os.PathLike[str]) -> tuple[Self, list[Record]]:
        """A writer that goes on where the last one stopped, and what the ring still holds; raises ProtocolError, OSError."""
        reader = RingReader(path)
        try:
            records = reader.read()
        finally:
            reader.close()
        ring = cls.__new__(cls)
        ring._begin(HeldFile(path, os.O_RDWR), reader.capacity, reader.sequence + 1)
        return ring, records

    def _begin(self, file: HeldFile, capacity: int, number: int) -> None:
        self._capacity = capacity
        self._file = file
        self._pending: deque[bytes] = deque()
        self.take: Callable[[], int] = itertools.count(number).__next__
        self.append: Callable[[bytes], None] = self._pending.append

    def flush(self) -> None:
        """Write what was appended; raises OSError when the file cannot be written."""
        pending = self._pending
        if not pending:
            return
        frames: list[bytes] = []
        try:
            try:
                while pending:
                    frames.append(pending.popleft())
            except IndexError:  # another thread took the last one
                pass
            if len(frames) == 1:  # nearly always; what is not executed need not be in the cache after a long step
                frame = frames[0]
                self._file.write(frame, self._offset(int.from_bytes(frame[:8], "little")))
            else:
                self._write_all(frames)
        except BaseException:  # an interrupt from the keyboard: the goodbye that follows brings them
            pending.extendleft(reversed(frames))
            raise

    def sample(self, *fields: float | None) -> None:
        """Write one sample."""
        self._write(KIND_SAMPLE, Sample.LAYOUT, fields)

    def evaluation(self, record: Evaluation) -> None:
        """Write one evaluation."""
        r = record
        fields = (r.step, r.time, r.held_out_loss, r.quality, r.quality_steps, r.seconds, r.stage, r.gap)
        self._write(KIND_EVALUATION, Evaluation.LAYOUT, fields)

    def acknowledgement(self, record: Acknowledgement) -> None:
        """Write one acknowledgement."""
        r, count = record, len(record.positions)
        padding = (0,) * (_MAX_POSITIONS - count)
        fields = (r.revision, r.step, r.time, r.refused, r.detail, count, *r.positions, *padding)
        self._write(KIND_ACKNOWLEDGEMENT, Acknowledgement.LAYOUT, fields)

    def goodbye(self, record: Goodbye) -> None:
        """Write the end of the run."""
        self._write(KIND_GOODBYE, Goodbye.LAYOUT, (record.time, record.outcome))

    def _write(self, kind: int, layout: struct.Struct, fields: Sequence[float | None]) -> None:
        whole = tuple(fitted(layout, fields))  # may raise, and then no number is lost
        number = self.take()
        body = body_struct(layout).pack(number, kind, PROTOCOL_VERSION, *whole)
        self.append(FRAME.pack(body, crc32(body), number))
        self.flush()

    def _write_all(self, frames: list[bytes]) -> None:
        data = b"".join(frames)
        numbers = list(_leading_sequences(data, 0))
        if not numbers:
            return
        first, last = numbers[0], numbers[-1]
        if numbers == list(range(first, last + 1)) and first % self._capacity <= last % self._capacity:
            self._file.write(data, self._offset(first))
        else:  # the ring wraps here, or several threads report
            for number, frame in sorted(zip(numbers, frames, strict=True)):
                self._file.write(frame, self._offset(number))

    def _offset(self, number: int) -> int:
        return HEADER_BYTES + number % self._capacity * RECORD_BYTES


class RingReader:
    """Reads what was written since the last read; survives any bytes.

    ``from_sequence`` is the last record that is already known, ``sequence`` the last one read; ``lost`` counts records that
    were overwritten or damaged before they were read. It reads with ``pread`` and never maps the file: one that is cut short
    must not end the daemon with SIGBUS.
    """

    def __init__(self, path: str | os.PathLike[str], from_sequence: int = 0) -> None:
        """Open the ring and check its header; raises ProtocolError for damage, OSError when it cannot be opened."""
        self.sequence = from_sequence
        self.lost = 0
        self._path = os.fspath(path)
        self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # of a pipe nobody must wait for a writer
        try:
            self.capacity, self.token = _unpack_header(self._pread(0, HEADER_BYTES), self._path)
        except BaseException:
            self.close()
            raise

    def read(self) -> list[Record]:
        """Records since the last call, oldest first: all, unless the writer is faster. Raises ProtocolError when it was cut."""
        records: list[Record] = []
        while len(records) < self.capacity:  # a writer that never pauses must not keep the reader for ever
            slot = (self.sequence + 1) % self.capacity
            data = self._slots(slot, min(_CHUNK_RECORDS, self.capacity - slot))
            for offset in range(0, len(data), RECORD_BYTES):
                record = decode(data, offset, self.sequence + 1)
                if record is None:
                    ended = max(_leading_sequences(data, offset)) <= self.sequence
                    return records if ended else records + self._rescan()
                records.append(record)
                self.sequence += 1
        return records

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _rescan(self) -> list[Record]:
        """After a gap: take everything newer that is intact, and count the rest as lost.

        A record that is being written now is newer than all intact ones, so it is not counted but read next time.
        """
        data = self._slots(0, self.capacity)
        candidates = sorted(_leading_sequences(data, 0), reverse=True)
        newest = next((number for number in candidates if self._find(data, number)), 0)
        found = []
        for number in range(max(self.sequence, newest - self.capacity) + 1, newest + 1):
            # The second look is for a slot that was read above just before its record was written.
            record = self._find(data, number) or decode(self._slots(number % self.capacity, 1), 0, number)
            if record is not None:
                found.append(record)
        if newest > self.sequence:
            self.lost += newest - self.sequence - len(found)
            self.sequence = newest
        return found

    def _find(self, ring: bytes, number: int) -> Record | None:
        return decode(ring, number % self.capacity * RECORD_BYTES, number)

    def _slots(self, first: int, count: int) -> bytes:
        return self._pread(HEADER_BYTES + first * RECORD_BYTES, count * RECORD_BYTES)

    def _pread(self, offset: int, count: int) -> bytes:
        data = os.pread(self._file, count, offset)
        if len(data) != count:
            raise ProtocolError(f"{self._path} is cut short: {len(data)} of {count} bytes at offset {offset}")
        return data


def _is_capacity(number: int) -> bool:
    return 0 < number <= MAX_CAPACITY and not number & (number - 1)


def _leading_sequences(data: bytes, offset: int) -> Iterator[int]:
    return (number for (number,) in _LEADING.iter_unpack(data[offset:]))


def _pack_header(capacity: int) -> bytes:
    token = int.from_bytes(os.urandom(8), "little")
    head = _HEADER.pack(MAGIC, PROTOCOL_VERSION, RECORD_BYTES, capacity, token)
    return head + _CRC.pack(crc32(head))


def _unpack_header(data: bytes, path: str) -> tuple[int, int]:
    """Capacity and token."""
    magic, version, record_bytes, capacity, token = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise ProtocolError(f"{path} is not a telemetry ring: it begins with {magic!r}, expected {MAGIC!r}")
    if version != PROTOCOL_VERSION or record_bytes != RECORD_BYTES:
        raise ProtocolError(
            f"{path} has version {version}, {record_bytes}-byte records; this is {PROTOCOL_VERSION}, {RECORD_BYTES}"
        )
    if _CRC.unpack_from(data, _HEADER.size)[0] != crc32(data[: _HEADER.size]) or not _is_capacity(capacity):
        raise ProtocolError(f"{path} has a damaged header")
    return capacity, token
