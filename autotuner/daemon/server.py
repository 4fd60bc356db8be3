"""The daemon: start, tick, stop. All that it does happens in ``tick``, in one thread, with the time passed in."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from autotuner.config import AFTER_RESTART, Config, differences
from autotuner.daemon.address import Address, remove_address, write_address
from autotuner.daemon.discovery import Discovery
from autotuner.daemon.holdout import HELD_OUT
from autotuner.daemon.lock import InstanceLock
from autotuner.daemon.log import get_log
from autotuner.daemon.modes import OFF
from autotuner.daemon.moment import Moment
from autotuner.daemon.policies import resolve_policy, shipped_artefacts
from autotuner.daemon.roster import Roster
from autotuner.daemon.runs import MonitoredRun
from autotuner.daemon.snapshot import GainSnapshot, SensorSnapshot, Snapshot
from autotuner.daemon.version import VERSION
from autotuner.errors import JournalError
from autotuner.journal import Journal, MachineRecord, journal_path
from autotuner.messages import MachineState
from autotuner.telemetry.slot import SensorStatus


class Machine(Protocol):
    """The sensors, as the daemon uses them (``telemetry.registry.Registry``)."""

    def sample(self, now: float) -> MachineState:
        """The machine at this moment; never raises."""

    def statuses(self, now: float) -> tuple[SensorStatus, ...]:
        """How every sensor fares."""


class WebServer(Protocol):
    """The running web server (``web.Server``)."""

    @property
    def port(self) -> int:
        """The port that it listens on."""

    def close(self) -> None:
        """Stop listening."""


Serve = Callable[[Callable[[], Snapshot], int, Path], WebServer]


class Daemon:
    """Serves one state directory from ``start`` to ``stop``."""

    def __init__(self, config: Config, machine: Machine, ended: Callable[[], None] = lambda: None) -> None:
        """``ended`` is called once for each run that has ended."""
        self.config = config
        self.frozen = ""
        """Why nothing may be changed at the moment: the journal cannot be written."""
        self.settings_problem = ""
        """Why the settings of now are not those of the file; empty when they are."""
        self.socket_problem = ""
        """Why no client can connect to the socket; empty when they can."""
        self._machine = machine
        self._ended = ended
        self._log = get_log()
        self._moved_aside = False
        self._web: WebServer | None = None

    def start(self, moment: Moment, serve: Serve | None = None) -> None:
        """Take the state directory, open the journal, load the policy and show the first snapshot.

        Raises DaemonRunningError, JournalError, ConfigurationError, or OSError when the port is taken.
        """
        state = self.config.state_directory
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        resolved = resolve_policy(self.config.policy, shipped_artefacts())
        self._policy_problem = resolved.problem
        self._lock = InstanceLock(state)
        try:
            self._start_unix, self._version = moment.unix, VERSION
            self.journal = Journal(journal_path(state), self._tell_moved_aside)
            self.roster = Roster(self.config, resolved.policy, self.journal, self._freeze, self._ended)
            self._pins_version = self.journal.data_version()
            self._discovery = Discovery(state / "runs", self._ended_before(moment))
            self.snapshot = self._snapshot(self._machine.sample(moment.now), moment, 0.0)
            if serve is not None:
                self._web = serve(lambda: self.snapshot, self.config.port, self.journal.path)
                write_address(state, Address(os.getpid(), self._web.port, moment.unix, self._version))
        except BaseException:
            self._lock.release()
            raise
        if resolved.problem:
            self._log.warning("policy", in_use=resolved.policy.name, why=resolved.problem)
        self._log.info(
            "started", pid=os.getpid(), version=self._version, mode=self.config.mode, policy=resolved.policy.name,
            state_directory=str(state), port=self._web.port if self._web else 0,
        )  # fmt: skip

    @property
    def live(self) -> dict[str, MonitoredRun]:
        """The live runs by id."""
        return self.roster.live

    def tick(self, moment: Moment) -> None:
        """Look at everything once, decide what is due, write it down, and show it."""
        began = time.perf_counter()
        machine = self._machine.sample(moment.now)
        for found in self._discovery.scan(moment.unix):
            if not self.roster.take_up(found, machine, moment):
                self._discovery.forget(found.directory.name)
        self._thaw(moment)
        self._reread(moment)
        self.roster.follow(machine, moment, frozen=bool(self.frozen))
        if self.live:
            self.journal.write(_machine_record(machine, moment))
        self._commit()
        self._judge(moment)
        self.snapshot = self._snapshot(machine, moment, time.perf_counter() - began)

    def reconfigure(self, config: Config) -> None:
        """Take over what may change while it runs; what may not is told, and waits for a restart."""
        changed = differences(self.config, config)
        waiting = [changed[name] for name in AFTER_RESTART if name in changed]
        kept = {name: getattr(self.config, name) for name in AFTER_RESTART}
        self.config = replace(config, **kept)
        self.roster.reconfigure(self.config)
        self.settings_problem = f"a restart is needed for: {', '.join(waiting)}" if waiting else ""
        taken = ", ".join(words for name, words in changed.items() if name not in AFTER_RESTART)
        self._log.info("settings", taken_over=taken or "nothing new", waiting=", ".join(waiting))

    def stop(self, moment: Moment) -> None:
        """Write down who has ended since the last tick, leave every other run as it is, and release everything."""
        self.roster.close(moment)
        if self._web is not None:
            remove_address(self.config.state_directory)
            self._web.close()
        with contextlib.suppress(JournalError):  # told already by the ticks
            self.journal.close()
        self._log.info("stopped", live_runs=len(self.live))
        self._lock.release()

    def _ended_before(self, moment: Moment) -> set[str]:
        """Ids of ended runs; a run whose directory is gone has ended, whatever the journal says."""
        for run in self.journal.runs(live=True):
            if not (self.config.state_directory / "runs" / run.run_id).is_dir():
                self.journal.update_run(run.run_id, ended_unix=moment.unix, outcome="vanished")
        self.journal.commit()
        return set(self.journal.ended_run_ids())

    def _reread(self, moment: Moment) -> None:
        if self.frozen:  # an answer that cannot be written down would be given again
            return
        try:
            version = self.journal.data_version()
            if version == self._pins_version:
                return
            self.roster.reread(moment)
            self._pins_version = version
        except JournalError as error:
            self._freeze(error)

    def _commit(self) -> None:
        try:
            self.journal.commit()
        except JournalError as error:
            self._freeze(error)

    def _judge(self, moment: Moment) -> None:
        if self.frozen:
            return
        try:
            self.roster.holdout.judge(moment)
        except JournalError as error:
            self._freeze(error)

    def _freeze(self, error: JournalError) -> None:
        if not self.frozen:
            self._log.error("frozen", why=str(error))
        self.frozen = str(error)

    def _thaw(self, moment: Moment) -> None:
        if not self.frozen:
            return
        try:
            self.journal.reopen()
            if self._moved_aside:
                self.roster.write_down(moment)
            self.journal.commit()
        except JournalError as error:
            self.frozen = str(error)
            return
        self.frozen, self._pins_version, self._moved_aside = "", -1, False
        self._log.info("thawed")

    def _tell_moved_aside(self, target: Path, why: str) -> None:
        self._moved_aside = True
        self._log.error("journal_moved_aside", to=target.name, why=why)

    def _snapshot(self, machine: MachineState, moment: Moment, tick_seconds: float) -> Snapshot:
        statuses = self._machine.statuses(moment.now)
        holdout = self.roster.holdout
        gain = GainSnapshot(**vars(holdout.gain)) if holdout.gain else None
        files = (run.files.problem and f"{run.run_id}: {run.files.problem}" for run in self.live.values())
        frozen = self.frozen and f"nothing is changed: {self.frozen}"
        problems = (frozen, self._policy_problem, self.settings_problem, self.socket_problem, holdout.problem, *files)
        return Snapshot(
            unix_time=moment.unix, started_unix=self._start_unix, version=self._version,
            mode=OFF if self.roster.off else holdout.mode, notice=self.roster.off,
            policy=self.roster.policy.name, machine=machine,
            tick_seconds=tick_seconds, tick_interval_seconds=self.config.tick_seconds,
            sensors=tuple(
                SensorSnapshot(s.name, s.source, s.up, s.seconds, s.age_seconds, s.reason, s.failures) for s in statuses
            ),
            runs=self.roster.snapshots(), journal_bytes=self.journal.size_bytes(),
            gain=gain, holdout_runs=holdout.counts[HELD_OUT], demoted=bool(holdout.demoted),
            demoted_why=holdout.demoted, evidence=holdout.evidence,
            problems=tuple(filter(None, problems)),
        )  # fmt: skip


def _machine_record(machine: MachineState, moment: Moment) -> MachineRecord:
    return MachineRecord(
        moment.unix, machine.memory_total_bytes, machine.memory_available_bytes, machine.memory_pressure,
        machine.swap_used_bytes, machine.thermal_level, machine.celsius, int(machine.injected),
    )  # fmt: skip
