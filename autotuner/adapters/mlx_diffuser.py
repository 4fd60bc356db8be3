"""The hook in mlx-diffuser: ``tune(trainer, "flowers")`` before ``trainer.fit(...)`` or a loop over ``trainer.step``."""

from __future__ import annotations

import os
from typing import Any

from autotuner.adapters.mlx_checkpoint import MLXCheckpoints, state, weights
from autotuner.adapters.mlx_training import MLXTraining, parameters_of
from autotuner.adapters.pieces import divisors
from autotuner.adapters.table import offer


def tune(trainer: Any, name: str = "", steps: int | None = None, checkpoints: str | os.PathLike[str] | None = None) -> MLXTuned:
    """Look around each ``trainer.step``; the returned object has the ``run``, once the first batch was seen, and ``close``.

    With a directory for ``checkpoints`` the run can be asked to save and to restore.
    """
    tuned = MLXTuned(trainer, name, steps, checkpoints)
    trainer.step = tuned.step
    return tuned


class MLXTuned:
    """A trainer's ``step`` with the hook around it; results are the trainer's own."""

    def __init__(self, trainer: Any, name: str, steps: int | None, checkpoints: str | os.PathLike[str] | None = None) -> None:
        self._trainer = trainer
        self._inner = trainer.step
        self._name = name
        self._steps = steps
        self._checkpoints = checkpoints
        self.training: MLXTraining | None = None

    def step(self, x0: Any, y: Any = None) -> Any:
        """One optimizer step; the loss has been evaluated by the trainer, so that reading it costs nothing."""
        if self.training is None:
            self.training = self._attached(int(x0.shape[0]), int(x0.shape[1]))
        loss = self._inner(x0, y)
        self.training.rest()
        self.training.stepped(float(loss.item()), int(x0.shape[0]))
        return loss

    def close(self) -> None:
        """Say goodbye, and give the trainer its own step back."""
        self._trainer.step = self._inner
        if self.training is not None:
            self.training.run.close()

    def _attached(self, batch: int, resolution: int) -> MLXTraining:
        model = self._trainer.model
        declared = {"model": type(model).__name__, "parameters": parameters_of(model), "batch": batch, "resolution": resolution}
        more = {"micro_batch": offer("mlx-diffuser", "micro_batch", batch, divisors(batch))}
        training = MLXTraining("mlx-diffuser", self._name, declared, more=more, steps=self._steps)
        if self._checkpoints is not None:
            parts = {"model": weights(model), "optimizer": state(lambda: self._trainer.optimizer.state)}
            if self._trainer.ema is not None:
                parts["ema"] = state(lambda: self._trainer.ema.shadow)
            MLXCheckpoints(self._checkpoints, parts, lambda: training.step).offer(training.run)
        return training
