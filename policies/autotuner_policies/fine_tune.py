"""Recipe: a trained policy, moved a little towards what did well in recorded runs. NumPy, seconds.

``python -m autotuner_policies.fine_tune --artifact DIR --episodes FILE... --output DIR``; episodes are ``autotuner replay``'s.

Advantage-weighted regression (Peng et al. 2019, equation 5: log-likelihood of recorded actions, weighted by exp(advantage /
temperature)), with a bound on the Kullback-Leibler divergence from the artefact. Recorded policies are deterministic, so an
action that was never tried has no evidence, and importance weights cannot give it any: this keeps and repeats, it invents
nothing. With few data the bound is what makes it safe; who wants to ship the result evaluates it like any other.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from autotuner_envs.rewards import WEIGHTS
from numpy.typing import NDArray
from safetensors.numpy import load

from autotuner.controller.actions import ACTIONS
from autotuner.controller.learned import LAYERS, Learned
from autotuner.errors import ArtefactError, AutotunerError
from autotuner.knobs import KNOB_NAMES
from autotuner.replay.episode import NOT_A_POLICY, NOT_IN_TABLE
from autotuner.replay.episode_file import EpisodeFile, read_episodes
from autotuner_policies.export import write

FEWEST_RUNS, FEWEST_DECISIONS = 2, 50
"""Below these a run's luck cannot be told from its decisions."""
BISECTIONS = 30
OF_THE_BASE = ("results", "beats", "loses_to", "default", "training_seeds", "chosen_seed", "recipe", "command", "settings")
"""Entries of a card that speak of the artefact itself, and not of one made from it."""

Array = NDArray[np.float64]
Weights = dict[str, Array]


@dataclass(frozen=True)
class Settings:
    """Every setting of the recipe."""

    gamma: float = 0.995
    """Discount of later rewards, as in training."""
    temperature: float = 0.5
    """Advantages of this many standard deviations weigh e times as much."""
    largest_weight: float = 5.0
    """Weights are clipped here, so that no single decision leads (Peng et al. 2019, section 3.2)."""
    kl_bound: float = 0.02
    """Mean divergence from the artefact over the recorded observations, in nats: the end result never exceeds it."""
    kl_weight: float = 1.0
    """Weight of the same divergence in the loss."""
    ridge: float = 10.0
    """Strength of the ridge regression that predicts returns from observations: few data, smooth baseline."""
    epochs: int = 200
    """Gradient steps, each over all decisions."""
    learning_rate: float = 1e-3
    """Adam's rate."""


@dataclass(frozen=True)
class Data:
    """The decisions that are learned from: those that a policy took, and that were carried out as one action or none."""

    observations: Array
    allowed: NDArray[np.bool_]
    actions: NDArray[np.int64]
    advantages: Array
    """In standard deviations."""
    runs: int


def rewards(columns: dict[str, list[Any]], ways: Array) -> Array:
    """One reward a decision, weighted as in the simulator (``autotuner_envs.rewards``); a term that is unknown counts nothing.

    ``ways`` is ``log(first held-out loss / target)`` of each row's run. The recorded terms lack waiting and sample quality.
    """

    def term(name: str) -> Array:
        return np.nan_to_num(np.asarray(columns[name], dtype=np.float64))

    return (
        WEIGHTS.progress * term("progress") / ways
        - WEIGHTS.pressure * term("pressure_share")
        - WEIGHTS.heat * term("heat_share")
        - WEIGHTS.change * term("changes")
        - WEIGHTS.out_of_memory * term("out_of_memory")
    )


def returns(reward: Array, run: NDArray[np.int64], died: set[int], gamma: float) -> Array:
    """Discounted sums to each run's end; a run that died pays for it at its last decision."""
    result, following, after = np.zeros_like(reward), 0.0, -1
    for i in range(len(reward) - 1, -1, -1):
        if run[i] != after:
            following, after = (-WEIGHTS.killed if int(run[i]) in died else 0.0), int(run[i])
        result[i] = following = reward[i] + gamma * following
    return result


def baseline(observations: Array, values: Array, ridge: float) -> Array:
    """Returns as ridge regression predicts them from observations."""
    x = observations - observations.mean(axis=0)
    level = values.mean()
    slope = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ (values - level))
    return np.asarray(level + x @ slope)


