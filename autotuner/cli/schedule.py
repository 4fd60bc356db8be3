"""``autotuner schedule CONFIG``: learn samplers of few evaluations for what a training has reached, and save what they beat."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from autotuner.cli import OK
from autotuner.cli.output import add_json, words_aside
from autotuner.cli.train import add_recipe, not_negative, positive, recipe_of

if TYPE_CHECKING:
    from autotuner.diffusion.adaptive.build import Adapted
    from autotuner.diffusion.schedules.build import Built

STEPS = (4, 6, 8)


class Made(NamedTuple):
    """What was learned for one number of evaluations, and where it lies."""

    built: Built
    path: Path
    adapted: Adapted | None
    adapted_path: Path | None
    """None where it was not kept."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_recipe(parser)
    add_json(parser, "words to standard error, and one JSON document at the end")
    parser.add_argument(
        "--steps",
        type=positive,
        nargs="+",
        default=STEPS,
        metavar="N",
        help="network evaluations of each image (default: 4 6 8)",
    )
    parser.add_argument("--seconds", type=float, default=120.0, metavar="S", help="time to spend, about (default: %(default)s)")
    parser.add_argument(
        "--noises", type=positive, metavar="N", help="pairs of each set, no deadline then (default: what the time affords)"
    )
    parser.add_argument(
        "--adaptive",
        action="store_true",
        help="then let each sample's own path correct it; half as long again, beyond --seconds",
    )
    parser.add_argument("--seed", type=not_negative, default=0, help="another seed draws other noises (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Learn, judge and save; print the ladder of each number of evaluations."""
    with words_aside(arguments) as tell:
        tell({"learned": [_document(made) for made in _learn(arguments)]})
    return OK


def _document(made: Made) -> dict[str, Any]:
    verdicts = made.built.verdicts
    rungs = [{"name": v.rung.name, "error": float(v.rung.error), "kept": v.kept, "why": v.why} for v in verdicts]
    document = {"evaluations": made.built.evaluations, "file": made.path, "rungs": rungs}
    if made.adapted is not None:
        gain = asdict(made.adapted.gain)
        document["adaptive"] = {"error": made.adapted.error, "gain": gain, "file": made.adapted_path}
    return document


def _learn(arguments: argparse.Namespace) -> list[Made]:
    from autotuner.diffusion import betas, checkpoint
    from autotuner.diffusion.adaptive.build import adapt
    from autotuner.diffusion.schedules import artefact, build, latency
    from autotuner.diffusion.schedules.learn import Effort

    out, evaluations = recipe_of(arguments).out, sorted(set(arguments.steps))
    denoiser, config, shape, classes = checkpoint.sampler(out / checkpoint.FILE_NAME, "teacher", evaluations[0])
    pace = latency.measure(denoiser, shape, build.FEWEST)
    count = arguments.noises or build.affordable(arguments.seconds, pace.seconds / pace.count, evaluations)
    efforts = [Effort()] * len(evaluations)
    if arguments.noises is None:
        efforts = build.shares(Effort(), arguments.seconds, evaluations)
    print(f"{count} noises to learn from, {count} to choose with, {count} to judge by")
    network = artefact.identify(denoiser)
    timesteps = betas.sigmas(config.beta_schedule) if config.process.startswith("vp_") else None
    sets = build.draw_sets(denoiser, shape, classes, count, *config.levels, arguments.seed)
    learned = []
    for each, effort in zip(evaluations, efforts, strict=True):
        built = build.build(denoiser, sets, each, effort)
        path = artefact.save(built.saved(network), out, timesteps)
        print("\n".join([*lines(built), f"  saved {path}"]))
        adapted = adapt(denoiser, sets, built.best, classes) if arguments.adaptive else None
        saved = adapted.save(network, out) if adapted and adapted.kept else None
        if adapted:
            print("\n".join(adaptive_lines(adapted, saved)))
        learned.append(Made(built, Path(path), adapted, saved))
    return learned


def adaptive_lines(adapted: Adapted, saved: Path | None) -> list[str]:
    """What each sample's own path brings, and whether it was kept."""
    gain = f"{100 * adapted.gain.value:.1f} % lower ({100 * adapted.gain.low:.1f} to {100 * adapted.gain.high:.1f})"
    kept = "kept  " if saved else "left  "
    told = [f"  adaptive  {kept}{adapted.error:.4f}  corrected by each sample's own path; error {gain}"]
    return [*told, f"  saved {saved}; autotuner sample --adaptive draws with it"] if saved else told


def lines(built: Built) -> list[str]:
    """The ladder as text: each level with its paired error and what became of it."""
    told = [f"{built.evaluations} evaluations, {len(built.best.squares)} noises: paired error, pixels in [-1, 1]"]
    for verdict in built.verdicts:
        mark = "kept  " if verdict.kept else "left  "
        told.append(f"  {verdict.rung.level}  {mark}{verdict.rung.error:.4f}  {verdict.rung.name}; {verdict.why}")
    return told
