"""``python -m autotuner.diffusion train|sample``: parse, build, run; the only place of the engine that prints."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autotuner.errors import AutotunerError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except AutotunerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m autotuner.diffusion", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="command")
    train = commands.add_parser("train", help="train a diffusion model and a few-step student of it")
    train.set_defaults(command=_train)
    train.add_argument("--out", type=Path, required=True, help="directory for previews, grids, checkpoint and result.json")
    train.add_argument("--data", type=Path, help="folder of pictures or of idx files; default: Fashion-MNIST")
    train.add_argument("--preset", default="fashion-tiny")
    train.add_argument("--name", help="name of the run; default: the preset's")
    train.add_argument("--seconds", type=float, help="wall time of the training, evaluations included")
    train.add_argument("--steps", type=int, help="end after this many optimizer steps, if that comes first")
    train.add_argument("--seed", type=int)
    train.add_argument("--width", type=int)
    train.add_argument("--depth", type=int)
    train.add_argument("--mlp-ratio", type=int)
    train.add_argument("--learning-rate", type=float)
    train.add_argument("--micro-batch", type=int, help="images a forward pass to start with")
    train.add_argument("--resolution", type=int, help="edge length to start with")
    train.add_argument("--state-dir", type=Path, help="state directory of the daemon")
    train.add_argument("--no-hook", action="store_true", help="do not tell any daemon of this run")
    train.add_argument("--injected", type=Path, help="file with a scripted machine state that slows this run down")
    train.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    train.add_argument("--keep-architecture", action="store_true", help="do not build what the search proposes")
    check = commands.add_parser("check", help="say which images and which BLAS a training would use")
    check.set_defaults(command=_check)
    check.add_argument("--data", type=Path, help="folder of pictures or of idx files; default: Fashion-MNIST")
    sample = commands.add_parser("sample", help="draw images from a checkpoint")
    sample.set_defaults(command=_sample)
    sample.add_argument("checkpoint", type=Path)
    sample.add_argument("--out", type=Path, required=True, help="PNG to write")
    sample.add_argument("--who", choices=("teacher", "student"), default="teacher")
    sample.add_argument("--steps", type=int, default=16)
    sample.add_argument("--count", type=int, default=32)
    sample.add_argument("--seed", type=int, default=3)
    return top


def _train(options: argparse.Namespace) -> int:
    from autotuner.diffusion import checkpoint, data, launch, presets, result
    from autotuner.diffusion.blas import status
    from autotuner.diffusion.injection import Injection
    from autotuner.diffusion.trainer import Trainer

    dataset = data.find(options.data)
    config = _configured(presets.find(options.preset), dataset, options)
    config, run = _attached(config, dataset, options)
    options.out.mkdir(parents=True, exist_ok=True)
    print(f"{dataset.origin}; {status().sentence}")
    injection = Injection(options.injected) if options.injected else None
    with run:
        trainer = Trainer(config, dataset, run, out=options.out, injection=injection)
        if options.resume:
            checkpoint.restore(trainer, options.out / checkpoint.FILE_NAME)
        print(f"{config.name}: {trainer.stages.teacher.layout.size:,} parameters {config.model}, from step {trainer.step}")
        signal.signal(signal.SIGTERM, lambda *_: trainer.stop())
        launch.drive(trainer, options.out / checkpoint.FILE_NAME, _show)
        if trainer.budget_used < 1:
            run.close("interrupted")
            print(f"stopped at step {trainer.step}; --resume continues")
            return 1
        document = result.conclude(trainer, options.out)
    qualities = ", ".join(f"{row['who']} {row['steps']} steps {row['quality']:.1f}" for row in document["final_qualities"])
    value = document["quality_floor"]
    floor = f"real images: {value:.1f}" if value == value else "too few held-out images to say what real ones have"
    print(f"{document['steps']} steps, held-out loss {document['held_out_loss']:.4f}")
    print(f"{document['quality_metric']} ({floor}): {qualities}")
    return 0


def _configured(config: Any, dataset: Any, options: argparse.Namespace) -> Any:
    """The preset with the options in force; the architecture comes first, because the resolution ladder follows it."""
    from autotuner.diffusion import presets

    given = {name: getattr(options, name) for name in ("width", "depth", "mlp_ratio")}
    model = {**config.model, **{name: value for name, value in given.items() if value is not None}}
    names = ("name", "seconds", "steps", "seed", "learning_rate", "micro_batch", "resolution")
    chosen = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return replace(presets.fitted(replace(config, model=model), dataset), **chosen)


def _attached(config: Any, dataset: Any, options: argparse.Namespace) -> tuple[Any, Any]:
    from autotuner.diffusion import checkpoint, launch
    from autotuner.diffusion.inert import NoRun

    if options.no_hook:
        return config, NoRun()
    planned = config
    config, run = launch.attached(
        config,
        dataset,
        state_directory=options.state_dir,
        keep_architecture=options.keep_architecture,
        resumed=options.out / checkpoint.FILE_NAME if options.resume else None,
    )
    if config != planned:
        print(f"{'the checkpoint has' if options.resume else 'the search proposes'} {config.model}")
    return config, run


def _show(progress: Any) -> None:
    if progress.evaluation is not None:
        print(_line(progress), flush=True)


def _line(progress: Any) -> str:
    evaluation = progress.evaluation
    quality = "" if evaluation.quality != evaluation.quality else f"  {evaluation.quality_of} quality {evaluation.quality:.1f}"
    return (
        f"{progress.seconds:7.1f} s  step {progress.step:6d}  {progress.resolution} px x {progress.micro_batch}"
        f"  stage {progress.stage}  loss {progress.loss:.4f}  held out {evaluation.held_out_loss:.4f}{quality}"
    )


def _check(options: argparse.Namespace) -> int:
    from autotuner.diffusion import data
    from autotuner.diffusion.blas import status

    print(f"images: {data.find(options.data).origin}\nmatrix products: {status().sentence}")
    return 0


def _sample(options: argparse.Namespace) -> int:
    from autotuner.diffusion import checkpoint
    from autotuner.diffusion.sample import save_grid

    images = checkpoint.samples(options.checkpoint, options.who, options.steps, options.count, options.seed)
    save_grid(images, str(options.out))
    print(f"{options.count} images of the {options.who} in {options.steps} steps: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
