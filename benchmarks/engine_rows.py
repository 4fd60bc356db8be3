"""What benchmarks/engine.py compares: each engine builds the same model, a training step and a sampler; and the clock for all.

Every engine is imported in the function that needs it: a row must not find another's BLAS in its process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

EDGE, CHANNELS, CLASSES, BATCH, TIMES = 32, 3, 10, 8, 1000
WIDTH, DEPTH, HEADS, PATCH = 128, 8, 4, 4
LEVELS = (32, 64, 128)
SAMPLING_STEPS = 5
LEARNING_RATE, AVERAGE_DECAY, MAX_NORM = 1e-4, 0.999, 1.0

DIT_CONFIG: dict[str, Any] = {
    "num_attention_heads": HEADS,
    "attention_head_dim": WIDTH // HEADS,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "num_layers": DEPTH,
    "sample_size": EDGE,
    "patch_size": PATCH,
    "num_embeds_ada_norm": CLASSES,
}
UNET_CONFIG: dict[str, Any] = {
    "sample_size": EDGE,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "block_out_channels": LEVELS,
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    "attention_head_dim": LEVELS[-1] // HEADS,
}


@dataclass(frozen=True)
class Row:
    """One engine's work on one model. Each piece of work returns every array that it is to bring about."""

    parameters: int
    train: Callable[[], Any]
    """One step: noise, loss, gradient clipped to MAX_NORM, AdamW, moving average."""
    sample: Callable[[], Any]
    """BATCH images in SAMPLING_STEPS of DDIM."""
    evaluate: Callable[[Any], None]
    """Wait until all arrays of a result are there; TypeError when it holds none."""
    parts: dict[str, Callable[[], Any]] = field(default_factory=dict)
    """Pieces of a training step, to see where the time goes."""
    facts: Callable[[], dict[str, float]] = dict
    """What else is known once the row has run."""


