"""From a configuration to a run: attach the hook, train to the end of the budget, keep checkpoints on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from autotuner.diffusion import checkpoint, features, presets
from autotuner.diffusion.config import TrainerConfig
from autotuner.diffusion.data import Dataset
from autotuner.diffusion.progress import Progress
from autotuner.diffusion.trainer import Trainer
from autotuner.hook import attach, knob
from autotuner.hook.attach import SHAPE_DWELL_STEPS

SAVE_EVERY_SECONDS = 60.0


def attached(
    config: TrainerConfig,
    dataset: Dataset,
    *,
    space: dict[str, list[int]] | None = None,
    state_directory: Path | None = None,
    keep_architecture: bool = False,
    resumed: Path | None = None,
    shape_dwell_steps: int = SHAPE_DWELL_STEPS,
) -> tuple[TrainerConfig, Any]:
    """The run as the daemon sees it, and the configuration with the architecture that it will have.

    A new training takes the one that the search proposes, a resumed one that of its checkpoint (``resumed``), which may
    have been proposed then. ``space`` are the architectures offered to the search.
    """
    if resumed is not None:
        config = _continued(config, resumed)
    ladders = {name: row.values for name, row in config.declarations().items()}
    start = {name: row.values[row.start] for name, row in config.declarations().items()}
    if resumed is not None:  # the daemon knows only what is declared: the values in force, not those of the first start
        saved = checkpoint.knobs(resumed)
        start |= {name: value for name, value in saved.items() if value in ladders.get(name, ())}
    run = attach(
        config.name,
        knobs={name: knob(start[name], values) for name, values in ladders.items()},
        model=config.model,
        framework="mlx",
        budget_seconds=config.seconds,
        budget_steps=config.steps,
        max_shapes=config.max_shapes,
        shape_dwell_steps=shape_dwell_steps,
        quality_metric=features.metric_name(config.quality_features, dataset),
        search_space=space if space is not None else presets.SEARCH_SPACE.get(config.network, {}),
        state_dir=state_directory,
        auto=False,
    )
    if run.proposal is not None and not keep_architecture and resumed is None:
        config = replace(config, model={**config.model, **run.proposal})
    run.declare(model=config.model)
    return config, run


def _continued(config: TrainerConfig, path: Path) -> TrainerConfig:
    searched = presets.SEARCH_SPACE.get(config.network, {})
    built = checkpoint.read(path)[1]["config"]["model"]
    return replace(config, model={**config.model, **{name: value for name, value in built.items() if name in searched}})


def drive(trainer: Trainer, path: Path, seen: Callable[[Progress], None]) -> None:
    """Train to the end of the budget; ``seen`` gets every record.

    The checkpoint is written each minute, at the end, and when people ask for it.
    """
    saved = trainer.seconds
    _offer_checkpoints(trainer, path.absolute())
    try:
        for progress in trainer.steps():
            seen(progress)
            if progress.seconds - saved >= SAVE_EVERY_SECONDS:
                saved = progress.seconds
                checkpoint.save(trainer, path)
    finally:
        checkpoint.save(trainer, path)


def _offer_checkpoints(trainer: Trainer, path: Path) -> None:
    """Let people ask for one, and go back to one; what fails is told by the hook, and training goes on."""

    def save(asked: Any) -> None:
        checkpoint.save(trainer, path)
        asked.done(path, trainer.step)

    def restore(asked: Any) -> None:
        wanted = Path(asked.path) if asked.path else path
        checkpoint.go_back(trainer, wanted)
        asked.done(wanted, trainer.step)

    trainer.run.on_save(save)
    trainer.run.on_restore(restore)
