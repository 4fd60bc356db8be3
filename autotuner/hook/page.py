"""The knob page: 4096 bytes in which the daemon asks for knob positions and says that it is alive.

Offset 0: magic, version, crc32. 16: newest revision u64, and 24: newest request u64 (``checkpoint.py``), the two words that
a poll compares. 32: heartbeat f64 (monotonic
seconds), mode u8, crc32. 64 and 128: two slots, revision ``n`` in slot ``n % 2``: revision u64, time f64, count u16, 16
positions i8, crc32. A slot is written before the word, and the other slot stays as it was: a daemon that dies in the middle
of a write leaves the last revision intact. Positions are indexes into the script's own ladders, so no value can arrive that
the script did not declare.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from autotuner.errors import ProtocolError
from autotuner.hook.files import new_file
from autotuner.hook.held import HeldFile
from autotuner.messages import MODES, PROTOCOL_VERSION

MAGIC = b"ATPAGE1\0"
PAGE_BYTES = 4096
MAX_POSITIONS = 16
LAST_REVISION = 2**53
"""More changes than any run will see, and the largest whole number that every language reads."""

_HEADER = struct.Struct("<8sI")
_WORD = struct.Struct("<Q")
_WORD_OFFSET = 16
REQUEST_WORD_OFFSET = 24
"""Right behind the revision, so that a poll reads both at once (``checkpoint.py``)."""
_HEARTBEAT = struct.Struct("<dB3x")
_HEARTBEAT_OFFSET = 32
_SLOT = struct.Struct(f"<QdH{MAX_POSITIONS}b2x")
_SLOT_OFFSETS = (64, 128)
_CRC = struct.Struct("<I")
_number = int.from_bytes


@dataclass(frozen=True, slots=True)
class Revision:
    """One asked-for set of ladder positions, in the order of the declaration."""

    number: int
    time: float
    """When it was written, in ``time.monotonic()`` seconds."""
    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The daemon's last sign of life."""

    time: float
    mode: str


def create_page(path: str | os.PathLike[str], positions: Sequence[int], now: float) -> None:
    """Make the page of a new run: revision 0 holds the positions that the script starts with."""
    page = new_file(path, PAGE_BYTES)
    page.write(checked(_HEADER.pack(MAGIC, PROTOCOL_VERSION)), 0)
    page.write(_pack_slot(Revision(0, now, tuple(positions))), _SLOT_OFFSETS[0])


class PageReader:
    """The run's side: believes only what the checks of the page confirm, and never maps the file, so no SIGBUS.

    ``words()`` says what was announced last; comparing it with what was seen before is all that a poll costs. ``damaged``
    counts looks at a page whose checks failed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the page; raises ProtocolError when it is not one, OSError when it cannot be opened."""
        self._file = HeldFile(path, os.O_RDONLY)
        _check_header(self.read(), os.fspath(path))
        self.damaged = 0

    def words(self) -> bytes:
        """The numbers of the newest revision and of the newest request, to be compared; empty when the page was cut short."""
        return self._file.words(_WORD_OFFSET)

    def announced(self) -> int:
        """The number of the newest revision; 0 when the page was cut short."""
        return self._file.word(_WORD_OFFSET)

    def revision(self) -> Revision | None:
        """The newest revision that is intact and was announced, or None."""
        page = self.read()
        announced = _number(page[_WORD_OFFSET : _WORD_OFFSET + _WORD.size], "little")
        slots = [slot for slot in _slots(page) if slot is not None and slot.number <= announced]
        newest = max(slots, key=lambda slot: slot.number, default=None)
        if newest is None or newest.number != announced:
            self.damaged += 1
        return newest

    def revisions(self) -> list[Revision]:
        """All that is intact and was announced: the newest revision, and the one before it."""
        page = self.read()
        announced = _number(page[_WORD_OFFSET : _WORD_OFFSET + _WORD.size], "little")
        return [slot for slot in _slots(page) if slot is not None and slot.number <= announced]

    def heartbeat(self) -> Heartbeat | None:
        """The last heartbeat, or None when there was none or it is damaged."""
        return _unpack_heartbeat(self.read())

    def read(self) -> bytes:
        """The page as it is; shorter when it was cut. Raises OSError."""
        return self._file.read(PAGE_BYTES, 0)


