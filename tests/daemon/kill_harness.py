"""Kills the daemon by SIGKILL at random moments of changes, over and over, while a training goes on; counts what that costs.

Run: ``python -m tests.daemon.kill_harness --kills 1000 --seed 1``. Each daemon is a process of its own with the real lock,
journal, ring and page; it is forked from a process that has imported everything, since starting Python would be nearly all of
the time. Daemon and training share a clock that the training drives, so that intervals of seconds pass in microseconds. The
kernel stops the daemon wherever it happens to be.

Most are aimed: the first word of a change that is written down starts a timer of the kernel's, and its end kills. That it is
SIGALRM's default action instead of SIGKILL makes no difference: neither runs any code of the daemon's. ``inside`` counts those
that died between the first word of a change and the end of the tick that made it.
"""

from __future__ import annotations

import argparse
import json
import math
import mmap
import os
import random
import shutil
import signal
import sqlite3
import struct
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from autotuner.config import Config
from autotuner.controller.policy import Choice
from autotuner.daemon import server
from autotuner.daemon.policies import ResolvedPolicy
from autotuner.journal import Journal, Reader, journal_path
from tests.suites.fake_run import FakeMachine, FakeRun
from tests.suites.hand_driven_daemon import at

RUN = "cats-1"
STEP_SECONDS = 2.0
START_KILLS = 0.2
"""Share of the daemons that are killed while they start."""
START_SECONDS = 0.1
LONGEST_LIFE_TICKS = 20
AIMED_KILLS = 0.75
"""Share of the others that are killed soon after the first word of a change; the rest at any moment."""
CHANGE_SECONDS = 0.0015
"""The time within which that happens; writing the change down, asking for it and saying so takes about as long."""
PATIENCE_SECONDS = 5.0
"""For an aimed daemon that changes nothing; then it is killed like the others."""
TICK_SECONDS = 0.005
"""About; the kill comes at a random moment within so long after the last tick."""


class Wanders:
    """Wishes any allowed change, so that there is nearly always one under way."""

    name = "wanders"

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def choose(self, observation, mask, window) -> Choice:
        moves = [action for action, allowed in enumerate(mask) if allowed and action]
        return Choice(self.random.choice(moves), "policy") if moves else Choice(0, "hold")


class Shared:
    """What daemon and training have in common: the clock, and the newest things that the daemon was told are on the disk."""

    FIELDS = ("now", "intended", "recorded", "ticks", "changing")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8 * len(self.FIELDS))

    def __getitem__(self, name: str) -> float:
        return struct.unpack_from("d", self._memory, 8 * self.FIELDS.index(name))[0]

    def __setitem__(self, name: str, value: float) -> None:
        struct.pack_into("d", self._memory, 8 * self.FIELDS.index(name), value)