def prepare(files: Sequence[EpisodeFile], base: Learned, settings: Settings) -> Data:
    """One table from all files; raises AutotunerError when it is too small to learn from."""
    runs = [run for file in files for run in file.runs]
    columns: dict[str, list[Any]] = {name: [] for name in files[0].columns}
    first = 0
    for file in files:
        for name in columns:
            columns[name] += [i + first for i in file.columns[name]] if name == "run" else file.columns[name]
        first += len(file.runs)
    ids = [run["run_id"] for run in runs]
    if twice := sorted({run_id for run_id in ids if ids.count(run_id) > 1}):
        raise AutotunerError(f"the episodes hold {', '.join(twice)} more than once")
    run = np.asarray(columns["run"], dtype=np.int64)
    died = {i for i, about in enumerate(runs) if about["outcome"] in ("killed", "failed")}
    reward = rewards(columns, np.array([_way(runs[i]) for i in run]))
    value = returns(reward, run, died, settings.gamma)
    observations = np.asarray(columns["observation"], dtype=np.float64).reshape(len(run), -1)
    actions = np.asarray(columns["asked_action"], dtype=np.int64)
    met = np.array([not action.step or action.knob in base.card.get("knobs", KNOB_NAMES) for action in ACTIONS])
    allowed = np.asarray(columns["mask"], dtype=bool).reshape(len(run), -1) & met
    chosen = np.array([by not in NOT_A_POLICY for by in columns["decided_by"]], dtype=bool) & (actions != NOT_IN_TABLE)
    usable = chosen & allowed[np.arange(len(run)), np.maximum(actions, 0)]
    count = len(set(run[usable].tolist()))
    if count < FEWEST_RUNS or usable.sum() < FEWEST_DECISIONS:
        raise AutotunerError(
            f"{count} runs with {int(usable.sum())} usable decisions; at least {FEWEST_RUNS} and {FEWEST_DECISIONS} are needed"
        )
    advantage = (value - baseline(observations, value, settings.ridge))[usable]
    advantage = (advantage - advantage.mean()) / max(float(advantage.std()), 1e-9)
    return Data(observations[usable], allowed[usable], actions[usable], advantage, count)


def _way(run: dict[str, Any]) -> float:
    """The logarithm of the way to the run's target; 1 for a run that names none, or began below it."""
    first, target = run.get("first_held_out_loss"), run.get("target")
    return max(math.log(first / target), 0.1) if first and target and first > target else 1.0


def weigh(advantages: Array, settings: Settings) -> Array:
    """exp(advantage / temperature), clipped, with mean 1."""
    weights = np.minimum(np.exp(np.minimum(advantages / settings.temperature, 50.0)), settings.largest_weight)
    return np.asarray(weights / weights.mean())


def forward(w: Weights, x: Array, allowed: NDArray[np.bool_]) -> tuple[Array, Array, Array]:
    """Log-probabilities of the allowed actions (-inf elsewhere), and both hidden layers."""
    first = np.tanh(x @ w["pi.0.weight"].T + w["pi.0.bias"])
    second = np.tanh(first @ w["pi.1.weight"].T + w["pi.1.bias"])
    logits = np.where(allowed, second @ w["action.weight"].T + w["action.bias"], -np.inf)
    top = logits.max(axis=1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True)), first, second


def divergence(old: Array, new: Array) -> float:
    """Mean KL(old || new) of two tables of log-probabilities."""
    known = np.isfinite(old)
    return float(
        (np.exp(old, where=known, out=np.zeros_like(old)) * np.where(known, old - np.where(known, new, 0), 0)).sum(1).mean()
    )


def gradient(w: Weights, data: Data, weights: Array, old: Array, kl_weight: float) -> Weights:
    """Of ``-mean(weight x log pi(action)) + kl_weight x mean KL(old || pi)`` by hand: two tanh layers and a softmax."""
    new, first, second = forward(w, data.observations, data.allowed)
    probability, before = np.exp(new), np.exp(old)
    taken = np.zeros_like(probability)
    taken[np.arange(len(data.actions)), data.actions] = 1.0
    at_logits = (weights[:, None] * (probability - taken) + kl_weight * (probability - before)) / len(data.actions)
    at_second = (at_logits @ w["action.weight"]) * (1 - second**2)
    at_first = (at_second @ w["pi.1.weight"]) * (1 - first**2)
    return {
        "action.weight": at_logits.T @ second, "action.bias": at_logits.sum(0),
        "pi.1.weight": at_second.T @ first, "pi.1.bias": at_second.sum(0),
        "pi.0.weight": at_first.T @ data.observations, "pi.0.bias": at_first.sum(0),
    }  # fmt: skip


