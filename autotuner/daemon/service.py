"""The daemon as a login service: the contract, what both platforms are told, and which one this machine has."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from autotuner.errors import AutotunerError

LABEL = "dev.autotuner.daemon"
STOP_SECONDS = 20
"""From the request to stop until the daemon is killed."""
RESTART_SECONDS = 10
"""Least time between two starts after a crash."""
COMMAND_SECONDS = 30.0


class ServiceError(AutotunerError):
    """The service manager refused; the message says what it said and what helps."""


@dataclass(frozen=True)
class Result:
    """What a command of the service manager answered."""

    code: int
    output: str
    """Standard output and error together."""


Runner = Callable[[Sequence[str]], Result]


def run_command(arguments: Sequence[str]) -> Result:
    """Run a command of the service manager; a missing or hanging one is a result, too."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False, env=environment)
    except FileNotFoundError:
        return Result(127, f"{arguments[0]} is not installed")
    except subprocess.TimeoutExpired:
        return Result(124, f"{arguments[0]} did not answer within {COMMAND_SECONDS:.0f} s")
    return Result(done.returncode, done.stdout + done.stderr)


@dataclass(frozen=True)
class Settings:
    """What the service file says: absolute paths only, since no service manager expands ``~``."""

    python: Path
    home: Path
    state_directory: Path

    @property
    def command(self) -> tuple[str, ...]:
        """The daemon's command line."""
        return (str(self.python), "-m", "autotuner", "daemon", "--service", "--state-dir", str(self.state_directory))


@dataclass(frozen=True)
class Host:
    """The world outside, replaceable in tests."""

    run: Runner = run_command
    sleep: Callable[[float], None] = time.sleep
    uid: int = field(default_factory=os.getuid)


@dataclass(frozen=True)
class Status:
    """What the service manager says of the daemon."""

    sentence: str
    running: bool


class Service(Protocol):
    """A service manager. Every verb returns what to tell the user and raises ServiceError when it could not be done.

    ``install`` may be repeated, also with a newer Autotuner, ``uninstall`` of what is not installed is no error, and neither
    touches what the state directory holds.
    """

    path: Path
    """Where the service file goes."""

    def print(self) -> str:
        """The file that ``install`` would write."""

    def install(self) -> str:
        """Write the file and start the daemon, now and at every login."""

    def uninstall(self) -> str:
        """Stop the daemon and delete the file."""

    def restart(self) -> str:
        """Stop the daemon and start it again, with the file as it is."""

    def status(self) -> Status:
        """Whether it is installed and running."""


def platform_service(state_directory: Path, platform: str = sys.platform, host: Host | None = None) -> Service:
    """The service of this machine, for this interpreter; raises ServiceError where there is none."""
    from autotuner.daemon.launchd import Launchd
    from autotuner.daemon.systemd import Systemd

    kinds: dict[str, Callable[[Settings, Host], Service]] = {"darwin": Launchd, "linux": Systemd}
    if platform not in kinds:
        raise ServiceError(f"no login service on {platform!r}; supported: {', '.join(kinds)}. Run: autotuner daemon")
    # Not resolved: the link inside the virtual environment is what makes Python use it.
    python = Path(os.path.abspath(sys.executable))
    settings = Settings(python, Path.home(), Path(os.path.abspath(state_directory)))
    return kinds[platform](settings, host or Host())


def write_file(path: Path, content: bytes) -> None:
    """Write atomically, readable by all as service files are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.chmod(0o644)
    temporary.replace(path)