def timed(work: Callable[[], Any], evaluate: Callable[[Any], None], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds until the result of ``work`` is there: the only clock of this benchmark.

    The clock stops after ``evaluate``, so that a lazy graph is computed before it is counted; work that returns no array
    could be anything, and is refused with the TypeError of ``evaluate``.
    """
    began = clock()
    evaluate(work())
    return clock() - began


def evaluate_mlx(result: Any) -> None:
    """Compute all arrays in a tree and wait for the device."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    arrays = [leaf for _, leaf in tree_flatten(result) if isinstance(leaf, mx.array)]
    if not arrays:
        raise TypeError(f"the timed work returned {type(result).__name__} without an array; allowed are trees of arrays")
    mx.eval(arrays)
    mx.synchronize()


def evaluate_torch(result: Any) -> None:
    """Torch on a CPU is done when it returns; refuse what is no tensor."""
    import torch

    if not isinstance(result, torch.Tensor):
        raise TypeError(f"the timed work returned {type(result).__name__}; allowed is a tensor")


def ours(family: str, own: bool = False) -> Row:
    """This project: its training step with its own data path, its sampler, and diffusers' architecture or its own DiT."""
    from autotuner.diffusion.blas import mx  # isort: skip  (before mlx.nn)
    import mlx.nn as nn
    import numpy as np

    from autotuner.diffusion.data import Dataset, Prefetch
    from autotuner.diffusion.dit import DiT
    from autotuner.diffusion.models.dit_transformer_2d import DiTTransformer2DModel
    from autotuner.diffusion.models.unet_2d import UNet2DModel
    from autotuner.diffusion.solvers import ddim
    from autotuner.diffusion.step import Learner, Pending

    mx.random.seed(0)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (4096, EDGE, EDGE, CHANNELS), dtype=np.uint8)
    marks = (np.arange(4096) % CLASSES).astype(np.int32)
    dataset = Dataset("noise", "made here", pixels, marks, pixels[:64], marks[:64])
    feed = Prefetch(lambda first: dataset.batch(first, BATCH, 0, EDGE), lambda first: first + BATCH)
    if own:
        network: Any = DiT(CHANNELS, CLASSES, EDGE, WIDTH, DEPTH, HEADS, 4, PATCH, "softmax")
    else:
        network = UNet2DModel(UNET_CONFIG) if family == "unet" else DiTTransformer2DModel(DIT_CONFIG)
    kept = mx.cumprod(1 - mx.linspace(1e-4, 2e-2, TIMES))
    levels = mx.sqrt((1 - kept) / kept)
    mx.eval(kept, levels)

    def predict(model: Any, noisy: Any, when: Any, labels: Any) -> Any:
        if family == "unet":
            return model(noisy, when)
        return model(noisy, when / TIMES if own else when, labels)

    def errors(model: Any, noisy: Any, when: Any, labels: Any, noise: Any) -> Any:
        return mx.mean(mx.square(predict(model, noisy, when, labels) - noise), axis=(1, 2, 3))

    learner = Learner(network, errors)
    position, seconds = [0], [0.0]

    def batch() -> tuple[Any, ...]:
        given = feed.take(position[0])
        position[0] += BATCH
        images = mx.array(given.images).astype(mx.float32) / 127.5 - 1
        when, noise = mx.random.randint(0, TIMES, (BATCH,)), mx.random.normal(images.shape)
        share = kept[when][:, None, None, None]
        return mx.sqrt(share) * images + mx.sqrt(1 - share) * noise, when, mx.array(given.labels), noise

    ones = mx.ones((BATCH,))

    def train() -> Any:
        began = time.perf_counter()
        learner.accumulate(1.0, ones, *batch())
        applied = learner.apply(LEARNING_RATE, AVERAGE_DECAY)
        evaluate_mlx((applied, learner.state))
        seconds[0] += time.perf_counter() - began
        return applied, learner.state

    def denoise(x: Any, sigma: Any) -> Any:
        when = mx.broadcast_to(mx.argmin(mx.abs(levels - sigma[0])), (BATCH,))
        return x - sigma[0] * predict(network, x / mx.sqrt(1 + mx.square(sigma[0])), when, labels)

    labels = mx.array(marks[:BATCH])
    walk = [*(float(levels[t].item()) for t in range(TIMES - TIMES // SAMPLING_STEPS, -1, -TIMES // SAMPLING_STEPS)), 0.0]
    fixed = batch()
    mx.eval(fixed)
    gradient = nn.value_and_grad(network, lambda model: mx.mean(errors(model, *fixed)))

    def update() -> Any:
        learner.pending = Pending(learner.state.weights * 1e-3, mx.array(0.0))
        return learner.apply(0.0, 1.0), learner.state

    def facts() -> dict[str, float]:
        mx.synchronize()
        mx.reset_peak_memory()
        train()
        return {
            "peak_mib": mx.get_peak_memory() / 2**20,
            "state_mib": 5 * 4 * learner.layout.size / 2**20,
            "data_wait_percent": 100 * feed.wait_seconds / seconds[0],
        }

    return Row(
        parameters=learner.layout.size,
        train=train,
        sample=lambda: ddim(denoise, mx.random.normal((BATCH, EDGE, EDGE, CHANNELS)) * walk[0], walk),
        evaluate=evaluate_mlx,
        parts={
            "data": batch,
            "forward": lambda: errors(network, *fixed),
            "forward and backward": gradient_of(gradient, network),
            "optimizer": update,
        },
        facts=facts,
    )


def gradient_of(gradient: Callable[..., Any], network: Any) -> Callable[[], Any]:
    return lambda: gradient(network)


def mlx_diffuser(family: str, *, as_installed: bool, compiled: bool) -> Row:
    """mlx-diffuser's models, trainer and DDIM; with this project's BLAS unless ``as_installed``. Its batch is already there."""
    if not as_installed:
        from autotuner.diffusion import blas  # noqa: F401  loads OpenBLAS before MLX
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_diffuser.models.dit import DiT, DiTConfig
    from mlx_diffuser.models.unet2d import UNet2D, UNet2DConfig
    from mlx_diffuser.schedulers.ddim import DDIMConfig, DDIMScheduler
    from mlx_diffuser.training.trainer import DiffusionTrainer

    mx.random.seed(0)
    model: Any
    if family == "unet":
        model = UNet2D(
            UNet2DConfig(
                in_channels=CHANNELS,
                out_channels=CHANNELS,
                block_out_channels=LEVELS,
                layers_per_block=1,
                attention_levels=(False, False, True),
                num_heads=HEADS,
            )
        )
    else:
        model = DiT(
            DiTConfig(
                in_channels=CHANNELS,
                patch_size=PATCH,
                hidden_size=WIDTH,
                depth=DEPTH,
                num_heads=HEADS,
                num_classes=CLASSES,
            )
        )
    scheduler = DDIMScheduler(DDIMConfig())
    trainer = DiffusionTrainer(
        model, scheduler, lr=LEARNING_RATE, weight_decay=0.01, grad_clip=MAX_NORM, ema_decay=AVERAGE_DECAY, compile=compiled
    )
    images = mx.random.uniform(-1, 1, (BATCH, EDGE, EDGE, CHANNELS))
    labels = mx.arange(BATCH) % CLASSES
    mx.eval(images, labels, model.parameters())

    def train() -> Any:
        loss = trainer.step(images, labels)
        return loss, model.parameters(), trainer.ema.shadow, trainer.optimizer.state

    def sample() -> Any:
        scheduler.set_timesteps(SAMPLING_STEPS)
        x = mx.random.normal(images.shape)
        for t in scheduler.timesteps:
            when = mx.broadcast_to(t, (BATCH,))
            x = scheduler.step(model(x, when) if family == "unet" else model(x, when, labels), t, x)
            mx.eval(x)
        return x

    size = sum(array.size for _, array in tree_flatten(model.parameters()))

    def facts() -> dict[str, float]:
        mx.reset_peak_memory()
        evaluate_mlx(train())
        return {"peak_mib": mx.get_peak_memory() / 2**20}

    return Row(size, train, sample, evaluate_mlx, facts=facts)


def torch_diffusers(family: str) -> Row:
    """diffusers' models on torch, one thread, channels first; its batch is already there."""
    import torch
    from diffusers import DDIMScheduler, DiTTransformer2DModel, UNet2DModel

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model: Any = UNet2DModel(**UNET_CONFIG) if family == "unet" else DiTTransformer2DModel(**DIT_CONFIG)
    weights = list(model.parameters())
    average = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=0.01)
    scheduler = DDIMScheduler(TIMES, clip_sample=False)
    images = torch.rand((BATCH, CHANNELS, EDGE, EDGE)) * 2 - 1
    labels = torch.arange(BATCH) % CLASSES

    def predict(x: Any, when: Any) -> Any:
        return model(x, when).sample if family == "unet" else model(x, when, class_labels=labels).sample

    def loss() -> Any:
        noise, when = torch.randn_like(images), torch.randint(0, TIMES, (BATCH,))
        return torch.nn.functional.mse_loss(predict(scheduler.add_noise(images, noise, when), when), noise)

    def train() -> Any:
        model.train()
        optimizer.zero_grad()
        value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(weights, MAX_NORM)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, weights, 1 - AVERAGE_DECAY)
        return value.detach()

    @torch.no_grad()
    def sample() -> Any:
        model.eval()
        scheduler.set_timesteps(SAMPLING_STEPS)
        x = torch.randn_like(images)
        for t in scheduler.timesteps:
            x = scheduler.step(predict(x, t.expand(BATCH)), t, x).prev_sample
        return x

    def facts() -> dict[str, float]:
        """Bytes that torch's autograd keeps for the backward pass, each storage once, without the weights."""
        own, kept = {weight.untyped_storage().data_ptr() for weight in weights}, {}

        def pack(tensor: Any) -> Any:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        model.train()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            value = loss()
        del value
        return {"activations_mib": sum(kept.values()) / 2**20}

    return Row(sum(weight.numel() for weight in weights), train, sample, evaluate_torch, facts=facts)


ROWS: dict[str, Callable[[str], Row]] = {
    "ours": ours,
    "mlx-diffuser": lambda family: mlx_diffuser(family, as_installed=False, compiled=False),
    "torch": torch_diffusers,
    "ours, own DiT": lambda family: ours(family, own=True),
    "mlx-diffuser as installed": lambda family: mlx_diffuser(family, as_installed=True, compiled=True),
    "ours, compiled": ours,
    "mlx-diffuser, compiled": lambda family: mlx_diffuser(family, as_installed=False, compiled=True),
}
"""How each row of the table is made from the family of its model, "dit" or "unet"."""
