"""One LoRA training step and one guided sampling step of the full Stable Diffusion 1.5 U-Net: seconds and peak memory.

Run: ``python benchmarks/stable_diffusion_step.py`` (several minutes, 6 GiB); ``--pixels 256 512`` adds the larger size. Weights
are random and made in memory; each row is a process of its own, and results are evaluated before the clock stops. A step is
one picture with its caption: 860 million frozen weights, A and B of rank 8 on all attention projections. In half precision the
network computes in it, while A, B and their moments are kept in float32, as ``training.precision`` does. The sampling step is
one noise level of one picture with guidance, which is two pictures through the network. Peaks are MLX's own count of bytes;
processor seconds are those of the process, and the ones to read where a machine is shared. ``--tiny`` runs every row on a
network of 200,000 weights within seconds: it shows that the rows run and nothing else.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "tests" / "fixtures" / "diffusers" / "stable-diffusion-1.5-unet" / "config.json"
RANK, WORDS, REDUCTION = 8, 77, 8
KINDS = ("training", "training, blocks recomputed", "sampling")
DTYPES = ("float32", "bfloat16", "float16")
TINY = {
    "block_out_channels": [16, 32],
    "norm_num_groups": 4,
    "cross_attention_dim": 16,
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "sample_size": 8,
}


def build(dtype: str, tiny: bool) -> Any:
    from mlx.utils import tree_flatten

    from autotuner.diffusion.blas import mx
    from autotuner.diffusion.models.unet_2d_condition import UNet2DConditionModel

    mx.random.seed(0)
    unet = UNet2DConditionModel(TINY if tiny else json.loads(CONFIG.read_text()))
    unet.set_dtype(getattr(mx, dtype))
    mx.eval(unet.parameters())
    return unet, sum(array.size for _, array in tree_flatten(unet.parameters()))


def train(unet: Any, edge: int, dtype: str, recompute: bool, repeats: int) -> list[tuple[float, float, int]]:
    from autotuner.diffusion import lora
    from autotuner.diffusion.blas import mx
    from autotuner.diffusion.loss import WEIGHTINGS, denoising_errors
    from autotuner.diffusion.precondition import Denoiser
    from autotuner.diffusion.published import Captioned
    from autotuner.diffusion.scheduler import Scheduler
    from autotuner.diffusion.step import Learner, Rule
    from autotuner.diffusion.text_conditioning import Condition

    lora.add(unet, RANK)
    unet.gradient_checkpointing = recompute
    captions = Condition(mx.random.normal((2, WORDS, unet.config["cross_attention_dim"])))
    denoiser = Denoiser(Captioned(unet, captions, Path()), 1.0, Scheduler().process)

    def errors(module: Any, images: Any, labels: Any, noise: Any, sigma: Any) -> Any:
        return denoising_errors(module, images, labels, noise, sigma, WEIGHTINGS["uniform"])

    learner = Learner(denoiser, errors, rule=Rule(precision=dtype))
    latents, noise = (mx.random.normal((1, edge, edge, 4)) for _ in range(2))
    arrays = (mx.ones((1,)), latents, mx.array([0]), noise, mx.array([1.5]))
    mx.eval(arrays, learner.state)

    def step() -> None:
        learner.accumulate(1.0, *arrays)
        applied = learner.apply(1e-4, 0.99)
        mx.eval(applied, learner.state)
        assert bool(applied.finite) or dtype == "float16"  # whose loss scale may still be falling: the work is the same

    return timed(step, repeats)


def sample(unet: Any, edge: int, repeats: int) -> list[tuple[float, float, int]]:
    from functools import partial

    from autotuner.diffusion.blas import mx
    from autotuner.diffusion.scheduler import Scheduler
    from autotuner.diffusion.solvers import SOLVERS
    from autotuner.diffusion.stable_diffusion import StableDiffusion
    from autotuner.diffusion.text_conditioning import Condition

    nothing: Any = None  # a step touches neither autoencoder nor text encoder
    pipeline = StableDiffusion(unet, nothing, nothing, Scheduler())
    condition = Condition(mx.random.normal((2, WORDS, unet.config["cross_attention_dim"])))
    x = mx.random.normal((1, edge, edge, 4))
    mx.eval(x, condition.context)
    denoise = partial(pipeline.denoise, condition, 7.5)
    return timed(lambda: mx.eval(SOLVERS["euler"](denoise, x, [1.5, 1.4])), repeats)


def timed(step: Any, repeats: int) -> list[tuple[float, float, int]]:
    """(seconds, processor seconds, peak bytes) of each repeat."""
    from autotuner.diffusion.blas import mx

    rows = []
    for _ in range(repeats):
        mx.reset_peak_memory()
        began, used = time.perf_counter(), time.process_time()
        step()
        rows.append((time.perf_counter() - began, time.process_time() - used, mx.get_peak_memory()))
    return rows


def measure(kind: str, edge: int, dtype: str, repeats: int, tiny: bool = False) -> dict[str, Any]:
    unet, weights = build(dtype, tiny)
    bytes_each = unet.conv_in.weight.dtype.size
    rows = sample(unet, edge, repeats) if kind == "sampling" else train(unet, edge, dtype, "recomputed" in kind, repeats)
    return {
        "kind": kind,
        "dtype": dtype,
        "pixels": edge * REDUCTION,
        "seconds": min(row[0] for row in rows),
        "processor_seconds": min(row[1] for row in rows),
        "peak_gib": max(row[2] for row in rows) / 2**30,
        "weights_gib": weights * bytes_each / 2**30,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pixels", type=int, nargs="+", default=[256])
    parser.add_argument("--dtype", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--tiny", action="store_true", help="a network of 200,000 weights: do the rows run?")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        print(json.dumps(measure(*json.loads(arguments.row))))
        return
    print(f"command: python benchmarks/stable_diffusion_step.py {' '.join(sys.argv[1:])}".rstrip())
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"machine: {platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, load average {load}")
    print(f"versions: Python {platform.python_version()}, MLX {version('mlx')}; one BLAS thread")
    print("TINY network\n" if arguments.tiny else "")
    print(f"{'step':<30}{'dtype':<10}{'pixels':>8}{'seconds':>10}{'processor':>11}{'peak GiB':>10}{'of it weights':>15}")
    rows = []
    for pixels, dtype, kind in itertools.product(arguments.pixels, arguments.dtype, KINDS):
        told = json.dumps([kind, pixels // REDUCTION, dtype, arguments.repeats, arguments.tiny])
        ran = subprocess.run([sys.executable, __file__, "--row", told], stdout=subprocess.PIPE, text=True, check=True)
        row = json.loads(ran.stdout)
        rows.append(row)
        shown = f"{row['seconds']:>10.1f}{row['processor_seconds']:>11.1f}{row['peak_gib']:>10.2f}{row['weights_gib']:>15.2f}"
        print(f"{kind:<30}{dtype:<10}{pixels:>8}{shown}", flush=True)
    print("\n" + json.dumps({"stable_diffusion_step": rows}))


if __name__ == "__main__":
    main()