def live(state: Path, shared: Shared, seed: int, aimed: bool) -> None:
    """The daemon's whole life; it ends by a signal alone."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1), os.dup2(null, 2)
    server.resolve_policy = lambda name, artefacts: ResolvedPolicy(Wanders(seed))
    intend, commit = Journal.intend, Journal.commit

    fuse = random.Random(seed).uniform(1e-6, CHANGE_SECONDS)

    def telling_intend(journal, changes):
        shared["changing"] = 1
        if aimed:
            signal.setitimer(signal.ITIMER_REAL, fuse)
        intend(journal, changes)
        shared["intended"] = max(change.revision for change in changes)

    def telling_commit(journal):
        waiting = [arguments[2] for sql, arguments in journal._waiting if " INTO telemetry " in sql]
        commit(journal)
        shared["recorded"] = max(waiting, default=shared["recorded"])

    Journal.intend, Journal.commit = telling_intend, telling_commit
    settings = {"decision_seconds": 2.0, "observe_first": 0, "changes_per_hour": 1000}
    daemon = server.Daemon(Config(state, **settings), FakeMachine())
    daemon.start(at(shared["now"]))
    while True:
        daemon.tick(at(shared["now"]))
        shared["changing"] = 0
        shared["ticks"] += 1


class Harness:
    """One state directory, one training, and daemon after daemon."""

    def __init__(self, state: Path, seed: int) -> None:
        self.state, self.random, self.shared = state, random.Random(seed), Shared()
        self.run = FakeRun(state, RUN, capacity=256)
        self.run.declare(replace(self.run.declaration, budget_seconds=1e7))  # towards its end nothing is changed any more
        self.kills = self.torn = self.lost = self.disturbed = 0
        self.during_start = self.inside = self.changes = 0

    def step(self) -> None:
        """One training step; now and then it takes over what is asked."""
        self.shared["now"] += STEP_SECONDS
        self.run.sample(self.shared["now"])
        if self.run.asked() is not None and self.random.random() < 0.3:
            self.run.acknowledge(self.shared["now"])

    def kill(self) -> None:
        """A daemon's life and death, and what it left."""
        seed, ticks = self.random.getrandbits(32), self.shared["ticks"]
        starting = self.random.random() < START_KILLS
        aimed = not starting and self.random.random() < AIMED_KILLS
        self.shared["changing"] = 0
        child = os.fork()
        if not child:
            try:
                live(self.state, self.shared, seed, aimed)
            finally:
                os._exit(1)  # it raised: the parent sees that it did not die by the signal
        self._train_beside(child, ticks, starting, aimed)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            raise RuntimeError(f"daemon {self.kills + 1} ended by itself")
        self.kills += 1
        self.inside += self.shared["changing"] == 1
        self.during_start += self.shared["ticks"] == ticks and not self.shared["changing"]
        self.torn += self._torn()
        self.lost += self._lost()
        self.disturbed += self._disturbed()

    def _train_beside(self, child: int, ticks: float, starting: bool, aimed: bool) -> None:
        """Training goes on until it is time to kill, or the daemon is dead."""
        began = time.monotonic()
        last = math.inf if aimed else ticks + self.random.randint(1, LONGEST_LIFE_TICKS)
        seconds = self.random.uniform(0.0, START_SECONDS) if starting else PATIENCE_SECONDS if aimed else math.inf
        while time.monotonic() - began < seconds and self.shared["ticks"] < last:
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return
            self.step()
            time.sleep(0.0005)
        time.sleep(self.random.uniform(0.0, TICK_SECONDS))

    def _torn(self) -> bool:
        """Whether the journal is damaged; one that no daemon has made yet is not."""
        path = journal_path(self.state)
        if list(self.state.glob("*corrupt*")):
            return True
        if not path.exists() or not path.stat().st_size:
            return False
        connection = sqlite3.connect(path)
        try:
            return connection.execute("PRAGMA integrity_check").fetchone() != ("ok",)
        except sqlite3.DatabaseError:
            return True
        finally:
            connection.close()

    def _lost(self) -> bool:
        """Whether the journal lacks something that the daemon was told is written, or that the script was asked for."""
        if not self.shared["recorded"]:
            return False
        with Reader(journal_path(self.state)) as journal:
            changes = {change.revision for change in journal.changes(RUN)}
            steps = [row.step for row in journal.telemetry(RUN, last=1)]
        self.changes = len(changes)
        asked = self.run.page.revision()
        wanted = {int(self.shared["intended"]), self.run.revision, asked.number if asked else 0} - {0}
        return not wanted <= changes or max(steps, default=0) < self.shared["recorded"]

    def _disturbed(self) -> bool:
        """Whether anything moves or cannot be read while nobody is there, or a daemon took a change for the script's own."""
        asked, held = self.run.page.revision(), self.run.positions
        for _ in range(3):
            self.shared["now"] += STEP_SECONDS
            self.run.sample(self.shared["now"])
        on_ladder = asked is not None and all(
            0 <= position < len(knob.values) for knob, position in zip(self.run.declaration.knobs, asked.positions, strict=True)
        )
        return not on_ladder or self.run.page.revision() != asked or self.run.positions != held or self._pinned()

    def _pinned(self) -> bool:
        if not self.shared["recorded"]:
            return False
        with Reader(journal_path(self.state)) as journal:
            return bool(journal.pins(RUN))  # this script never turns a knob itself

    def result(self) -> dict[str, int]:
        """The counts, with how many daemons died inside a change or while they started, and how many changes there were."""
        names = ("kills", "torn", "lost", "disturbed", "inside", "during_start", "changes")
        return {name: getattr(self, name) for name in names}


def harvest(state: Path, kills: int, seed: int) -> dict[str, int]:
    """Kill so many daemons on an empty state directory; the counts."""
    harness = Harness(state, seed)
    for _ in range(kills):
        harness.kill()
    return harness.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"command   python -m tests.daemon.kill_harness --kills {options.kills} --seed {options.seed}")
    print(f"versions  Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}, {os.uname().sysname}", flush=True)
    state = Path(tempfile.mkdtemp(prefix="kills-"))
    began = time.monotonic()
    result = harvest(state, options.kills, options.seed)
    shutil.rmtree(state)
    print(f"seconds   {time.monotonic() - began:.0f}\n{json.dumps(result)}")


if __name__ == "__main__":
    main()
