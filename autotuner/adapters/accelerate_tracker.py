"""Autotuner as one of accelerate's trackers: ``Accelerator(log_with=["tensorboard", AutotunerTracker("cats")])``."""

from __future__ import annotations

from typing import Any

from accelerate import accelerator
from accelerate.tracking import GeneralTracker

from autotuner.adapters import accelerate_attach
from autotuner.adapters.accelerate_session import Session


class AutotunerTracker(GeneralTracker):
    """Stands beside the script's own trackers, and tunes the training as ``autotuner run`` would.

    What a script logs comes too late to change anything, so that this also looks where accelerate computes.
    """

    name = "autotuner"
    requires_logging_directory = False

    def __init__(self, run_name: str, **_: Any) -> None:
        super().__init__()
        accelerate_attach.install(accelerator)
        accelerate_attach.session().name = run_name

    @property
    def tracker(self) -> Session:
        """The training as the hook sees it; ``tracker.training.run`` is the run."""
        return accelerate_attach.session()

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """The script's settings, some of which decide on memory."""
        self.tracker.safely(self.tracker.configured, values)

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        """Nothing is taken from here: each optimizer step has been reported already."""

    def finish(self) -> None:
        """``accelerator.end_training()``: the run has ended well."""
        accelerate_attach.forget()
