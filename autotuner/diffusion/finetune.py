"""Published networks in the trainer, from a TOML file to what diffusers loads again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from autotuner.diffusion import latents, lora
from autotuner.diffusion.config import TrainerConfig
from autotuner.diffusion.data import Dataset
from autotuner.diffusion.models.config import read_json
from autotuner.diffusion.models.weights import save
from autotuner.diffusion.published import Captioned, Labelled
from autotuner.diffusion.scheduler import BETA_SCHEDULES, PROCESSES, Scheduler
from autotuner.diffusion.trainer import Trainer
from autotuner.errors import ConfigurationError

LADDER_SHARES = (0.5, 0.75, 1.0)
"""Edge lengths of the resolution ladder as shares of the pictures' own."""


def prepared(config: TrainerConfig, given: Collection[str], dataset: Dataset, cache: Path) -> tuple[Dataset, TrainerConfig]:
    """Latents of the pictures, and the configuration that the Stable Diffusion folder in ``config.fixed`` asks for.

    Process, noise range, captions and resolutions (edges of latents) follow from the folder unless they are in ``given``.
    Raises ConfigurationError without a folder, or for pictures that its networks cannot halve often enough.
    """
    if "folder" not in config.fixed:
        raise ConfigurationError("model.folder is missing; network 'stable_diffusion' needs the path of a diffusers folder")
    folder = Path(str(config.fixed["folder"])).expanduser()
    edges, reduction = _edges(folder, dataset.resolution)
    ready = latents.prepare(folder, dataset, edges, cache)
    scheduler = Scheduler.load(folder / "scheduler")
    table = scheduler.table
    follows: dict[str, Any] = {
        "process": PROCESSES[scheduler.prediction_type],
        "beta_schedule": BETA_SCHEDULES[scheduler.beta_schedule],
        "sigma_min": float(table[0]),
        "sigma_max": float(table[-1]),
    }
    wanted = {name: value for name, value in follows.items() if name not in given}
    sizes = tuple(edge // reduction for edge in edges)
    fixed = {**config.fixed, "folder": str(folder), "captions": str(ready.captions)}
    return ready.dataset, replace(config, **wanted, fixed=fixed, resolution=max(sizes), resolutions=sizes)


def _edges(folder: Path, full: int) -> tuple[tuple[int, ...], int]:
    """Edges of the ladder in pixels, all of which autoencoder and U-Net can halve, and pixels to a latent."""
    levels = len(read_json(folder / "unet" / "config.json")[0].get("block_out_channels", (0,) * 4))
    reduction = 2 ** (len(read_json(folder / "vae" / "config.json")[0].get("block_out_channels", (0,))) - 1)
    unit = reduction * 2 ** (levels - 1)
    if full % unit:
        raise ConfigurationError(f"pictures of {full} pixels; the networks of {folder} need a multiple of {unit}")
    return tuple(sorted({max(unit, round(full * share / unit) * unit) for share in LADDER_SHARES})), reduction


def export(trainer: Trainer, out: Path) -> Path | None:
    """Write the averaged weights as diffusers loads them: an adapter or a U-Net; None for the engine's own networks."""
    denoiser = trainer.stages.new_denoiser()
    trainer.stages.teacher.show_average(denoiser)
    network = denoiser.network
    if isinstance(network, Labelled):
        save(network.model, out / "model")
        return out / "model"
    if not isinstance(network, Captioned):
        return None
    if lora.layers(network.unet):
        return lora.save(out, {"unet": network.unet})
    save(network.unet, out / "unet")
    return out / "unet"
