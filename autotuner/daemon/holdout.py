"""The hold-out: some runs are left at their script's own values, so that the daemon can measure its own gain.

A daemon that loses by its own measurement demotes itself to ``advise``: each block of ended runs is compared once and kept
in the journal, so neither looking often nor a restart condemns (``gain`` has method and source). Which runs are held out
follows from their ids, so a restarted daemon draws the same ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from autotuner.config import Config
from autotuner.controller.actions import HOLD
from autotuner.controller.policy import Choice, Policy
from autotuner.controller.window import RunWindow
from autotuner.daemon.log import get_log
from autotuner.daemon.moment import Moment
from autotuner.journal import ComparisonRecord, Journal, ModeRecord, RunRecord

if TYPE_CHECKING:
    from autotuner.daemon.gain import Course, Gain

TREATED, HELD_OUT = "treated", "held_out"
FIRST_RUNS = 9
"""The first runs of a machine are never held out: who tries Autotuner must see it work."""
FEWEST = 10
"""Runs on each side below which no gain is told: bootstrap intervals cover too little."""
BLOCK_RUNS = 8
"""Ended runs of both arms in a block: fewer rarely hold two of one declaration, more make a large loss wait."""
EVIDENCE_LIMIT = 20.0
"""The daemon demotes itself here; one over it bounds the chance that it ever does so without losing."""
NEWEST = 300
"""Ended runs that are compared at most, the newest ones."""


class Untouched:
    """The policy of a held-out run: it wishes nothing. The guard's emergencies stay."""

    name = "held_out"

    def choose(self, observation: Sequence[float], mask: Sequence[bool], window: RunWindow) -> Choice:
        """Hold."""
        return Choice(HOLD, "held_out")


def served_name(policy: Policy) -> str:
    """The policy's name, with the beginning of its artefact's hash where it has one: ``learned 5b1c09aa``."""
    digest = str(getattr(policy, "card", {}).get("sha256", ""))
    return f"{policy.name} {digest[:8]}".strip()


