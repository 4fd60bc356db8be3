"""The hook in a Hugging Face ``Trainer``: ``Trainer(..., callbacks=[AutotunerCallback("cats")])``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from autotuner.adapters import environment
from autotuner.adapters.torch_training import TorchTraining

if TYPE_CHECKING:
    from autotuner.hook.checkpoint import Asked


class AutotunerCallback(TrainerCallback):
    """Reports each optimizer step, with the loss when the trainer logs it, and rests for pace after each backward pass."""

    def __init__(self, name: str = "", knobs: tuple[str, ...] | None = None) -> None:
        self._name = name or environment.run_name()
        self._knobs = environment.offered_knobs() if knobs is None else knobs
        self._loss: float | None = None
        self._images = 0
        self.training: TorchTraining | None = None
        self._asked: Asked | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """The loop begins; ``args.n_gpu`` copies of the micro-batch and the accumulation make a step's images."""
        if not state.is_world_process_zero:
            return
        batch = args.train_batch_size
        self._images = batch * args.gradient_accumulation_steps * args.world_size
        self.training = TorchTraining("transformers", self._name, model, batch, self._knobs, state.max_steps)
        if args.world_size == 1:
            self.training.run.on_save(self._take)

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A backward pass that no optimizer step follows."""
        if self.training is not None:
            self.training.rest()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        """Gradients are clipped, the optimizer steps next."""
        if self.training is not None and optimizer is not None:
            self.training.before_optimizer(optimizer)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The optimizer has stepped."""
        if self.training is not None:
            self.training.after_optimizer()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A whole step; the loss that was logged for the one before it is passed on."""
        if self.training is not None:
            self.training.rest()
            loss, self._loss = self._loss, None
            self.training.stepped(loss, self._images, step=state.global_step)
            if self._asked is not None:
                control.should_save = True  # the trainer does it next, before another step

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The trainer has written a checkpoint, perhaps because it was asked to."""
        asked, self._asked = self._asked, None
        if asked is not None:
            asked.done(Path(args.output_dir).absolute() / f"checkpoint-{state.global_step}", state.global_step)

    def _take(self, asked: Asked) -> None:
        self._asked = asked

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """The mean loss since the last log: the trainer has fetched it, so that it costs nothing."""
        loss = (logs or {}).get("loss")
        if loss is not None:
            self._loss = float(loss)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
        """A held-out measurement."""
        loss = (metrics or {}).get("eval_loss")
        if self.training is not None and loss is not None:
            self.training.run.evaluation(state.global_step, loss)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The loop has ended well."""
        if self.training is not None:
            self.training.run.close()
