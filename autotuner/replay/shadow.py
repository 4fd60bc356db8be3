"""What another policy would have wished at each decision of a finished run, in the words of the journal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from autotuner.controller.loop import interval_for
from autotuner.controller.policy import Policy
from autotuner.controller.window import RunWindow
from autotuner.messages import Acknowledgement, Evaluation, Sample
from autotuner.replay.episode import NOT_A_POLICY, Episode
from autotuner.replay.past import Past


@dataclass(frozen=True)
class Compared:
    """One decision: what was wished then, and what the policy wishes now."""

    time_unix: float
    by: str
    wished: int
    wishes: int
    detail: str = ""

    @property
    def agrees(self) -> bool:
        """Whether both are the same action."""
        return self.wished == self.wishes


def shadow(past: Past, episode: Episode, policy: Policy) -> Iterator[Compared]:
    """Each decision that a policy took, asked again.

    Observation and mask are the journal's; the window is rebuilt from the run's records, one sample a tick where the ring
    no longer holds each step. After the first difference this is still the course of the policy that was in force.
    """
    columns = episode.columns
    window = RunWindow(past.declaration, interval_of(past, columns["time_unix"]))
    feed = Feed(past, window)
    for i, time in enumerate(columns["time_unix"]):
        feed.until(time)
        window.close(time)
        if columns["decided_by"][i] in NOT_A_POLICY:
            continue
        choice = policy.choose(tuple(columns["observation"][i]), tuple(columns["mask"][i]), window)
        yield Compared(time, columns["decided_by"][i], columns["action"][i], choice.action, choice.detail)


def interval_of(past: Past, times: list[float]) -> float:
    """The run's decision interval, which a setting may have changed: the median of what it was."""
    gaps = sorted(after - before for before, after in pairwise(times))
    return gaps[len(gaps) // 2] if gaps and gaps[len(gaps) // 2] > 0 else interval_for(past.declaration)


class Feed:
    """Gives a window the records and readings up to a moment."""

    def __init__(self, past: Past, window: RunWindow) -> None:
        self._records, self._machine, self._window = list(past.records), list(past.machine), window
        self._record = self._reading = 0

    def until(self, time: float) -> None:
        """Give it all that was known at ``time``."""
        while self._record < len(self._records) and self._records[self._record].time <= time:
            record = self._records[self._record]
            self._record += 1
            if isinstance(record, Sample):
                self._window.sample(record)
            elif isinstance(record, Evaluation):
                self._window.evaluation(record)
            elif isinstance(record, Acknowledgement):
                self._window.acknowledged(record)
        while self._reading < len(self._machine) and self._machine[self._reading].time <= time:
            self._window.take_machine(self._machine[self._reading])
            self._reading += 1
