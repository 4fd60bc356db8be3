"""The networks that a training can be told to use, by name: every one is called F(x, c_noise, label)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.nn as nn

from autotuner.diffusion.config import TrainerConfig
from autotuner.diffusion.dit import DiT
from autotuner.diffusion.published import captioned_unet, dit_2d, unet_2d
from autotuner.diffusion.unet import UNet
from autotuner.errors import ConfigurationError

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
