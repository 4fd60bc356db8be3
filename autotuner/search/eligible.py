"""Which combinations may be proposed: not tried yet, and expected to fit into this machine's memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from autotuner.search import memory
from autotuner.search.memory import MemoryForecast
from autotuner.search.objective import StudiedRun
from autotuner.search.space import Parameters, Space

ROOM_SHARE = 0.9
"""Share of the machine's room that a proposal may be expected to fill; the rest is for the other programs."""


@dataclass(frozen=True)
class Eligible:
    """Judges one combination at a time."""

    tried: tuple[Parameters, ...]
    forecast: MemoryForecast | None
    limit_bytes: float | None
    """None: this machine's room is not known."""

    def __call__(self, parameters: Parameters) -> bool:
        """Whether this combination may be proposed."""
        return parameters not in self.tried and self._fits(parameters)

    def covers(self, space: Space) -> bool:
        """Whether every combination was tried."""
        return len({tuple(sorted(combination.items())) for combination in self.tried}) >= space.size

    def expected_bytes(self, parameters: Parameters) -> int | None:
        """Peak memory that these parameters are expected to need; None when nothing is known."""
        return self.forecast.predict(parameters) if self.forecast is not None else None

    def _fits(self, parameters: Parameters) -> bool:
        expected = self.expected_bytes(parameters)
        return expected is None or self.limit_bytes is None or expected <= self.limit_bytes


def eligible(space: Space, trials: Sequence[FrozenTrial], runs: Sequence[StudiedRun]) -> Eligible:
    """The judge that trials and comparable runs (oldest first) give; a live run's combination counts as tried."""
    built = [(run, parameters) for run in runs if (parameters := space.fit(run.model)) is not None]
    tried = [trial.params for trial in trials if _counts_as_tried(trial)]
    tried += [parameters for run, parameters in built if not run.outcome]
    room = next((run.room_bytes for run in reversed(runs) if run.room_bytes), None)
    forecast = memory.fit([(parameters, run.peak_bytes) for run, parameters in built])
    return Eligible(tuple(tried), forecast, ROOM_SHARE * room if room else None)


def _counts_as_tried(trial: FrozenTrial) -> bool:
    """A result, or a run that died: what the user interrupted may be tried again, and so may what lapsed."""
    return trial.state == TrialState.COMPLETE or trial.user_attrs.get("outcome") in ("failed", "killed")