def drawn(run_id: str, share: float) -> bool:
    """Whether a run is in the held-out ``share``: a hash of its id, as a number from 0 to 1, is below it."""
    digest = hashlib.blake2b(run_id.encode(errors="replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < share


class Holdout:
    """Draws the arm of each new run, and keeps the verdict on the policy that the daemon serves."""

    def __init__(self, config: Config, policy: Policy, journal: Journal) -> None:
        """Reads an earlier verdict; raises JournalError. Runs are first compared by ``judge``: no start waits for that."""
        self.gain: Gain | None = None
        """None before the first ``judge``, and while there are fewer than FEWEST runs on either side."""
        self.counts = {TREATED: 0, HELD_OUT: 0}
        """Ended runs of each arm."""
        self.evidence = 1.0
        """That treated runs lose (``gain.evidence``); 1 is none, at EVIDENCE_LIMIT the daemon demotes itself."""
        self._config = config
        self._policy = policy
        self._journal = journal
        self._compared = self._stale = self._ended = False
        self.served = served_name(policy)
        self._log = get_log()
        verdicts = [record for record in journal.modes() if record.served_policy == self.served]
        self._verdict = verdicts[-1].why if verdicts else ""
        self._blocks = journal.comparisons()

    def reconfigure(self, config: Config) -> None:
        """Take over mode and share; runs keep the arm that they were drawn into."""
        self._config = config

    @property
    def demoted(self) -> str:
        """Why the daemon only advises; empty while it does not lose, and while nothing is held out."""
        return self._verdict if self._measures else ""

    @property
    def mode(self) -> str:
        """The daemon's mode: the configured one, unless it has demoted itself."""
        return "advise" if self.demoted and self._config.mode == "act" else self._config.mode

    @property
    def problem(self) -> str:
        """The sentence for people when the daemon has demoted itself; empty otherwise."""
        if not self.demoted:
            return ""
        return f"it only advises, as it loses by its own measurement: {self.demoted}; another policy starts anew"

    @property
    def _measures(self) -> bool:
        return self._config.holdout > 0 and self._policy.name != "hold"

    def arm(self, run_id: str, live: Iterable[str]) -> str:
        """The arm of a run that the journal may know already; ``live`` are runs that it may not hold yet.

        Raises JournalError.
        """
        known = self._journal.run(run_id)
        if known is not None:
            return known.arm
        if not self._measures or self.mode != "act":
            return ""
        before = {run.run_id for run in self._journal.runs(last=FIRST_RUNS)} | set(live)
        if len(before - {run_id}) < FIRST_RUNS:
            return ""
        return HELD_OUT if drawn(run_id, self._config.holdout) else TREATED

    def ended(self, arm: str) -> None:
        """A run of this arm has ended. Held-out ones are few: each of them, and no other, is worth another interval."""
        self._stale = self._stale or arm == HELD_OUT
        self._ended = self._ended or bool(arm)

    def judge(self, moment: Moment) -> None:
        """Once ended runs are in the journal: tell the gain, and demote the daemon when the evidence says that it loses.

        Raises JournalError.
        """
        if not self._measures:
            return
        if self._stale or not self._compared:
            self._compare()
        if self._ended or not self._compared:
            self._weigh(moment)
        self._compared, self._stale, self._ended = True, False, False

    def _weigh(self, moment: Moment) -> None:
        used = {run_id for block in self._blocks for run_id in block.run_ids}
        new = sorted((run for run in self._ended_runs() if run.run_id not in used), key=_end)
        if len(new) < BLOCK_RUNS and not self._blocks:
            return
        from autotuner.daemon.gain import SCORE_VERSION, evidence

        def mine() -> list[ComparisonRecord]:
            return [b for b in self._blocks if (b.served_policy, b.version) == (self.served, SCORE_VERSION)]

        self.evidence = evidence(block.advantage or 0.0 for block in mine())
        if self.demoted or self._config.mode != "act":
            return
        for first in range(0, len(new) - BLOCK_RUNS + 1, BLOCK_RUNS):
            block = self._block(new[first : first + BLOCK_RUNS], moment)
            self._blocks.append(block)
            self._journal.write(block)
            self.evidence = evidence(known.advantage or 0.0 for known in mine())
            if self.evidence >= EVIDENCE_LIMIT:
                self._demote(mine(), moment)
                return

    def _block(self, runs: Sequence[RunRecord], moment: Moment) -> ComparisonRecord:
        from autotuner.daemon.gain import SCORE_VERSION, advantage

        courses = self._courses(runs)
        ours, theirs = courses[TREATED], courses[HELD_OUT]
        ids = json.dumps([run.run_id for run in runs])
        return ComparisonRecord(moment.unix, self.served, SCORE_VERSION, len(ours), len(theirs), advantage(ours, theirs), ids)

    def _demote(self, blocks: Sequence[ComparisonRecord], moment: Moment) -> None:
        told = [block for block in blocks if block.advantage is not None]
        sooner = sum((1.0 + (block.advantage or 0.0)) / 2 for block in told) / len(told)
        compared = f"{sum(block.held_out for block in told)} held out against {sum(block.treated for block in told)} tuned"
        gain = f", gain {self.gain.ratio:+.0%} [{self.gain.low:+.0%}, {self.gain.high:+.0%}]" if self.gain else ""
        self._verdict = (
            f"held-out runs are the sooner ones in {sooner:.0%} of pairs (time to the same held-out loss, {compared}; "
            f"evidence {self.evidence:.0f} to 1 where {EVIDENCE_LIMIT:.0f} demotes{gain})"
        )
        self._journal.write(ModeRecord(moment.unix, "advise", self.served, self.demoted))
        self._log.warning("demoted", mode="advise", policy=self.served, why=self.demoted)

    def _ended_runs(self) -> list[RunRecord]:
        runs = self._journal.runs(live=False, last=NEWEST)
        return [run for run in runs if run.served_policy == self.served and run.arm in (TREATED, HELD_OUT)]

    def _courses(self, runs: Sequence[RunRecord]) -> dict[str, list[Course]]:
        from autotuner.daemon.gain import course_of

        courses: dict[str, list[Course]] = {TREATED: [], HELD_OUT: []}
        for run in runs:
            if course := course_of(run, self._journal.evaluations(run.run_id)):
                courses[run.arm].append(course)
        return courses

    def _compare(self) -> None:
        runs = self._ended_runs()
        self.counts = {arm: sum(run.arm == arm for run in runs) for arm in (TREATED, HELD_OUT)}
        self.gain = None
        if min(self.counts.values()) < FEWEST:
            return
        from autotuner.daemon.gain import estimate

        courses = self._courses(runs)
        if min(map(len, courses.values())) >= FEWEST:
            self.gain = estimate(courses[TREATED], courses[HELD_OUT])


def _end(run: RunRecord) -> tuple[float, str]:
    """Runs that ended in the same tick are in the order of their ids, which knows nothing of their arms."""
    return run.ended_unix or 0.0, run.run_id
