"""The hook in mlx-lm: hand the callback and its batches to ``train``.

    tuned = AutotunerCallback("lora", model, optimizer=optimizer, checkpoints="adapters")
    train(model, optimizer, data, args=args, training_callback=tuned, iterate_batches=tuned.batches(iterate_batches))

``train`` calls back only every ``steps_per_report`` iterations; its batches are asked for at each one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from mlx_lm.tuner.callbacks import TrainingCallback

from autotuner.adapters.mlx_checkpoint import MLXCheckpoints, Part, state, weights
from autotuner.adapters.mlx_training import MLXTraining, parameters_of
from autotuner.adapters.pieces import divisors
from autotuner.adapters.table import offer


class AutotunerCallback(TrainingCallback):
    """Passes everything on to ``wrapped``, the user's own callback, if there is one.

    With a directory for ``checkpoints`` the run can be asked to save; with the ``optimizer`` too, also to restore.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        *,
        iterations: int | None = None,
        wrapped: Any = None,
        optimizer: Any = None,
        checkpoints: str | os.PathLike[str] | None = None,
    ) -> None:
        self._name = name
        self._parts: dict[str, Part] = {"adapters": weights(model)}  # as mlx-lm calls its file
        if optimizer is not None:
            self._parts["optimizer"] = state(lambda: optimizer.state)
        self._checkpoints = checkpoints
        self._model = {"model": type(model).__name__, "parameters": parameters_of(model)}
        self._iterations = iterations
        self._wrapped = wrapped
        self._loss: float | None = None
        self.training: MLXTraining | None = None

    def batches(self, iterate_batches: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """``iterate_batches`` with a look between two iterations; batches for validation pass untouched."""

        def tuned(dataset: Any, batch_size: int, *arguments: Any, **named: Any) -> Iterator[Any]:
            inner = iterate_batches(dataset, batch_size, *arguments, **named)
            return self._watched(inner, batch_size) if named.get("loop") else inner

        return tuned

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        """The mean loss since the last report goes with the iteration that has just ended."""
        self._loss = float(train_info["train_loss"])
        if self._wrapped is not None:
            self._wrapped.on_train_loss_report(train_info)

    def on_val_loss_report(self, val_info: dict[str, Any]) -> None:
        """A held-out measurement."""
        if self.training is not None:
            self.training.run.evaluation(self.training.step, float(val_info["val_loss"]), seconds=float(val_info["val_time"]))
        if self._wrapped is not None:
            self._wrapped.on_val_loss_report(val_info)

    def close(self) -> None:
        """Tell the last iteration, after which no batch is asked for, and say goodbye."""
        if self.training is not None:
            self._stepped(0)
            self.training.run.close()

    def _watched(self, inner: Iterator[Any], batch_size: int) -> Iterator[Any]:
        micro_batch = {"micro_batch": offer("mlx-lm", "micro_batch", batch_size, divisors(batch_size))}
        model = {**self._model, "batch": batch_size}
        self.training = MLXTraining("mlx-lm", self._name, model, more=micro_batch, steps=self._iterations)
        training = self.training
        if self._checkpoints is not None:
            MLXCheckpoints(self._checkpoints, self._parts, lambda: training.step).offer(training.run)
        for batch in inner:
            yield batch
            self._stepped(batch_size)

    def _stepped(self, images: int) -> None:
        assert self.training is not None
        loss, self._loss = self._loss, None
        self.training.rest()
        self.training.stepped(loss, images)
