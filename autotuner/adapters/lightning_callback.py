"""The hook in PyTorch Lightning: ``Trainer(callbacks=[AutotunerCallback("cats")])``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback

from autotuner.adapters import environment
from autotuner.adapters.out_of_memory import is_out_of_memory
from autotuner.adapters.pieces import images_in
from autotuner.adapters.torch_training import TorchTraining
from autotuner.messages import FLAG_OUT_OF_MEMORY

if TYPE_CHECKING:
    from autotuner.hook.checkpoint import Asked


class AutotunerCallback(Callback):
    """Reports each optimizer step, rests for pace after each backward pass, and tells of out of memory on any device."""

    def __init__(self, name: str = "", knobs: tuple[str, ...] | None = None) -> None:
        self._name = name or environment.run_name()
        self._knobs = environment.offered_knobs() if knobs is None else knobs
        self._images = 0
        self._step = 0
        self.training: TorchTraining | None = None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """The first batch shows how many images one has."""
        self._images += images_in(batch) * trainer.world_size
        if self.training is None and trainer.is_global_zero:
            self._step = trainer.global_step
            steps = trainer.estimated_stepping_batches
            budget = int(steps) if 0 < steps < float("inf") else None
            self.training = TorchTraining("lightning", self._name, pl_module, images_in(batch), self._knobs, budget)
            if trainer.world_size == 1:
                self.training.run.on_save(lambda asked: _save(trainer, asked))

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        """Gradients are there."""
        if self.training is not None:
            self.training.rest()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Gradients are about to be clipped, the optimizer steps next."""
        if self.training is not None:
            self.training.before_optimizer(optimizer)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """A batch is done; it was a step when Lightning has counted one."""
        if self.training is None:
            return
        self.training.after_optimizer()
        if trainer.global_step > self._step:
            self._step, images, self._images = trainer.global_step, self._images, 0
            loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
            self.training.stepped(None if loss is None else float(loss), images, step=self._step)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """What the module logged as ``val_loss``."""
        loss = trainer.callback_metrics.get("val_loss")
        if self.training is not None and loss is not None and not trainer.sanity_checking:
            self.training.run.evaluation(trainer.global_step, float(loss))

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Lightning itself knows only CUDA and the CPU out of memory."""
        if self.training is not None and is_out_of_memory(exception):
            self.training.stepped(None, step=self._step, flags=FLAG_OUT_OF_MEMORY)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """The loop has ended well."""
        if self.training is not None:
            self.training.run.close()


def _save(trainer: Any, asked: Asked) -> None:
    """A batch is done and the optimizer has stepped: what Lightning writes now resumes there."""
    path = Path(trainer.default_root_dir).absolute() / "checkpoints" / f"asked-step={trainer.global_step}.ckpt"
    trainer.save_checkpoint(path)
    asked.done(path, trainer.global_step)
