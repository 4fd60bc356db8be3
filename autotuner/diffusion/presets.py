"""Named starting points, and how one is fitted to the images at hand."""

from __future__ import annotations

import logging
from dataclasses import replace

from autotuner.diffusion.config import TrainerConfig
from autotuner.diffusion.data import Dataset
from autotuner.errors import ConfigurationError

log = logging.getLogger(__name__)

PRESETS: dict[str, TrainerConfig] = {
    # Held-out loss by peak rate, one seed of 450 steps, last measured at step 388 or later: 3e-3 .313, 6e-3 .302, 9e-3 .295,
    # 1.2e-2 .290, 1.8e-2 .284, 3e-2 .300. After 600 steps at 1.2e-2 a warm-up of .02 leaves .277 and .274 (two seeds), one
    # of .08 .267 and .269, and 1.8e-2 is then no better.
    "fashion-tiny": TrainerConfig(
        name="fashion-tiny",
        model={"width": 64, "depth": 3, "mlp_ratio": 2},
        learning_rate=1.2e-2,
        warm_up=0.08,
    ),
    "fashion-small": TrainerConfig(
        name="fashion-small",
        model={"width": 128, "depth": 6, "mlp_ratio": 3},
        fixed={"heads": 4, "patch": 4, "attention": "softmax"},
        learning_rate=2e-3,
        seconds=1800.0,
    ),
    "stable-diffusion-lora": TrainerConfig(
        name="stable-diffusion-lora",
        network="stable_diffusion",
        model={},
        fixed={"adapter": "lora", "rank": 8},
        batch=4,
        micro_batch=1,
        micro_batches=(1, 2, 4),
        seconds=3600.0,
        learning_rate=1e-4,
        weighting="min_snr",
        student_ladder=(),
        half_life_images=500,
        gradient_checkpointing=True,
        held_out_images=32,
        quality_images=16,
        quality_steps=8,
        paired_images=0,
    ),
    "unet-tiny": TrainerConfig(name="unet-tiny", network="unet", model={"width": 16, "depth": 3}, fixed={}, learning_rate=1e-3),
}
"""``fashion-tiny`` is for one CPU core and minutes, ``fashion-small`` for half an hour or a GPU; Stable Diffusion needs one."""

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


def fitted(config: TrainerConfig, dataset: Dataset, resolutions: tuple[int, ...] | None = None) -> TrainerConfig:
    """The configuration with a resolution ladder for the images, on multiples of what the network divides them by.

    ``resolutions`` takes the place of that ladder. Raises ConfigurationError for images that the network cannot divide.
    """
    size, full = config.unit, dataset.resolution
    if full % size:
        raise ConfigurationError(f"images of {full} pixels; this network needs a multiple of {size}")
    if resolutions is None:
        resolutions = tuple(sorted({max(size, round(full * share / size) * size) for share in LADDER_SHARES}))
        if len(resolutions) == 1:
            log.warning("resolution_ladder rungs=%s unit=%d why=pictures_too_small: the knob has one value", resolutions, size)
    return replace(config, resolution=full, resolutions=resolutions)
