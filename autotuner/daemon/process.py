"""The daemon as a process: signals, the clock, and the order in which everything starts and stops."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from autotuner.config import Config
from autotuner.daemon.log import configure_log, get_log, set_level
from autotuner.daemon.moment import Moment
from autotuner.daemon.server import Daemon
from autotuner.daemon.socket_server import SocketServer
from autotuner.daemon.web import serve
from autotuner.errors import AutotunerError, ConfigurationError
from autotuner.telemetry.registry import Registry

if TYPE_CHECKING:
    from autotuner.daemon.jobs import Jobs
    from autotuner.daemon.web_wishes import WebWishes

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StopFlag:
    """Set by signals, waited for between ticks."""

    def __init__(self) -> None:
        self.set = False
        self.hung_up = False
        """SIGHUP came: the settings are to be read again, or the terminal has gone."""
        # The interpreter writes a byte here when a signal arrives, so that waiting ends at once and no handler does work.
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)

    def install(self) -> None:
        """Let the signals set it."""
        for number in SIGNALS:
            signal.signal(number, self._handle)
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)

    def _handle(self, number: int, frame: object) -> None:
        if number == signal.SIGHUP:
            self.hung_up = True
        else:
            self.set = True

    def wait(self, seconds: float) -> None:
        """Return after ``seconds``, or as soon as a signal comes."""
        if self.set or self.hung_up or seconds <= 0:
            return
        if select.select([self._read], [], [], seconds)[0]:
            self._read.recv(64)


def has_terminal() -> bool:
    """Whether this process has a controlling terminal; one that was closed is none."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def moment_now() -> Moment:
    """This moment on both clocks."""
    return Moment(time.monotonic(), time.time())


def run(config: Config, reread: Callable[[], Config], log_to_stderr: bool = True) -> None:
    """Start, tick until a signal comes, stop. ``reread`` is asked for the settings at SIGHUP.

    Raises what ``Daemon.start`` raises.
    """
    os.umask(0o077)  # whatever it makes is its owner's alone
    configure_log(config.log_level, config.state_directory / "logs", log_to_stderr)
    in_terminal = has_terminal()
    stop = StopFlag()
    stop.install()
    injected = Path(config.injected_readings).expanduser() if config.injected_readings else None
    daemon = Daemon(config, Registry(injected=injected), ended=lambda: jobs.propose_soon())
    wishes = web_wishes(config)
    daemon.start(moment_now(), lambda get_snapshot, port, path: serve(get_snapshot, port, path, wishes))
    sockets = open_socket(daemon)
    from autotuner.daemon.jobs import Jobs  # half of all import time: the first scrape need not wait for it

    jobs = Jobs(config, lambda: daemon.snapshot.machine.memory_pressure)
    jobs.start()
    try:
        next_tick = time.monotonic()
        while not stop.set:
            daemon.tick(moment_now())
            if stop.hung_up:
                stop.hung_up = False
                if in_terminal and not has_terminal():  # it was closed, which ends what runs in it
                    break
                reload(daemon, jobs, reread)
            # No burst after the machine slept.
            next_tick = max(next_tick + daemon.config.tick_seconds, time.monotonic())
            stop.wait(next_tick - time.monotonic())
    finally:
        get_log().info("stopping")
        jobs.stop()
        if sockets is not None:
            sockets.close()
        daemon.stop(moment_now())


def open_socket(daemon: Daemon) -> SocketServer | None:
    """The socket for clients in other languages; without it everything else works, and log and status say why."""
    try:
        return SocketServer(daemon.config.state_directory)
    except (AutotunerError, OSError) as error:
        daemon.socket_problem = f"clients in other languages cannot connect: {error}"
        get_log().error("socket", why=str(error))
        return None


def web_wishes(config: Config) -> WebWishes | None:
    """What may be changed over HTTP: nothing without a token. Raises ConfigurationError."""
    if not config.http_token_file:
        return None
    from autotuner.daemon.web_wishes import WebWishes, read_token

    token = read_token(Path(config.http_token_file).expanduser())
    return WebWishes(config.state_directory, token, checkpoint_seconds=config.checkpoint_seconds)


def reload(daemon: Daemon, jobs: Jobs, reread: Callable[[], Config]) -> None:
    """Take over changed settings; with a wrong one, those of before hold, and log and status say so."""
    try:
        config = reread()
    except ConfigurationError as error:
        daemon.settings_problem = f"the settings were not read again, those of before hold: {error}"
        get_log().error("settings_refused", why=str(error))
        return
    daemon.reconfigure(config)
    jobs.reconfigure(daemon.config)
    set_level(daemon.config.log_level)