class PageWriter:
    """The daemon's side: continues the revision numbers of an existing page. It never maps the file, so no SIGBUS."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the page; raises ProtocolError when it is not one, OSError when it cannot be opened."""
        self._path = os.fspath(path)
        self.revision = 0
        """The newest announced revision: 0 before the first write."""
        self._next = 1
        self._file = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._continue()
        except BaseException:
            self.close()
            raise

    @property
    def next_revision(self) -> int:
        """The number that the next ``write`` will use, for whoever must record an intent first."""
        return self._next

    def write(self, positions: Sequence[int], now: float) -> int:
        """Ask for ``positions`` and return the revision number of the wish; raises OSError when it cannot be written."""
        if len(positions) > MAX_POSITIONS:
            raise ValueError(f"{len(positions)} positions; at most {MAX_POSITIONS} are allowed")
        number = self._next
        self._pwrite(_pack_slot(Revision(number, now, tuple(positions))), _SLOT_OFFSETS[number % 2])
        self._pwrite(_WORD.pack(number), _WORD_OFFSET)
        self.revision, self._next = number, number + 1
        return number

    def heartbeat(self, now: float, mode: str) -> None:
        """Say that the daemon is alive and in ``mode``."""
        self._pwrite(checked(_HEARTBEAT.pack(now, MODES.index(mode))), _HEARTBEAT_OFFSET)

    def asked(self) -> Revision | None:
        """The announced revision as it stands in the file, or None when it is damaged."""
        slots = _slots(self.read())
        return next((slot for slot in slots if slot is not None and slot.number == self.revision), None)

    def read(self) -> bytes:
        """The page as it is. Raises OSError."""
        return os.pread(self._file, PAGE_BYTES, 0)

    def put(self, data: bytes, offset: int) -> None:
        """Write what is no revision and no heartbeat (``checkpoint.py``); raises OSError."""
        self._pwrite(data, offset)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _continue(self) -> None:
        """Never use a number twice: a revision that was written but not announced before a crash stays unannounced."""
        page = self.read()
        _check_header(page, self._path)
        written = [slot.number for slot in _slots(page) if slot is not None]
        (self.revision,) = _WORD.unpack_from(page, _WORD_OFFSET)
        if written and self.revision > max(written) + 1:  # a damaged word: the slots have their own checks
            self.revision = max(written)
        self._next = max([self.revision, *written]) + 1
        if self._next > LAST_REVISION:
            raise ProtocolError(f"{self._path} announces revision {self.revision}; at most {LAST_REVISION} is possible")

    def _pwrite(self, data: bytes, offset: int) -> None:
        os.pwrite(self._file, data, offset)


def checked(data: bytes) -> bytes:
    """``data`` and its CRC."""
    return data + _CRC.pack(crc32(data))


def unchecked(layout: struct.Struct, page: bytes, offset: int) -> tuple[Any, ...] | None:
    """The fields at ``offset``, or None when their CRC does not agree."""
    data = page[offset : offset + layout.size + _CRC.size]
    if len(data) < layout.size + _CRC.size or _CRC.unpack_from(data, layout.size)[0] != crc32(data[: layout.size]):
        return None
    return layout.unpack_from(data)


def _pack_slot(revision: Revision) -> bytes:
    count = len(revision.positions)
    return checked(_SLOT.pack(revision.number, revision.time, count, *revision.positions, *(0,) * (MAX_POSITIONS - count)))


def _slots(page: bytes) -> list[Revision | None]:
    return [_unpack_slot(page, parity) for parity in (0, 1)]


def _unpack_slot(page: bytes, parity: int) -> Revision | None:
    fields = unchecked(_SLOT, page, _SLOT_OFFSETS[parity])
    if fields is None:
        return None
    number, time, count, *positions = fields
    if number % 2 != parity or count > MAX_POSITIONS:
        return None
    return Revision(int(number), time, tuple(int(position) for position in positions[: int(count)]))


def _unpack_heartbeat(page: bytes) -> Heartbeat | None:
    fields = unchecked(_HEARTBEAT, page, _HEARTBEAT_OFFSET)
    if fields is None or fields[1] >= len(MODES):
        return None
    return Heartbeat(fields[0], MODES[int(fields[1])])


def _check_header(page: bytes, path: str) -> None:
    if len(page) != PAGE_BYTES or page[: len(MAGIC)] != MAGIC:
        raise ProtocolError(f"{path} is not a knob page: {len(page)} bytes that begin with {page[:8]!r}, expected {MAGIC!r}")
    fields = unchecked(_HEADER, page, 0)
    if fields is None or fields[1] != PROTOCOL_VERSION:
        raise ProtocolError(f"{path} has a damaged header or another version than {PROTOCOL_VERSION}")
