"""The hold-out: some runs are left at their script's own values, so that the daemon can measure its own gain.

A daemon that loses by its own measurement demotes itself to ``advise``. Which runs are held out follows from their ids,
so a restarted daemon draws the same ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from autotuner.config import Config
from autotuner.controller.actions import HOLD
from autotuner.controller.policy import Choice, Policy
from autotuner.controller.window import RunWindow
from autotuner.daemon.log import get_log
from autotuner.daemon.moment import Moment
from autotuner.journal import Journal, ModeRecord, RunRecord

if TYPE_CHECKING:
    from autotuner.daemon.gain import Gain

TREATED, HELD_OUT = "treated", "held_out"
FIRST_RUNS = 9
"""The first runs of a machine are never held out: who tries Autotuner must see it work."""
FEWEST = 10
"""Runs on each side below which nothing is told: bootstrap intervals cover too little."""
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
        self.demoted = ""
        """Why the daemon only advises; empty while it does not lose."""
        self._config = config
        self._policy = policy
        self._journal = journal
        self._compared = self._stale = False
        self.served = served_name(policy)
        self._log = get_log()
        if self._measures:
            verdicts = [record for record in journal.modes() if record.served_policy == self.served]
            self.demoted = verdicts[-1].why if verdicts else ""

    def reconfigure(self, config: Config) -> None:
        """Take over mode and share; runs keep the arm that they were drawn into."""
        self._config = config

    @property
    def mode(self) -> str:
        """The daemon's mode: the configured one, unless it has demoted itself."""
        return "advise" if self.demoted and self._config.mode == "act" else self._config.mode

    @property
    def problem(self) -> str:
        """The sentence for people when the daemon has demoted itself; empty otherwise."""
        return f"it only advises, as it loses by its own measurement: {self.demoted}" if self.demoted else ""

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
        """A run of this arm has ended. Held-out ones are few: each of them, and no other, is worth another comparison.

        The fewer looks, the smaller the chance that one of them condemns a policy that does not lose.
        """
        self._stale = self._stale or arm == HELD_OUT

    def judge(self, moment: Moment) -> None:
        """Once ended runs are in the journal: demote the daemon when all of the interval says that it loses.

        Raises JournalError.
        """
        if not self._measures or (self._compared and not self._stale):
            return
        self._compare()
        looks, self._compared, self._stale = self._stale, True, False
        if not looks:  # a restart brings no new run: what is known is told, and condemns nobody again
            return
        if self.demoted or self.gain is None or self.gain.high >= 0 or self._config.mode != "act":
            return
        self.demoted = (
            f"held-out runs need less time to the same held-out loss: gain {self.gain.ratio:+.0%} "
            f"[{self.gain.low:+.0%}, {self.gain.high:+.0%}], {self.gain.treated} treated and {self.gain.held_out} held out"
        )
        self._journal.write(ModeRecord(moment.unix, "advise", self.served, self.demoted))
        self._log.warning("demoted", mode="advise", policy=self.served, why=self.demoted)

    def _compare(self) -> None:
        arms: dict[str, list[RunRecord]] = {TREATED: [], HELD_OUT: []}
        for run in self._journal.runs(live=False, last=NEWEST):
            if run.served_policy == self.served and run.arm in arms:
                arms[run.arm].append(run)
        self.counts = {arm: len(runs) for arm, runs in arms.items()}
        self.gain = None
        if min(self.counts.values()) < FEWEST:
            return
        from autotuner.daemon.gain import course_of, estimate  # NumPy: only who has enough runs pays for it

        courses = {
            arm: [course for run in runs if (course := course_of(run, self._journal.evaluations(run.run_id)))]
            for arm, runs in arms.items()
        }
        if min(map(len, courses.values())) >= FEWEST:
            self.gain = estimate(courses[TREATED], courses[HELD_OUT])
