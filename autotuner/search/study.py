"""One project's study at one budget: what it was told, which trial is out with a run, and when that lapses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from autotuner.search.objective import Result, StudiedRun, StudyKey, result_of
from autotuner.search.space import Parameters

# Optuna's heartbeat is written only inside study.optimize, so a trial that is out with a run has a lease of our own:
# it lasts while its proposal waits or its run lives.


class ProjectStudy:
    """Trials of runs that can be compared. Everything in it follows from the journal, but for the proposals that are out."""

    def __init__(self, storage: BaseStorage, key: StudyKey) -> None:
        self.key = key
        self._storage = storage
        self._study = optuna.create_study(study_name=key.name, storage=storage, direction="minimize", load_if_exists=True)

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, oldest first."""
        return list(self._study.get_trials(deepcopy=False))

    def told(self) -> set[str]:
        """Ids of the runs that were told."""
        return {trial.user_attrs["run_id"] for trial in self.trials if "run_id" in trial.user_attrs}

    def out(self) -> list[FrozenTrial]:
        """Trials that were proposed and have no result yet."""
        return [trial for trial in self.trials if trial.state == TrialState.RUNNING]

    def tell(self, runs: Iterable[StudiedRun]) -> int:
        """Tell ended runs, each once, where their model is in the space; return how many were new."""
        told = self.told()
        fitting = [(run, self.key.space.fit(run.model)) for run in runs if run.run_id not in told]
        new = [(run, parameters) for run, parameters in fitting if parameters is not None]
        for run, parameters in new:
            self._tell(run, parameters)
        return len(new)

    def propose(self, parameters: Parameters, why: str, now_unix: float) -> int:
        """Open a trial for a proposal and return its number."""
        attributes = {"proposed_unix": now_unix, "why": why}
        distributions = self.key.space.distributions
        self._study.add_trial(
            create_trial(state=TrialState.RUNNING, params=parameters, distributions=distributions, user_attrs=attributes)
        )
        return max(int(trial.number) for trial in self.out())

    def lapse(self, number: int, reason: str) -> None:
        """Close a proposal that no run will answer."""
        self._finish(number, Result(None, {}, reason), {"reason": reason})

    def best(self) -> FrozenTrial | None:
        """The trial with the lowest loss among those that kept within memory; None without one."""
        return min((trial for trial in self.trials if feasible(trial)), key=lambda trial: trial.value, default=None)

    def _tell(self, run: StudiedRun, parameters: Parameters) -> None:
        result = result_of(run)
        attributes = _attributes(run, result)
        taken = self._taken(run, parameters)
        if taken is None:
            self._study.add_trial(self._frozen(parameters, result, attributes))
        else:
            self._finish(taken.number, result, attributes)

    def _taken(self, run: StudiedRun, parameters: Parameters) -> FrozenTrial | None:
        """The open trial that this run answers: same number and same parameters."""
        return next((trial for trial in self.out() if trial.number == run.trial and trial.params == parameters), None)

    def _frozen(self, parameters: Parameters, result: Result, attributes: dict[str, Any]) -> FrozenTrial:
        return create_trial(
            state=TrialState.FAIL if result.value is None else TrialState.COMPLETE,
            value=result.value,
            params=parameters,
            distributions=self.key.space.distributions,
            user_attrs=attributes,
            constraints=dict(result.constraints),
        )

    def _finish(self, number: int, result: Result, attributes: dict[str, Any]) -> None:
        study_id = self._storage.get_study_id_from_name(self.key.name)
        trial = optuna.trial.Trial(self._study, self._storage.get_trial_id_from_study_id_trial_number(study_id, number))
        for name, value in attributes.items():
            trial.set_user_attr(name, value)
        for name, value in result.constraints.items():
            trial.set_constraint(name, value)
        state = TrialState.FAIL if result.value is None else TrialState.COMPLETE
        self._study.tell(number, result.value, state=state)


def feasible(trial: FrozenTrial) -> bool:
    """Whether a trial has a result that kept every constraint."""
    return trial.state == TrialState.COMPLETE and all(value <= 0 for value in trial.constraints.values())


def _attributes(run: StudiedRun, result: Result) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "outcome": run.outcome,
        "reason": result.reason,
        "peak_bytes": run.peak_bytes,
        "injected": run.injected,
    }
