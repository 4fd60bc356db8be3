"""Stable Diffusion out of a folder of diffusers: text to image, image to image, and its adapters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from autotuner.diffusion import latents, lora
from autotuner.diffusion.blas import mx
from autotuner.diffusion.models.autoencoder_kl import AutoencoderKL
from autotuner.diffusion.models.unet_2d_condition import UNet2DConditionModel
from autotuner.diffusion.models.weights import load
from autotuner.diffusion.scheduler import PUBLISHED, Scheduler
from autotuner.diffusion.solvers import SOLVERS, Watch, unwatched
from autotuner.diffusion.text_conditioning import Condition, TextConditioning, pipeline_class
from autotuner.errors import ConfigurationError


class StableDiffusion:
    """A pipeline's networks and what it says of its noise; latents are standardised and channels come last."""

    def __init__(self, unet: UNet2DConditionModel, vae: AutoencoderKL, text: TextConditioning, scheduler: Scheduler) -> None:
        self.unet, self.vae, self.text, self.scheduler = unet, vae, text, scheduler

    @classmethod
    def load(cls, folder: str | Path, dtype: mx.Dtype = mx.float32, *, variant: str | None = None) -> StableDiffusion:
        """Read a folder that diffusers saved; the U-Net in ``dtype``, the small networks always in float32.

        ``variant`` picks files such as `diffusion_pytorch_model.fp16.safetensors`. Raises ConfigurationError for another
        pipeline or one with parts that are not implemented, WeightsError for damaged weights.
        """
        folder = Path(folder)
        pipeline_class(folder)
        unet = load(UNet2DConditionModel, folder / "unet", variant=variant, dtype=dtype)
        vae = load(AutoencoderKL, folder / "vae", variant=variant)
        found = cls(unet, vae, TextConditioning.load(folder, variant), Scheduler.load(folder / "scheduler"))
        channels = vae.config["latent_channels"]
        unet.config.require(
            unet.config["in_channels"] == channels, "in_channels", f"{channels}, the latents of {folder / 'vae'}"
        )
        return found

    def text_to_image(
        self,
        prompts: Sequence[str],
        negative: str | Sequence[str] = "",
        *,
        steps: int = 30,
        guidance: float = 7.5,
        solver: str = "dpmpp_2m",
        schedule: str = PUBLISHED,
        seed: int = 0,
        height: int | None = None,
        width: int | None = None,
        watch: Watch = unwatched,
    ) -> np.ndarray:
        """uint8 pictures (prompts, height, width, 3); the same seed gives the same noise whatever the rest is.

        ``negative`` is one prompt for all or one for each; ``guidance`` 1 means none (Ho and Salimans 2022, Eq. 6 with w + 1).
        ``solver`` is a row of SOLVERS and ``schedule`` one of ``Scheduler.levels``. ``watch`` sees every step. Height and width
        are pixels, multiples of the autoencoder's reduction. Raises ConfigurationError.
        """
        noise = self.noise(len(prompts), height, width, seed)
        levels = self.scheduler.levels(steps, schedule)
        # Unit variance for the network, as in training: short grids begin where pictures would still show.
        x = noise * math.hypot(1, levels[0])
        return self.decode(self.sample(x, levels, prompts, negative, guidance, solver, watch))

    def image_to_image(
        self,
        images: np.ndarray,
        prompts: Sequence[str],
        negative: str | Sequence[str] = "",
        *,
        strength: float = 0.8,
        steps: int = 30,
        guidance: float = 7.5,
        solver: str = "dpmpp_2m",
        schedule: str = PUBLISHED,
        seed: int = 0,
        watch: Watch = unwatched,
    ) -> np.ndarray:
        """uint8 pictures that begin as ``images`` (uint8, one for each prompt) under noise (Meng et al. 2022, Algorithm 1).

        ``strength`` is the share of the steps that is taken: 1 begins at the highest level. The rest as in ``text_to_image``.
        """
        if not 0 < strength <= 1 or len(images) != len(prompts):
            raise ConfigurationError(
                f"strength {strength}, {len(images)} images for {len(prompts)} prompts; allowed is above 0 to 1, and as many"
            )
        levels = self.scheduler.levels(steps, schedule)
        taken = max(1, int((len(levels) - 1) * strength))
        levels = levels[-taken - 1 :]
        noise = self.noise(len(images), images.shape[1], images.shape[2], seed)
        x = mx.array(self.encode(images)) + levels[0] * noise
        return self.decode(self.sample(x, levels, prompts, negative, guidance, solver, watch))

    def sample(
        self,
        x: mx.array,
        levels: Sequence[float],
        prompts: Sequence[str],
        negative: str | Sequence[str] = "",
        guidance: float = 7.5,
        solver: str = "dpmpp_2m",
        watch: Watch = unwatched,
    ) -> np.ndarray:
        """Latents (prompts, height, width, channels) in the network's own scale at levels[-1].

        ``x`` are latents plus noise of deviation levels[0].
        """
        if solver not in SOLVERS:
            raise ConfigurationError(f"solver {solver!r}; allowed: {', '.join(SOLVERS)}")
        size = (x.shape[1] * self.vae.reduction, x.shape[2] * self.vae.reduction)
        condition = self.condition(prompts, negative, guidance, size)
        x = SOLVERS[solver](partial(self.denoise, condition, guidance), x, levels, watch=watch)
        return np.array(x * self.scheduler.process.c_in(mx.array(levels[-1]), 1.0))

    def condition(
        self, prompts: Sequence[str], negative: str | Sequence[str], guidance: float, size: tuple[int, int]
    ) -> Condition:
        """What the network sees of the text; negative prompts first and everything in one batch, unless guidance is 1."""
        if isinstance(prompts, str) or not prompts:
            raise ConfigurationError(f"prompts {prompts!r}; allowed is a list of one or more")
        negatives = [negative] * len(prompts) if isinstance(negative, str) else list(negative)
        if len(negatives) != len(prompts):
            raise ConfigurationError(f"{len(negatives)} negative prompts for {len(prompts)} prompts; allowed is one or as many")
        return self.text.encode(prompts if guidance == 1 else [*negatives, *prompts], size)

    def denoise(self, condition: Condition, guidance: float, x: mx.array, sigma: mx.array) -> mx.array:
        """D(x, sigma) of noisy latents in the coordinates x = y + sigma n; float32 outside the network."""
        process, level = self.scheduler.process, sigma.reshape(-1, 1, 1, 1)
        seen, timestep = process.c_in(level, 1.0) * x, process.c_noise(sigma)
        repeats = condition.context.shape[0] // x.shape[0]
        predicted = self.predict(mx.concatenate([seen] * repeats), mx.concatenate([timestep] * repeats), condition)
        if repeats == 2:
            without, with_text = mx.split(predicted, 2)
            predicted = without + guidance * (with_text - without)
        return process.c_skip(level, 1.0) * x + process.c_out(level, 1.0) * predicted

    def predict(self, seen: mx.array, timestep: mx.array, condition: Condition) -> mx.array:
        """The U-Net's own output, in float32, computed in its weights' precision."""
        dtype = self.unet.conv_in.weight.dtype
        added = {} if condition.pooled is None else {"text_embeds": condition.pooled, "time_ids": condition.sizes}
        return self.unet(seen.astype(dtype), timestep, condition.context.astype(dtype), **added).astype(mx.float32)

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Standardised latents, the distribution's means, of uint8 pictures (count, height, width, 3), one after another."""
        return latents.encode(self.vae, images)

    def decode(self, standardised: np.ndarray) -> np.ndarray:
        """uint8 pictures of standardised latents, one after another."""
        return latents.decode(self.vae, standardised)

    def noise(self, count: int, height: int | None, width: int | None, seed: int) -> mx.array:
        """Standard normal latents for pictures of so many pixels; None is the size that the model was trained on."""
        reduction = self.vae.reduction
        side = self.unet.config["sample_size"]
        trained = side if isinstance(side, tuple) else (side, side)
        sizes = [
            edge and edge * reduction if size is None else size for size, edge in zip((height, width), trained, strict=True)
        ]
        if any(size is None or size < reduction or size % reduction for size in sizes):
            raise ConfigurationError(f"height {sizes[0]}, width {sizes[1]}; allowed are multiples of {reduction}")
        shape = (count, sizes[0] // reduction, sizes[1] // reduction, self.vae.config["latent_channels"])
        return mx.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))

    def load_adapter(self, source: str | Path) -> list[str]:
        """Put the adapter in a file of diffusers, peft or ``save_adapter`` on the networks; returns the adapted layers."""
        return lora.load(source, {"unet": self.unet, **self.text.encoders})

    def save_adapter(self, folder: str | Path) -> Path:
        """Write the adapters of all networks into one file that diffusers' `load_lora_weights` reads."""
        return lora.save(folder, {"unet": self.unet, **self.text.encoders})
