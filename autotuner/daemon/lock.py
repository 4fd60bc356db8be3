"""One daemon a state directory: a locked file that names its owner."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from autotuner.errors import AutotunerError


class DaemonRunningError(AutotunerError):
    """Another daemon serves this state directory."""


class InstanceLock:
    """Held by the daemon from start to stop; the kernel releases it however the process ends."""

    def __init__(self, state_directory: Path) -> None:
        """Take the lock; raises DaemonRunningError with the owner's pid."""
        self._path = state_directory / "daemon.lock"
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(self._descriptor, 32).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise DaemonRunningError(
                f"another daemon (pid {owner or 'unknown'}) already serves {state_directory}; "
                "stop it first, or choose another --state-dir"
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another daemon start; the file stays, since removing it would race with a starter."""
        os.close(self._descriptor)
