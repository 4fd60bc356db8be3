"""Files of a run: owner-only, with their blocks allocated in advance, replaced atomically, read up to a bound."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path

from autotuner.hook.held import HeldFile
from autotuner.messages import Declaration

LARGEST_DECLARATION_BYTES = 1_000_000
LARGEST_NOTE_BYTES = 100_000
"""Of the small files in which one process tells another where something is."""

_SLUG_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_.")
_SLUG_LENGTH = 64
SHARED = 0o666
"""Mode of a file that is the user's to share; the umask takes from it."""
_NOT_SUPPORTED = (errno.EINVAL, errno.ENODEV, errno.ENOTSUP, errno.ENOSYS)  # by this file system


def slug(name: str) -> str:
    """``name`` as it appears in file names: lower case, other characters become single dashes; never empty."""
    kept = "".join(letter if letter in _SLUG_CHARACTERS else "-" for letter in name.lower())
    words = "-".join(word for word in kept.split("-") if word)
    return words[:_SLUG_LENGTH].strip("-._") or "run"


def make_run_directory(state: Path, name: str, now_unix: float) -> Path:
    """A new directory ``runs/<slug>-<time>-<pid>-<n>``; two runs never share one."""
    runs = state / "runs"
    for directory in (state, runs):
        directory.mkdir(mode=0o700, parents=directory is state, exist_ok=True)
    stem = f"{slug(name)}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(now_unix))}-{os.getpid()}"
    number = 1
    while True:
        try:
            (runs / f"{stem}-{number}").mkdir(mode=0o700)
        except FileExistsError:
            number += 1
        else:
            return runs / f"{stem}-{number}"


def new_file(path: str | os.PathLike[str], size: int) -> HeldFile:
    """Create ``path`` with ``size`` zeros whose blocks exist; raises OSError."""
    file = HeldFile(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    allocate(file.number, size)
    return file


def allocate(descriptor: int, size: int) -> None:
    """Give the file ``size`` bytes that exist on the disk; raises OSError (ENOSPC, EDQUOT, EFBIG) when it cannot."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        try:
            os.posix_fallocate(descriptor, 0, size)
            return
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                raise
    zeros = bytes(1 << 16)
    written = 0
    while written < size:
        written += os.pwrite(descriptor, zeros[: size - written], written)
    os.fsync(descriptor)  # some file systems find out only now that the disk is full


def replace_text(path: Path, text: str, mode: int = 0o600) -> None:
    """Write ``path`` so that a reader sees the old text or the new one, never half of it.

    Owner-only by default: what lies in the state directory is nobody else's to read.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def read_bytes(path: str | os.PathLike[str], most_bytes: int) -> bytes:
    """All of a regular file; raises OSError, also when it has more than ``most_bytes``.

    What another program may have put there is bounded too: a pipe without a writer is not waited for, a device not begun.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "no regular file", os.fspath(path))
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise OSError(errno.EFBIG, f"it has more than {most_bytes} bytes", os.fspath(path))
    return data


def read_text(path: str | os.PathLike[str], most_bytes: int) -> str:
    """As ``read_bytes``; raises UnicodeDecodeError, a ValueError, too."""
    return read_bytes(path, most_bytes).decode("utf-8")


def declaration_at(path: Path) -> Declaration:
    """Read and check a ``run.json``; raises OSError or AutotunerError."""
    return Declaration.from_json(read_bytes(path, LARGEST_DECLARATION_BYTES).decode("utf-8", errors="replace"))
