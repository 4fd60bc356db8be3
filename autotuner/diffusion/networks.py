"""The networks that a training can be told to use, by name: every one is called F(x, c_noise, label)."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import mlx.nn as nn

from autotuner.diffusion import typed
from autotuner.diffusion.dit import PATCH, DiT
from autotuner.diffusion.models.config import Schema
from autotuner.diffusion.models.dit_transformer_2d import DiTTransformer2DModel
from autotuner.diffusion.models.unet_2d import UNet2DModel
from autotuner.diffusion.published import captioned_unet, dit_2d, unet_2d
from autotuner.diffusion.unet import DEPTH, UNet
from autotuner.errors import ConfigurationError

if TYPE_CHECKING:
    from autotuner.diffusion.config import TrainerConfig

GIVEN = ("config", "channels", "classes", "full_resolution", "resolution")
"""Arguments of constructors that the training and its images give; every other one is an architecture parameter."""

Build = Callable[..., nn.Module]
"""Takes the configuration, channels, classes and the full resolution, then the architecture's own parameters by keyword."""


def _own(kind: Callable[..., nn.Module]) -> Build:
    return lambda config, *sizes, **parameters: kind(*sizes, **parameters)


def _arguments(constructor: Callable[..., Any], parameters: Mapping[str, Any], where: str) -> None:
    """Refuse what the constructor's signature does not have; its whole numbers are counts, from 1 on."""
    function = constructor.__init__ if inspect.isclass(constructor) else constructor
    hints = typing.get_type_hints(function)
    known = [name for name in inspect.signature(constructor).parameters if name not in GIVEN]
    for name, value in parameters.items():
        if name not in known:
            raise ConfigurationError(f"{where} has an unknown key {name!r}; allowed: {', '.join(known)}")
        if not typed.is_a(value, hints[name]):
            raise ConfigurationError(f"{where}.{name} {value!r}; allowed is {typed.named(hints[name])}")
        if not isinstance(value, bool | float | str | None) and value < 1:
            raise ConfigurationError(f"{where}.{name} {value!r}; allowed is a whole number from 1 on")


def _published(schema: Schema, parameters: Mapping[str, Any], where: str) -> None:
    """Refuse what is no key of the model's `config.json`; a folder has one of its own."""
    if not typed.is_a(parameters.get("folder"), str | None):
        raise ConfigurationError(f"{where}.folder {parameters['folder']!r}; allowed is the path of a diffusers folder")
    try:
        schema.read({name: value for name, value in parameters.items() if name != "folder"})
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from None


@dataclass(frozen=True)
class Architecture:
    """One row of the table."""

    build: Build
    unit: Callable[[Mapping[str, Any]], Any]
    """What edges must be multiples of: patches, or halvings from level to level; a Stable Diffusion folder has its own say."""
    check: Callable[[Mapping[str, Any], str], None]
    """Raises ConfigurationError for parameters, found in a section, that the constructor does not have or take."""


NETWORKS: dict[str, Architecture] = {
    "dit": Architecture(_own(DiT), lambda given: given.get("patch", PATCH), partial(_arguments, DiT)),
    "unet": Architecture(_own(UNet), lambda given: 2 ** (given.get("depth", DEPTH) - 1), partial(_arguments, UNet)),
    "unet2d": Architecture(
        unet_2d,
        lambda given: 2 ** (len(given.get("block_out_channels", (0,) * 4)) - 1),
        partial(_published, UNet2DModel.SCHEMA),
    ),
    "dit2d": Architecture(dit_2d, lambda given: given.get("patch_size", 2), partial(_published, DiTTransformer2DModel.SCHEMA)),
    "stable_diffusion": Architecture(captioned_unet, lambda given: 1, partial(_arguments, captioned_unet)),
}
"""Label ``classes`` (one past the last) means no label, in all of them."""


def check(network: str, parameters: Mapping[str, Any], where: str = "model") -> None:
    """Refuse architecture parameters that the network does not have or take, before anything is built.

    Raises ConfigurationError with ``where`` they stand, the value found and what is allowed.
    """
    NETWORKS[network].check(parameters, f"network {network!r}: {where}")


def unit(network: str, parameters: Mapping[str, Any]) -> int:
    """What the network divides edges by, of checked ``parameters``."""
    return int(NETWORKS[network].unit(parameters))


def build_network(config: TrainerConfig, channels: int, classes: int, resolution: int) -> nn.Module:
    """The configured network for images (resolution, resolution, channels); weights follow MLX's random state.

    Raises ConfigurationError where the configuration lacks a parameter, or two of them contradict each other or the images.
    """
    parameters: dict[str, Any] = {**config.model, **config.fixed}
    try:
        return NETWORKS[config.network].build(config, channels, classes, resolution, **parameters)
    except TypeError as error:
        raise ConfigurationError(f"network {config.network!r} with {', '.join(parameters)}: {error}") from error
