"""Published architectures as networks of the trainer: labels and captions told in their way, timesteps as they count them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import mlx.nn as nn
import numpy as np

from autotuner.diffusion import latents, lora
from autotuner.diffusion.blas import mx
from autotuner.diffusion.config import TrainerConfig
from autotuner.diffusion.models.autoencoder_kl import AutoencoderKL
from autotuner.diffusion.models.config import ModelConfig
from autotuner.diffusion.models.dit_transformer_2d import DiTTransformer2DModel
from autotuner.diffusion.models.unet_2d import UNet2DModel
from autotuner.diffusion.models.unet_2d_condition import UNet2DConditionModel
from autotuner.diffusion.models.weights import load
from autotuner.diffusion.precision import PRECISIONS
from autotuner.diffusion.scheduler import PROCESSES, Scheduler
from autotuner.diffusion.text_conditioning import Condition
from autotuner.errors import ConfigurationError

EDM_TIMESTEPS = 1000
"""EDM's c_noise is of order one; these networks' sines and cosines tell numbers up to a thousand apart."""
ADAPTERS = ("lora", "full")


class Labelled(nn.Module):
    """A published network with classes, or with none."""

    def __init__(self, model: UNet2DModel | DiTTransformer2DModel, channels: int, labelled: bool, scale: float) -> None:
        super().__init__()
        self.model = model
        self._channels, self._labelled, self._scale = channels, labelled, scale

    def __call__(self, x: mx.array, c_noise: mx.array, label: mx.array) -> mx.array:
        """Images (batch, height, width, channels) in and out; a predicted variance is left aside."""
        told = (label,) if self._labelled else ()
        return self.model(x, self._scale * c_noise, *told)[..., : self._channels]


def unet_2d(
    config: TrainerConfig, channels: int, classes: int, resolution: int, *, folder: str | None = None, **own: Any
) -> Labelled:
    """diffusers' UNet2DModel with the weights of ``folder``, or with random ones and ``own`` keys of its `config.json`.

    A folder's model without classes is not told any. Raises ConfigurationError when its channels or classes are not the data's,
    or its timesteps not positional.
    """
    sizes = {"in_channels": channels, "out_channels": channels, "sample_size": resolution, "num_class_embeds": classes + 1}
    model = UNet2DModel({**sizes, **own}) if folder is None else load(UNet2DModel, _folder(folder, own))
    _fits(model.config, {"in_channels": (channels,), "out_channels": (channels,), "num_class_embeds": (classes + 1, None)})
    # Fourier features take the logarithm of sigma and learned ones a table of whole steps; here are fractions, 0 and below.
    kind = model.config["time_embedding_type"]
    model.config.require(kind == "positional", "time_embedding_type", "positional in a training")
    return Labelled(model, channels, model.config["num_class_embeds"] is not None, _scale(config))


def dit_2d(
    config: TrainerConfig, channels: int, classes: int, resolution: int, *, folder: str | None = None, **own: Any
) -> Labelled:
    """diffusers' DiTTransformer2DModel, as ``unet_2d``."""
    sizes = {"in_channels": channels, "sample_size": resolution, "num_embeds_ada_norm": classes}
    model = DiTTransformer2DModel({**sizes, **own}) if folder is None else load(DiTTransformer2DModel, _folder(folder, own))
    allowed = {"in_channels": (channels,), "out_channels": (channels, 2 * channels, None), "num_embeds_ada_norm": (classes,)}
    _fits(model.config, allowed)
    return Labelled(model, channels, True, _scale(config))


