"""``daemon.json``: where the running daemon of a state directory can be reached."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from autotuner.hook.files import LARGEST_NOTE_BYTES, read_text


@dataclass(frozen=True)
class Address:
    """What the daemon tells of itself to command line and demo."""

    pid: int
    port: int
    started_unix: float
    version: str

    @property
    def url(self) -> str:
        """Base of the status page, ``/metrics`` and ``/api/status``."""
        return f"http://127.0.0.1:{self.port}"


def _path(state_directory: Path) -> Path:
    return state_directory / "daemon.json"


def write_address(state_directory: Path, address: Address) -> None:
    """Publish atomically."""
    path = _path(state_directory)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(asdict(address)) + "\n")
    temporary.chmod(0o600)
    temporary.replace(path)


def remove_address(state_directory: Path) -> None:
    """Withdraw it when the daemon stops."""
    _path(state_directory).unlink(missing_ok=True)


def read_address(state_directory: Path) -> Address | None:
    """The address of a daemon whose process still exists; None when there is none."""
    try:
        address = Address(**json.loads(read_text(_path(state_directory), LARGEST_NOTE_BYTES)))
        if not 0 < address.pid < 2**31 or not 0 < address.port < 2**16:
            return None  # a port that is text could name another machine
        os.kill(address.pid, 0)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return address
