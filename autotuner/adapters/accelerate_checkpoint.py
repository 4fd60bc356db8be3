"""A checkpoint of a script that trains with accelerate, when somebody asks for one: by ``save_state``, as its own are."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotuner.adapters.training import Training
    from autotuner.hook.checkpoint import Asked


class Saver:
    """Keeps what is asked for until the script's loop has done with the step: its scheduler steps after its optimizer.

    It saves to ``checkpoint-<step>`` where the script has its own, so that the script can go on from it.
    """

    def __init__(self) -> None:
        self._asked: Asked | None = None
        self._ahead = 0

    def offer(self, training: Training, accelerator: Any, config: Mapping[str, Any]) -> None:
        """Let people ask, when one process trains and it is known where checkpoints belong."""
        self._training = training
        self._accelerator = accelerator
        self._directory = str(config.get("output_dir") or accelerator.project_dir or "")
        if self._directory and accelerator.num_processes == 1:
            training.run.on_save(self._take)

    def logged(self, step: Any, training: Training) -> None:
        """The script counts this step: it may have gone on from an earlier run, so that its count is not ours."""
        if type(step) is int:
            self._ahead = step - training.step

    def look(self) -> None:
        """The script asks for its next batch: save now, if somebody asked and an optimizer step has just been done."""
        if self._asked is None or not self._accelerator.sync_gradients:
            return
        asked, self._asked = self._asked, None
        path = Path(self._directory).absolute() / f"checkpoint-{self._training.step + self._ahead}"
        if path.exists():
            asked.failed(f"{path} is there already")
            return
        try:
            asked.done(self._accelerator.save_state(str(path)) or path)
        except Exception as error:
            shutil.rmtree(path, ignore_errors=True)  # a script that goes on from its latest must not find half of one
            asked.failed(f"{type(error).__name__}: {error}")

    def _take(self, asked: Asked) -> None:
        self._asked = asked
