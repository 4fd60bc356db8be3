"""The networks that a training can be told to use, by name: every one is called F(x, c_noise, label)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import mlx.nn as nn

from autotuner.diffusion.dit import PATCH, DiT
from autotuner.diffusion.published import captioned_unet, dit_2d, unet_2d
from autotuner.diffusion.unet import DEPTH, UNet
from autotuner.errors import ConfigurationError

if TYPE_CHECKING:
    from autotuner.diffusion.config import TrainerConfig

Build = Callable[..., nn.Module]
"""Takes the configuration, channels, classes and the full resolution, then the architecture's own parameters by keyword."""


def _own(kind: Callable[..., nn.Module]) -> Build:
    return lambda config, *sizes, **parameters: kind(*sizes, **parameters)


NETWORKS: dict[str, Build] = {
    "dit": _own(DiT),
    "unet": _own(UNet),
    "unet2d": unet_2d,
    "dit2d": dit_2d,
    "stable_diffusion": captioned_unet,
}
"""Label ``classes`` (one past the last) means no label, in all of them."""

UNITS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "dit": lambda given: given.get("patch", PATCH),
    "unet": lambda given: 2 ** (given.get("depth", DEPTH) - 1),
    "unet2d": lambda given: 2 ** (len(given.get("block_out_channels", (0,) * 4)) - 1),
    "dit2d": lambda given: given.get("patch_size", 2),
    "stable_diffusion": lambda given: 1,
}
"""What edges must be multiples of: patches, or halvings from level to level; a Stable Diffusion folder has its own say."""


def unit(network: str, parameters: Mapping[str, Any]) -> int:
    """What the network divides edges by. Raises ConfigurationError for parameters that make no sense."""
    try:
        size = UNITS[network](parameters)
    except TypeError as error:
        raise ConfigurationError(f"network {network!r} with {dict(parameters)!r}: {error}") from None
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        where = f"network {network!r} with {dict(parameters)!r}"
        raise ConfigurationError(f"{where} divides edges by {size!r}; allowed is a whole number from 1 on")
    return size


def build_network(config: TrainerConfig, channels: int, classes: int, resolution: int) -> nn.Module:
    """The configured network for images (resolution, resolution, channels); weights follow MLX's random state.

    Raises ConfigurationError for an unknown network or architecture parameter.
    """
    if config.network not in NETWORKS:
        raise ConfigurationError(f"network {config.network!r}; allowed: {', '.join(NETWORKS)}")
    parameters: dict[str, Any] = {**config.model, **config.fixed}
    try:
        return NETWORKS[config.network](config, channels, classes, resolution, **parameters)
    except TypeError as error:
        raise ConfigurationError(f"network {config.network!r} with {', '.join(parameters)}: {error}") from error
