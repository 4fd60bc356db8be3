"""The daemon as a process: signals, the clock, and the order in which everything starts and stops."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from pathlib import Path

from autotuner.config import Config
from autotuner.daemon.log import configure_log, get_log
from autotuner.daemon.moment import Moment
from autotuner.daemon.server import Daemon
from autotuner.daemon.web import serve
from autotuner.telemetry.registry import Registry

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StopFlag:
    """Set by signals, waited for between ticks."""

    def __init__(self) -> None:
        self.set = False
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
        self.set = True

    def wait(self, seconds: float) -> None:
        """Return after ``seconds``, or as soon as it is set."""
        if not self.set and seconds > 0:
            select.select([self._read], [], [], seconds)


def moment_now() -> Moment:
    """This moment on both clocks."""
    return Moment(time.monotonic(), time.time())


def run(config: Config) -> None:
    """Start, tick until a signal comes, stop. Raises what ``Daemon.start`` raises."""
    os.umask(0o077)  # whatever it makes is its owner's alone
    configure_log(config.log_level, config.state_directory / "logs")
    stop = StopFlag()
    stop.install()
    injected = Path(config.injected_readings).expanduser() if config.injected_readings else None
    daemon = Daemon(config, Registry(injected=injected), ended=lambda: jobs.propose_soon())
    daemon.start(moment_now(), serve)
    from autotuner.daemon.jobs import Jobs  # half of all import time: the first scrape need not wait for it

    jobs = Jobs(config, lambda: daemon.snapshot.machine.memory_pressure)
    jobs.start()
    try:
        next_tick = time.monotonic()
        while not stop.set:
            daemon.tick(moment_now())
            next_tick = max(next_tick + config.tick_seconds, time.monotonic())  # no burst after the machine slept
            stop.wait(next_tick - time.monotonic())
    finally:
        get_log().info("stopping")
        jobs.stop()
        daemon.stop(moment_now())
