"""Named starting points, and how one is fitted to the images at hand."""

from __future__ import annotations

from dataclasses import replace

from autotuner.diffusion.config import TrainerConfig
from autotuner.diffusion.data import Dataset
from autotuner.errors import ConfigurationError

PRESETS: dict[str, TrainerConfig] = {
    "fashion-tiny": TrainerConfig(name="fashion-tiny", model={"width": 64, "depth": 3, "mlp_ratio": 2}),
    "fashion-small": TrainerConfig(
        name="fashion-small",
        model={"width": 128, "depth": 6, "mlp_ratio": 3},
        fixed={"heads": 4, "patch": 4, "attention": "softmax"},
        learning_rate=2e-3,
        seconds=1800.0,
    ),
    "unet-tiny": TrainerConfig(name="unet-tiny", network="unet", model={"width": 16, "depth": 3}, fixed={}, learning_rate=1e-3),
}
"""``fashion-tiny`` is for one CPU core and minutes, ``fashion-small`` for half an hour or a GPU."""

SEARCH_SPACE: dict[str, dict[str, list[int]]] = {
    "dit": {"width": [48, 64, 96], "depth": [2, 3, 4, 6], "mlp_ratio": [2, 3, 4]},
    "unet": {"width": [16, 32], "depth": [2, 3]},
}
"""Architectures that a run offers to the search."""

LADDER_SHARES = (0.57, 0.72, 1.0)
"""Edge lengths of the resolution ladder as shares of the images' own."""


def find(name: str) -> TrainerConfig:
    """The preset called ``name``; raises ConfigurationError with the known names."""
    try:
        return PRESETS[name]
    except KeyError:
        raise ConfigurationError(f"preset {name!r}; allowed: {', '.join(PRESETS)}") from None


def fitted(config: TrainerConfig, dataset: Dataset) -> TrainerConfig:
    """The configuration with a resolution ladder for the images, on multiples of what the network divides them by."""
    unit = int(config.fixed.get("patch", 2 ** (int(config.model.get("depth", 1)) - 1)))
    full = dataset.resolution
    if full % unit:
        raise ConfigurationError(f"images of {full} pixels; this network needs a multiple of {unit}")
    ladder = sorted({max(unit, round(full * share / unit) * unit) for share in LADDER_SHARES})
    return replace(config, resolution=full, resolutions=tuple(ladder))
