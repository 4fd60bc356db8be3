"""A day of the daemon in minutes: runs come and go, change knobs, are watched; does it hold more at the end than at the start?

Run: ``python -m tests.soak.day --hours 24``. The daemon is the real one, with its sensors, journal, web server and socket;
only its clock is ours, and the trainings are files written by hand at that clock. Every 15 minutes of the day one line:
memory, descriptors and threads of the process, size of the journal. The last line is JSON; flat is what stays within
``ALLOWED_GROWTH`` from the second quarter of the day to the last: in the first everything happens for the first time.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import shutil
import socket
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path

from autotuner.config import Config
from autotuner.daemon.address import read_address
from autotuner.daemon.jobs import kept_from, retain
from autotuner.daemon.log import configure_log
from autotuner.daemon.process import open_socket
from autotuner.daemon.server import Daemon
from autotuner.daemon.web import serve
from autotuner.telemetry.registry import Registry
from tests.suites.fake_run import GIB, FakeRun
from tests.suites.hand_driven_daemon import UNIX, at

HOUR = 3600.0
LIVE_RUNS = 3
RUN_SECONDS = (1200.0, 5400.0)
SAMPLE_SECONDS, EVALUATION_SECONDS, SCRAPE_SECONDS, PAGE_SECONDS, LOOK_SECONDS = 2.0, 60.0, 15.0, 120.0, 900.0
CLIENT_SECONDS = 300.0
RETENTION_SECONDS, RETENTION_DAYS = 6 * HOUR, 0.25
PRESSURE_EVERY, PRESSURE_FOR = 1800.0, 120.0
ALLOWED_GROWTH = {"rss_mb": 3.0, "descriptors": 0, "threads": 0}


@dataclass(frozen=True)
class Look:
    """What the process held at one time of the day."""

    hour: float
    rss_mb: float
    descriptors: int
    threads: int
    journal_mb: float
    runs: int


class Sensors:
    """The real sensors, and pressure that comes and goes by the day's clock."""

    def __init__(self) -> None:
        self._registry = Registry()

    def sample(self, now: float):
        state = self._registry.sample(now)
        return replace(state, memory_pressure=2 if now % PRESSURE_EVERY < PRESSURE_FOR else 0)

    def statuses(self, now: float):
        return self._registry.statuses(now)


class Training:
    """A run that learns a little, answers what it is asked, and ends."""

    def __init__(self, state: Path, number: int, now: float, random: random.Random) -> None:
        self.run = FakeRun(state, f"run-{number}")
        self.ends = now + random.uniform(*RUN_SECONDS)
        self._random = random
        self.run.declare(replace(self.run.declaration, budget_seconds=self.ends - now))
        self._began = now

    def step(self, now: float) -> None:
        loss = 1.0 / (1.0 + (now - self._began) / 600.0) + self._random.gauss(0.0, 0.01)
        self.run.sample(now, loss=loss, memory=int(GIB * self._random.uniform(0.9, 1.1)))
        if now % EVALUATION_SECONDS < SAMPLE_SECONDS:
            self.run.evaluate(now, loss)
        if self.run.asked() is not None:
            self.run.acknowledge(now)

    def end(self, now: float) -> None:
        self.run.goodbye(now)  # its files are closed with their last user


def day(state: Path, hours: float, seed: int, told=print) -> list[Look]:
    """Live through so many hours; what was held at each look."""
    configure_log("warning", state / "logs", to_stderr=False)
    daemon = Daemon(Config(state, observe_first=0, port=0), Sensors())
    daemon.start(at(0.0), serve)
    sockets = open_socket(daemon)
    port, chance = read_address(state).port, random.Random(seed)
    live, number, looks = [], 0, []
    try:
        for second in range(1, int(hours * HOUR) + 1):
            now = float(second)
            while len(live) < LIVE_RUNS:
                number += 1
                live.append(Training(state, number, now, chance))
            for training in list(live):
                if now >= training.ends:
                    training.end(now)
                    live.remove(training)
                elif now % SAMPLE_SECONDS == 0:
                    training.step(now)
            daemon.tick(at(now))
            if now % SCRAPE_SECONDS == 0:
                fetch(port, "/metrics")
            if now % PAGE_SECONDS == 0:
                fetch(port, "/")
            if now % CLIENT_SECONDS == 0:
                visit(sockets.path)
            if now % RETENTION_SECONDS == 0:
                retain(state, max(kept_from(state, RETENTION_DAYS, UNIX + now), UNIX + now - RETENTION_SECONDS))
            if now % LOOK_SECONDS == 0:
                looks.append(look(state, now, number))
                told("{hour:5.2f} h  {rss_mb:7.2f} MB  {descriptors:3d} descriptors  {threads:2d} threads  "
                     "journal {journal_mb:6.2f} MB  {runs:3d} runs".format(**vars(looks[-1])))  # fmt: skip
    finally:
        for training in live:
            training.end(now)
        sockets.close()
        daemon.stop(at(now))
    return looks


def fetch(port: int, path: str) -> bytes:
    """What a browser or Prometheus gets."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        return answer.read()


def visit(path: Path) -> None:
    """A client in another language: a short run from beginning to end."""
    with socket.socket(socket.AF_UNIX) as client, client.makefile("rw") as lines:
        client.settimeout(30.0)
        client.connect(str(path))
        for message in ({"type": "declare", "name": "visitor"}, {"type": "end"}):
            lines.write(json.dumps(message) + "\n")
            lines.flush()
            answer = json.loads(lines.readline())
            assert answer["type"] in ("declared", "ended"), answer


def look(state: Path, now: float, runs: int) -> Look:
    """What this process holds now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    journal = sum(path.stat().st_size for path in state.glob("journal.sqlite3*"))
    descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    return Look(now / HOUR, pages * os.sysconf("SC_PAGE_SIZE") / 1e6, descriptors, threads, journal / 1e6, runs)


def growth(looks: list[Look]) -> dict[str, float]:
    """Median of the last quarter less that of the second: the first is when everything happens for the first time."""
    quarter = len(looks) // 4
    return {
        name: statistics.median(getattr(each, name) for each in looks[-quarter:])
        - statistics.median(getattr(each, name) for each in looks[quarter : 2 * quarter])
        for name in ALLOWED_GROWTH
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"command   python -m tests.soak.day --hours {options.hours:g} --seed {options.seed}", flush=True)
    state, began = Path(tempfile.mkdtemp(prefix="soak-")), time.monotonic()
    try:
        looks = day(state, options.hours, options.seed, lambda text: print(text, flush=True))
    finally:
        shutil.rmtree(state, ignore_errors=True)
    grown = growth(looks)
    flat = all(grown[name] <= allowed for name, allowed in ALLOWED_GROWTH.items())
    result = {"hours": options.hours, "seconds": round(time.monotonic() - began), "flat": flat, "runs": looks[-1].runs}
    result |= {f"{name}_growth": round(value, 2) for name, value in grown.items()}
    print(json.dumps(result | {"journal_mb": round(looks[-1].journal_mb, 1)}))
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main())
