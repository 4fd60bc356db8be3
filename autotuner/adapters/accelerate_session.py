"""One training with accelerate as the hook sees it: what its first batch showed, the pieces of its batches, its reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from autotuner.adapters import device_memory, environment
from autotuner.adapters.accelerate_checkpoint import Saver
from autotuner.adapters.learning_rate import LR_SCALES, RateScale
from autotuner.adapters.pieces import UNKNOWN, NotDivisible, cut, divisors, images_in
from autotuner.adapters.table import offer
from autotuner.adapters.training import PACES, Training
from autotuner.hook import attach
from autotuner.hook.life import OPEN
from autotuner.hook.warning import warn
from autotuner.messages import FLAG_NOT_FINITE, FLAG_OUT_OF_MEMORY, NAN

MODEL_SETTINGS = ("resolution", "rank", "gradient_checkpointing", "mixed_precision")
"""What scripts call the settings that decide on memory besides the batch."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A batch, or a part of one."""

    batch: Any
    images: int = UNKNOWN
    of_images: int = UNKNOWN
    """How many the batch has that it was cut from."""

    @property
    def weight(self) -> float:
        """Its share of the batch's loss."""
        return self.images / self.of_images if self.of_images else 1.0


class Session:
    """Attaches before the first forward pass, which is where memory runs out; without ``accumulate``, at the first step."""

    def __init__(self, name: str | None = None) -> None:
        self.weight = 1.0
        """Of the loss of the piece in work."""
        self.between_pieces = False
        """Whether more pieces of the same batch follow: then nothing is synchronised and no optimizer steps."""
        self.accumulates = False
        """Whether the script works inside ``accelerator.accumulate``, and so counts optimizer steps, not passes of its loop."""
        self.training: Training | None = None
        self.name = name or environment.run_name()
        self._offered = environment.offered_knobs()
        self._start = environment.start_values()
        self._config: dict[str, Any] = {}
        self._off = False
        self._accelerator: Any = None
        self._optimizer: Any = None
        self._dataset: Any = None
        self._batch_images = UNKNOWN
        self._piece = Piece(None)
        self._is_new = False
        self._loss: Any = 0.0
        self._loss_weight = 0.0
        self._images = 0
        self._rates = RateScale()
        self._saver = Saver()

    def safely(self, part: Callable[..., None], *arguments: Any) -> None:
        """Do our part; what it raises is told once, and from then on the script runs as if we were not there."""
        if self._off:
            return
        try:
            part(*arguments)
        except Exception as error:
            self._off = True
            warn(f"the accelerate adapter is off; training goes on: {type(error).__name__}: {error}")

    def configured(self, config: Any) -> None:
        """The settings that the script hands to its trackers."""
        if isinstance(config, Mapping):
            self._config = dict(config)

    def pieces(self, loader: Any, batch: Any) -> list[Piece]:
        """What one batch of a loader becomes; itself, for every loader that does not feed the training."""
        whole = [Piece(batch)]
        if self._off:
            return whole
        try:
            images = images_in(batch)
            size = int(self._knob("micro_batch", 0))
            if not size or images <= size or not self._feeds_training(loader):
                return [Piece(batch, images, images)]
            return [Piece(part, images_in(part), images) for part in cut(batch, size)]
        except NotDivisible:  # an odd one among those that can be cut
            return [Piece(batch, images, images)]
        except Exception as error:
            self._off = True
            warn(f"the accelerate adapter is off; training goes on: {type(error).__name__}: {error}")
            return whole

    def begin_piece(self, piece: Piece, final: bool) -> None:
        """The loop gets this piece next."""
        self._piece, self._is_new = piece, True
        self.weight, self.between_pieces = piece.weight, not final

    def asks_for_more(self, loader: Any) -> None:
        """The script has done with a batch, or a part of one."""
        if self.training is not None and not self.between_pieces and self._feeds_training(loader):
            self._saver.look()

    def logged(self, step: Any) -> None:
        """The script tells its trackers of a step."""
        if self.training is not None:
            self._saver.logged(step, self.training)

    def entered(self, accelerator: Any) -> None:
        """The script works inside ``accelerator.accumulate`` from here on, and so counts optimizer steps, not passes."""
        self.accumulates = True
        if self.training is None:
            self._accelerator = accelerator
            self._batch_images = self._piece.of_images
            self._attach()

    def went_backward(self, accelerator: Any, loss: Any) -> None:
        """Gradients of the piece in work are there."""
        self._accelerator = accelerator
        self._loss = self._loss + loss.detach().float() * self.weight
        if self._is_new:
            self._is_new = False
            self._loss_weight += self.weight
            self._images += self._piece.images
            loader = accelerator.gradient_state.active_dataloader
            if loader is not None:
                self._dataset = loader.dataset
                self._batch_images = max(self._batch_images, self._piece.of_images)
        if self.training is not None and self.between_pieces:
            self.training.rest()

    def stepped(self, optimizer: Any) -> None:
        """An optimizer was asked to step; only one step of the first one, with all its gradients, counts."""
        self._optimizer = self._optimizer or optimizer
        if (
            optimizer is self._optimizer
            and optimizer.gradient_state.sync_gradients
            and self._accelerator is not None
            and self._loss_weight
        ):
            self._report(FLAG_NOT_FINITE if optimizer.step_was_skipped else 0)

    def before_optimizer(self, optimizer: Any) -> None:
        """Right before an optimizer is asked to step."""
        if optimizer.gradient_state.sync_gradients:
            self._rates.apply(optimizer.param_groups, self._knob("lr_scale", 1.0))

    def after_optimizer(self) -> None:
        """Right after it, before any scheduler steps."""
        self._rates.restore()

    def ran_out_of_memory(self) -> None:
        """The script dies of it: the last record says so, and with which knobs."""
        if self.training is not None:
            self.training.stepped(NAN, step=self.training.step, flags=FLAG_OUT_OF_MEMORY)
            self.training.run.poll()  # a record that waits for its turn would be lost

    def close(self) -> None:
        """The training is over."""
        if self.training is not None:
            self.training.run.close()

    def _knob(self, name: str, otherwise: float) -> float:
        if self.training is None:
            return self._start.get(name, otherwise)
        return float(self.training.knob(name, otherwise))

    def _feeds_training(self, loader: Any) -> bool:
        import torch

        return (self._dataset is None or loader.dataset is self._dataset) and torch.is_grad_enabled()

    def _report(self, flags: int) -> None:
        loss, images = float(self._loss) / self._loss_weight, self._images * self._accelerator.num_processes
        self._loss, self._loss_weight, self._images = 0.0, 0.0, 0
        if self.training is None:
            self._attach()
        assert self.training is not None
        self.training.rest()
        self.training.stepped(loss, images, flags=flags)

    def _attach(self) -> None:
        import torch

        if OPEN:
            raise RuntimeError(f"the script has attached by itself, as {next(iter(OPEN)).name!r}, and is left to itself")
        device = self._accelerator.device.type
        start, why_not = self._start.get("micro_batch"), self._why_whole()
        batch = self._batch_images
        knobs = {}
        if "micro_batch" in self._offered and batch > 1:
            most = int(start or batch)  # what failed before is not offered again
            ladder = [size for size in divisors(batch) if size <= most] or [most]
            knobs["micro_batch"] = offer("accelerate", "micro_batch", ladder[0], ladder, possible=not why_not)
        if "micro_batch" in self._offered and why_not:
            warn(f"micro_batch stays as the script has it: {why_not}")
        if "pace" in self._offered:
            knobs["pace"] = offer("accelerate", "pace", self._start.get("pace", 1.0), PACES)
        if "lr_scale" in self._offered:
            knobs["lr_scale"] = offer("accelerate", "lr_scale", 1.0, LR_SCALES)
        steps = self._config.get("max_train_steps")
        run = attach(
            self.name,
            knobs=knobs,
            model=self._model(),
            framework=f"accelerate-{device}",
            budget_steps=steps if isinstance(steps, int) and steps > 0 else None,
            clear_cache=device_memory.torch_cache_clearing(torch, device),
        )
        environment.note_run(run.directory)
        self.training = Training(run, memory=device_memory.of_torch(torch, device))
        self._saver.offer(self.training, self._accelerator, self._config)

    def _why_whole(self) -> str:
        """Why batches cannot be cut without changing the training; empty when they can."""
        modules = [module for model in self._accelerator._models for module in model.modules()]
        reasons = (
            (not self.accumulates, "the script does not use accelerator.accumulate(), so it would count pieces as steps"),
            (self._batch_images == UNKNOWN, "its batches do not come from a DataLoader that accelerate prepared"),
            (bool(self._uncut()), self._uncut()),
            (len(self._accelerator._optimizers) > 1, "it steps more than one optimizer"),
            (self._accelerator.num_processes > 1, f"it runs in {self._accelerator.num_processes} processes"),
            (self._accelerator.distributed_type.value != "NO", "an engine of accelerate's plugins steps"),
            (any("BatchNorm" in type(module).__name__ for module in modules), "batch normalisation depends on the piece"),
        )
        return next((why for holds, why in reasons if holds), "")

    def _uncut(self) -> str:
        """Why the batch in work cannot be cut; empty when it can."""
        try:
            cut(self._piece.batch, max(1, self._piece.images // 2))
        except NotDivisible as error:
            return str(error)
        return ""

    def _model(self) -> dict[str, Any]:
        """What makes runs comparable in memory and time."""
        models = [self._accelerator.unwrap_model(model) for model in self._accelerator._models]
        known = {name: self._config[name] for name in MODEL_SETTINGS if isinstance(self._config.get(name), (int, float, str))}
        return {
            "model": "+".join(type(model).__name__ for model in models),
            "parameters": sum(parameter.numel() for model in models for parameter in model.parameters()),
            "batch": self._batch_images,
            **known,
        }