def learn(base: Weights, data: Data, settings: Settings) -> Weights:
    """Adam on the loss of ``gradient``, then back towards the artefact until the bound holds."""
    weights = weigh(data.advantages, settings)
    old, _, _ = forward(base, data.observations, data.allowed)
    w = {name: array.copy() for name, array in base.items()}
    mean, square = ({name: np.zeros_like(array) for name, array in base.items()} for _ in range(2))
    for step in range(1, settings.epochs + 1):
        for name, slope in gradient(w, data, weights, old, settings.kl_weight).items():
            mean[name] = 0.9 * mean[name] + 0.1 * slope
            square[name] = 0.999 * square[name] + 0.001 * slope**2
            scaled = np.sqrt(square[name] / (1 - 0.999**step)) + 1e-8
            w[name] = w[name] - settings.learning_rate * mean[name] / (1 - 0.9**step) / scaled
    return _within(base, w, data, old, settings.kl_bound)


def _within(base: Weights, w: Weights, data: Data, old: Array, bound: float) -> Weights:
    """``w``, or the point on the way to it at which the bound is reached, in float32 as it is stored."""

    def point(share: float) -> tuple[Weights, float]:
        tried = {n: (base[n] + share * (w[n] - base[n])).astype(np.float32).astype(np.float64) for n in base}
        return tried, divergence(old, forward(tried, data.observations, data.allowed)[0])

    best, found = point(1.0)
    if found <= bound:
        return best
    best, low, high = base, 0.0, 1.0
    for _ in range(BISECTIONS):
        tried, found = point((low + high) / 2)
        if found <= bound:
            best, low = tried, (low + high) / 2
        else:
            high = (low + high) / 2
    return best


def weights_of(artefact: Path) -> dict[str, Array]:
    """Weights and biases of an artefact that is known to be whole, by name."""
    stored = load((artefact / "policy.safetensors").read_bytes())
    names = [f"{layer}.{part}" for layer in LAYERS for part in ("weight", "bias")]
    return {name: np.asarray(stored[name], dtype=np.float64) for name in names}


def fine_tune(artefact: Path, files: Sequence[Path], output: Path, settings: Settings) -> dict[str, Any]:
    """Read, learn, write; returns the card's entry on it. Raises ArtefactError, AutotunerError."""
    if output.resolve() == artefact.resolve():
        raise ArtefactError(f"{output} is the artefact itself; name another directory")
    base = Learned.load(artefact)
    episodes = [read_episodes(path) for path in files]
    data = prepare(episodes, base, settings)
    arrays = weights_of(artefact)
    tuned = learn(arrays, data, settings)
    old, new = (forward(w, data.observations, data.allowed)[0] for w in (arrays, tuned))
    weights = weigh(data.advantages, settings)
    facts = {
        "base_sha256": hashlib.sha256((artefact / "policy.safetensors").read_bytes()).hexdigest(),
        "episodes": [_told(path, file) for path, file in zip(files, episodes, strict=True)],
        "runs": data.runs,
        "decisions": len(data.actions),
        "effective_decisions": round(float(weights.sum() ** 2 / (weights**2).sum()), 1),
        "kl": round(divergence(old, new), 6),
        "same_choice": round(float((old.argmax(1) == new.argmax(1)).mean()), 4),
        "settings": {field.name: getattr(settings, field.name) for field in fields(settings)},
    }
    card = {name: value for name, value in base.card.items() if name not in OF_THE_BASE}
    facts_of_card = {name: value for name, value in card.items() if name not in ("sha256", "hidden")}
    float32 = {name: array.astype(np.float32) for name, array in tuned.items()}
    write(output, base.name, float32, {**facts_of_card, "recipe": "fine_tune", "fine_tuned": facts})
    Learned.load(output)
    return facts


def _told(path: Path, file: EpisodeFile) -> dict[str, Any]:
    return {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "runs": [run["run_id"] for run in file.runs],
        "decisions": len(file.columns["run"]),
    }


def main(arguments: Sequence[str]) -> int:
    """Fine-tune, and say what came of it."""
    parser = argparse.ArgumentParser(prog="autotuner_policies.fine_tune", description=__doc__)
    parser.add_argument("--artifact", type=Path, required=True, help="the directory of a trained policy")
    parser.add_argument("--episodes", type=Path, nargs="+", required=True, metavar="FILE", help="files of autotuner replay")
    parser.add_argument("--output", type=Path, required=True, help="where the new artefact goes")
    for field in fields(Settings):
        default = getattr(Settings(), field.name)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(default), default=default)
    parsed = vars(parser.parse_args(arguments))
    settings = Settings(**{field.name: parsed[field.name] for field in fields(Settings)})
    try:
        facts = fine_tune(parsed["artifact"], parsed["episodes"], parsed["output"], settings)
    except AutotunerError as error:
        print(f"fine_tune: {error}", file=sys.stderr)
        return 1
    print(
        f"wrote {parsed['output']}: {facts['decisions']} decisions of {facts['runs']} runs count as "
        f"{facts['effective_decisions']}; KL {facts['kl']} of {settings.kl_bound} nats, "
        f"{facts['same_choice']:.0%} of choices as before"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
