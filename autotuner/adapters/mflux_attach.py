"""The hook in mflux-train, whose trainer has no callback: ``autotuner run -- mflux-train --config x.json``.

Its loop asks its iterator for the next batch when a step is done, and tells its statistics the loss that the step computed.
Both are patched, and the loop itself for its beginning and end. What it is asked to save is its own checkpoint.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotuner.adapters.mlx_training import MLXTraining
from autotuner.adapters.pieces import divisors
from autotuner.adapters.table import offer
from autotuner.hook.warning import warn

if TYPE_CHECKING:
    from autotuner.hook.checkpoint import Asked


def install(module: Any) -> None:
    """Patch ``mflux.models.common.training.trainer``; a second call does nothing."""
    trainer = module.TrainingTrainer
    if getattr(trainer, "_autotuner", False):
        return
    from mflux.models.common.training.dataset.iterator import Iterator
    from mflux.models.common.training.statistics.statistics import Statistics

    trainer._autotuner = True
    now = Watch()
    train, following, append = trainer.train, Iterator.__next__, Statistics.append_values

    @functools.wraps(train)
    def tuned_train(*, adapter: Any, training_spec: Any, training_state: Any) -> None:
        now.safely("began", adapter, training_spec, training_state)
        train(adapter=adapter, training_spec=training_spec, training_state=training_state)
        now.safely("ended")

    @functools.wraps(following)
    def tuned_next(iterator: Any) -> Any:
        now.safely("stepped", iterator)
        batch = following(iterator)
        now.safely("drew", batch)
        return batch

    @functools.wraps(append)
    def tuned_append(statistics: Any, step: int, loss: float) -> None:
        append(statistics, step=step, loss=loss)
        now.safely("lost", loss)

    trainer.train = staticmethod(tuned_train)
    Iterator.__next__ = tuned_next
    Statistics.append_values = tuned_append


class Watch:
    """One training of mflux as the hook sees it."""

    def __init__(self) -> None:
        self.training: MLXTraining | None = None
        self._iterator: Any = None
        self._images = 0
        self._loss: float | None = None
        self._off = False

    def safely(self, part: str, *arguments: Any) -> None:
        """Do our part; what it raises is told once, and from then on the script runs as if we were not there."""
        if self._off:
            return
        try:
            getattr(self, part)(*arguments)
        except Exception as error:
            self._off = True
            warn(f"the mflux adapter is off; training goes on: {type(error).__name__}: {error}")

    def began(self, adapter: Any, spec: Any, state: Any) -> None:
        """The loop begins, with its settings and its iterator."""
        self._iterator, self._images, self._loss = state.iterator, 0, None
        batch = int(spec.training_loop.batch_size)
        model = {"batch": batch, "low_ram": bool(getattr(spec, "low_ram", False))}
        more = {"micro_batch": offer("mflux", "micro_batch", batch, divisors(batch))}
        resolution = getattr(spec, "max_resolution", None)
        if resolution:
            model["resolution"] = int(resolution)
            more["resolution"] = offer("mflux", "resolution", resolution, [resolution // 2, resolution * 3 // 4, resolution])
        self.training = MLXTraining("mflux", "", model, more=more, steps=state.iterator.total_number_of_steps())
        self.training.run.on_save(lambda asked: _save(adapter, spec, state, asked))

    def stepped(self, iterator: Any) -> None:
        """The next batch is asked for, so that the one before it is done."""
        if self.training is None or iterator is not self._iterator or not self._images:
            return
        loss, self._loss = self._loss, None
        images, self._images = self._images, 0
        self.training.rest()
        self.training.stepped(loss, images, step=int(iterator.num_iterations))

    def drew(self, batch: Any) -> None:
        """A batch goes into the next step."""
        self._images = len(batch.data)

    def lost(self, loss: float) -> None:
        """The loss of the step; told only when the configuration has ``monitoring``."""
        self._loss = float(loss)

    def ended(self) -> None:
        """The loop has ended well."""
        if self.training is not None:
            self.training.run.close()


def _save(adapter: Any, spec: Any, state: Any, asked: Asked) -> None:
    """Called where the loop itself saves: after a step, before the next batch is drawn."""
    state.save(adapter, spec)
    step = int(state.iterator.num_iterations)
    asked.done(Path(spec.checkpoint.output_path).absolute() / "checkpoints" / f"{step:07d}_checkpoint.zip", step)