class Captioned(nn.Module):
    """The U-Net of Stable Diffusion; a label is the row of a caption in a table of encoded captions.

    The last row is the empty prompt, so that dropping labels is dropping captions (Ho and Salimans 2022, Algorithm 1).
    """

    def __init__(self, unet: UNet2DConditionModel, condition: Condition, folder: Path) -> None:
        super().__init__()
        self.unet = unet
        # Neither weights nor state: the table is no one's to train, cast or save.
        self._condition = condition
        self._folder = folder

    def __call__(self, x: mx.array, c_noise: mx.array, label: mx.array) -> mx.array:
        """Noisy latents (batch, height, width, channels), timesteps and rows of the table to the network's own prediction."""
        condition = self._condition
        added = {}
        if condition.pooled is not None and condition.sizes is not None:
            added = {"text_embeds": condition.pooled[label].astype(x.dtype), "time_ids": condition.sizes[label]}
        return self.unet(x, c_noise, condition.context[label].astype(x.dtype), **added)

    def decode(self, standardised: np.ndarray) -> np.ndarray:
        """uint8 pictures of latents, by the folder's autoencoder."""
        return latents.decode(_autoencoder(self._folder, _state(self._folder / "vae")), standardised)


def captioned_unet(
    config: TrainerConfig,
    channels: int,
    classes: int,
    resolution: int,
    *,
    folder: str,
    captions: str,
    adapter: str = "lora",
    rank: int = 8,
    alpha: float | None = None,
    feed_forward: bool = False,
) -> Captioned:
    """The U-Net of a Stable Diffusion folder, for the latents and the table of captions that ``latents.prepare`` made.

    ``adapter`` lora trains A and B of rank ``rank`` on attention projections (and ``feed_forward`` layers), full every weight.
    Frozen weights are held once, however many networks are built, and in the precision of the training. Raises
    ConfigurationError when folder, captions, process and data do not belong together.
    """
    if adapter not in ADAPTERS:
        raise ConfigurationError(f"adapter {adapter!r}; allowed: {', '.join(ADAPTERS)}")
    _check_process(config, Path(folder))
    kept = config.precision if adapter == "lora" else "float32"  # what is trained has its master weights in float32
    source, condition = _unet(Path(folder), _state(Path(folder) / "unet"), kept), latents.read_captions(Path(captions))
    unet = UNet2DConditionModel(source.config)
    unet.update(source.parameters())
    _fits(unet.config, {"in_channels": (channels,)})
    if len(condition.context) != classes + 1:
        raise ConfigurationError(f"{captions}: {len(condition.context)} rows; {classes} captions and the empty one are needed")
    if adapter == "lora":
        lora.add(unet, rank, alpha, (*lora.ATTENTION, *(lora.FEED_FORWARD if feed_forward else ())))
    return Captioned(unet, condition, Path(folder))


def _check_process(config: TrainerConfig, folder: Path) -> None:
    scheduler = Scheduler.load(folder / "scheduler")
    if config.process != PROCESSES[scheduler.prediction_type]:
        wanted = PROCESSES[scheduler.prediction_type]
        raise ConfigurationError(f"process {config.process!r}; {folder} was trained with {wanted!r}")
    trained = Scheduler(scheduler.prediction_type, config.beta_schedule).table
    if not np.allclose(trained, scheduler.table, rtol=1e-3):
        raise ConfigurationError(f"beta_schedule {config.beta_schedule!r}; {folder} was trained with {scheduler}")


def _folder(folder: str, own: Mapping[str, Any]) -> Path:
    if own:
        raise ConfigurationError(f"{', '.join(own)}: not allowed beside folder {folder!r}, whose config.json says it all")
    return Path(folder)


def _fits(config: ModelConfig, allowed: Mapping[str, tuple[Any, ...]]) -> None:
    for key, values in allowed.items():
        config.require(config[key] in values, key, f"{' or '.join(map(str, values))} for these images")


def _scale(config: TrainerConfig) -> float:
    return EDM_TIMESTEPS if config.process == "edm" else 1


State = tuple[tuple[str, int, int], ...]


def _state(folder: Path) -> State:
    """Name, time and size of every file: what is kept in memory is that of these files."""
    found = ((file.name, file.stat()) for file in sorted(folder.glob("*")))
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in found)


@lru_cache(maxsize=1)
def _unet(folder: Path, state: State, precision: str) -> UNet2DConditionModel:
    """The weights that several networks share; nobody updates this one."""
    return load(UNet2DConditionModel, folder / "unet", dtype=PRECISIONS[precision])


@lru_cache(maxsize=1)
def _autoencoder(folder: Path, state: State) -> AutoencoderKL:
    return load(AutoencoderKL, folder / "vae")
