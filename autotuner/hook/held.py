"""Files that the hook holds open for a whole run and touches at every report."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import sys
from collections.abc import Callable
from typing import Any

_LEAST_DESCRIPTOR = 128
_WORD_BYTES = 8


class HeldFile:
    """An open descriptor, read and written at offsets, closed with its last user: another thread may be in a call.

    A call keeps the interpreter's lock for its microseconds, unlike ``os.pwrite``: whoever gives it up at every report gets it
    back only when another busy thread, say one that prepares batches, has had its 5 ms.
    """

    __slots__ = ("_at", "_pair", "_pair_at", "_word", "number")

    def __init__(self, path: str | os.PathLike[str], flags: int) -> None:
        """Open ``path`` for its owner alone; raises OSError.

        The number is moved out of the way: a script that closes a small number twice, or all of them, must not make the next
        file that it opens ours.
        """
        opened = os.open(path, flags | os.O_CLOEXEC, 0o600)
        try:
            self.number = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, _LEAST_DESCRIPTOR)
        except OSError:  # the process may not have that many
            self.number = opened
        else:
            os.close(opened)
        self._word = ctypes.c_uint64()
        self._at = ctypes.byref(self._word)
        self._pair = (ctypes.c_char * (2 * _WORD_BYTES))()
        self._pair_at = ctypes.byref(self._pair)

    def write(self, data: bytes, offset: int) -> None:
        """Write ``data`` at ``offset``; raises OSError."""
        if _pwrite is None or _pwrite(self.number, data, len(data), offset) != len(data):
            os.pwrite(self.number, data, offset)  # again, to say what is wrong

    def read(self, count: int, offset: int) -> bytes:
        """Up to ``count`` bytes at ``offset``; raises OSError."""
        return os.pread(self.number, count, offset)

    def word(self, offset: int) -> int:
        """The u64 at ``offset``, 0 when the file ends before it; raises OSError."""
        if _pread is not None and _pread(self.number, self._at, _WORD_BYTES, offset) == _WORD_BYTES:
            return self._word.value
        data = os.pread(self.number, _WORD_BYTES, offset)
        return int.from_bytes(data, "little") if len(data) == _WORD_BYTES else 0

    def words(self, offset: int) -> bytes:
        """The 16 bytes at ``offset``, none when the file ends before; raises OSError."""
        if _pread is not None and _pread(self.number, self._pair_at, 2 * _WORD_BYTES, offset) == 2 * _WORD_BYTES:
            return self._pair.raw
        data = os.pread(self.number, 2 * _WORD_BYTES, offset)
        return data if len(data) == 2 * _WORD_BYTES else b""

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        with contextlib.suppress(AttributeError, OSError):  # never opened, or closed by the script
            close(self.number)


def _calls() -> tuple[Any, Any]:
    """``pwrite`` and ``pread`` of the C library, called with the interpreter's lock held; None where they cannot be had."""
    try:
        if ctypes.sizeof(ctypes.c_void_p) != _WORD_BYTES or sys.byteorder != "little":  # off_t may have 32 bits
            return None, None
        library = ctypes.PyDLL(None)
        pwrite, pread = library.pwrite, library.pread
        for call in (pwrite, pread):
            call.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_longlong)
            call.restype = ctypes.c_ssize_t
    except (OSError, AttributeError):
        return None, None
    return pwrite, pread


_pwrite, _pread = _calls()
