"""The runs that are live: taken up when they appear, followed at every tick, seen off when they end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from autotuner.config import Config
from autotuner.controller.guard import GuardLimits
from autotuner.controller.loop import ControlLoop
from autotuner.controller.policy import Policy
from autotuner.daemon import checkpoints
from autotuner.daemon.adoption import adopt, apply_pins
from autotuner.daemon.delivery import decide, give_back, hold_pinned_values
from autotuner.daemon.discovery import Found
from autotuner.daemon.ending import end, outcome_of
from autotuner.daemon.holdout import HELD_OUT, Holdout, Untouched
from autotuner.daemon.log import get_log
from autotuner.daemon.modes import OFF, mode_of, off_notice
from autotuner.daemon.moment import Moment
from autotuner.daemon.requests import answer
from autotuner.daemon.run_files import RunFiles
from autotuner.daemon.runs import MonitoredRun
from autotuner.daemon.snapshot import RunSnapshot
from autotuner.errors import JournalError
from autotuner.journal import Journal, PinRecord
from autotuner.messages import MachineState

RUNS_ASKED = 20
"""Newest ended runs among which one with a step shows that this machine is not new."""
ENDED_SHOWN_SECONDS = 600.0
"""An ended run stays on the status page for so long."""


class Roster:
    """Live runs by id, and those that ended a moment ago. One run's fault costs that run alone its guidance."""

    def __init__(
        self,
        config: Config,
        policy: Policy,
        journal: Journal,
        freeze: Callable[[JournalError], None],
        ended: Callable[[], None],
    ) -> None:
        """``freeze`` hears of a journal that fails, ``ended`` of each run that has ended."""
        self.live: dict[str, MonitoredRun] = {}
        self.policy = policy
        self.holdout = Holdout(config, policy, journal)
        self.ended = ended
        self._config = config
        self._journal = journal
        self._freeze = freeze
        self._limits = GuardLimits(changes_per_hour=config.changes_per_hour)
        self.off = off_notice(config.state_directory)
        """Since when everything is switched off; empty when it is not."""
        self._past: list[MonitoredRun] = []
        self._log = get_log()

    def take_up(self, found: Found, machine: MachineState, moment: Moment) -> bool:
        """Begin to follow a run; False when the journal could not be read and it must be tried again."""
        if found.declaration is None:
            self._log.warning("run_ignored", directory=found.directory.name, why=found.problem)
            return True
        try:
            arm = self.holdout.arm(found.declaration.run_id, self.live)
            first_here = not any(run.step for run in self._journal.runs(live=False, last=RUNS_ASKED))
        except JournalError as error:
            self._freeze(error)
            return False
        policy = Untouched() if arm == HELD_OUT else self.policy
        loop = ControlLoop(found.declaration, policy, self._limits, self._config.decision_seconds or None)
        run = MonitoredRun(found.declaration, RunFiles(found.directory), loop, self._journal)
        run.arm, run.served_policy, run.first_here = arm, self.holdout.served, first_here
        try:
            adopt(run, machine, self.holdout.mode, moment)
        except JournalError as error:
            self._freeze(error)
            run.files.close()
            return False
        except Exception:  # a defect that one run brings out must not cost the others their daemon
            run.log.exception("run_given_up")
            run.files.close()
            return True
        self.live[run.run_id] = run
        return True

    def reconfigure(self, config: Config) -> None:
        """Take over settings; a run that is live keeps its decision interval."""
        self._config = config
        self._limits = GuardLimits(changes_per_hour=config.changes_per_hour)
        for run in self.live.values():
            run.loop.guard.limits = self._limits
        self.holdout.reconfigure(config)

    def follow(self, machine: MachineState, moment: Moment, frozen: bool) -> None:
        """Follow every live run; while ``frozen`` nothing is decided."""
        self.off = off_notice(self._config.state_directory)
        for run in tuple(self.live.values()):
            try:
                with self._freezing():
                    self._follow(run, machine, moment, frozen)
                run.latest = run.snapshot(moment.now)
            except Exception:  # as above
                run.log.exception("run_given_up")
                run.files.close()
                self.live.pop(run.run_id, None)
        self._past = [run for run in self._past if moment.now - (run.ended_at or 0.0) < ENDED_SHOWN_SECONDS]

    def reread(self, moment: Moment) -> None:
        """Take over what people have said by the command line: pins, modes, requests. Raises JournalError."""
        for run in self.live.values():
            apply_pins(run)
            row = self._journal.run(run.run_id)
            run.own_mode = row.own_mode if row is not None else ""
        answer(self._journal, self.live, moment)

    def write_down(self, moment: Moment) -> None:
        """Tell a new journal of the runs that are live and of their pins."""
        for run in self.live.values():
            self._journal.write(run.record(moment, self.holdout.mode))
            held = {pin.knob: pin for pin in run.pins}
            for knob, origin in run.loop.pinned.items():
                self._journal.pin(held.get(knob, PinRecord(run.run_id, knob, None, origin, moment.unix)))

    def snapshots(self) -> tuple[RunSnapshot, ...]:
        """The runs as they were when they were followed last."""
        return tuple(run.latest for run in (*self.live.values(), *self._past) if run.latest is not None)

    def close(self, moment: Moment) -> None:
        """Write down who has ended since the last tick; leave every other run as it is."""
        for run in tuple(self.live.values()):
            with self._freezing():
                run.listen(moment)
                if outcome := outcome_of(run, moment.now):
                    self._see_off(run, outcome, moment)
            run.files.close()

    def _follow(self, run: MonitoredRun, machine: MachineState, moment: Moment, frozen: bool) -> None:
        run.listen(moment)
        checkpoints.follow(run, self._config.checkpoint_seconds, moment)
        outcome = outcome_of(run, moment.now)
        if outcome:
            self._see_off(run, outcome, moment)
            return
        run.loop.machine(machine)
        run.measure(moment)
        mode, why = mode_of(run, self.holdout.mode, bool(self.off), self._config.observe_first)
        if why and run.arm and (mode == OFF or run.own_mode):
            self._leave_comparison(run)
        run.take_mode(mode, why)
        run.files.heartbeat(moment.now, "observe" if frozen or mode == OFF else mode)
        if frozen or run.files.problem:
            return
        if mode == OFF:
            give_back(run, moment)
            return
        run.given_back = ()
        # A pinned value is a person's wish: only somebody's word that nothing shall change stands above it.
        if mode != "observe" or (self.holdout.mode != "observe" and not run.own_mode):
            hold_pinned_values(run, run.pins, moment)
        if run.loop.due(moment.now):
            decide(run, mode, moment)

    def _leave_comparison(self, run: MonitoredRun) -> None:
        """A run whose treatment a person has changed tells nothing of what the daemon gains."""
        run.arm = ""
        self._journal.update_run(run.run_id, arm="")

    def _see_off(self, run: MonitoredRun, outcome: str, moment: Moment) -> None:
        run.listen(moment)  # what it wrote between the last look and its end
        checkpoints.follow(run, self._config.checkpoint_seconds, moment)
        run.measure(moment)
        end(run, outcome_of(run, moment.now) or outcome, moment)
        del self.live[run.run_id]
        self._past.append(run)
        self.holdout.ended(run.arm)
        self.ended()

    @contextlib.contextmanager
    def _freezing(self) -> Iterator[None]:
        try:
            yield
        except JournalError as error:
            self._freeze(error)
