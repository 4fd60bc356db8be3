"""Recipe: policy improvement by rollouts on simulated training runs, one file from top to bottom.

``python -m autotuner_policies.train_rollouts --seeds 0 1 2 --output policies/autotuner_policies/artifacts/default``

A seed begins where imitation ends (``train_maskable_ppo.py``). At decisions that the present policy comes to, every legal
action is tried in a copy of the run, and the policy goes on from there to the end: what that brings more than its own action
is the advantage, the noise of both being the same. Copies that stopped at the target taught a policy that dithered after it.
The network then moves towards what was better, as far as a divergence from where it stood allows, and the next round begins
(rollouts, Bertsekas 2020; conservative policy iteration, Kakade & Langford 2002; on states of its own, Ross et al. 2011).
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from autotuner_envs.batch.compiled import sources
from autotuner_envs.batch.layout import LADDER, Runs
from autotuner_envs.batch.runs import BatchedRuns, step_all
from autotuner_envs.scenarios import SEEDS, families, frozen
from numpy.typing import NDArray
from safetensors.numpy import load_file

from autotuner.controller.actions import ACTION_COUNT, action_index
from autotuner.controller.learned import LATEST_COARSE, ROOM, UP
from autotuner.controller.observation import FEATURES
from autotuner.controller.rules import GUARDED_MEMORY
from autotuner.knobs import KNOB_NAMES
from autotuner_policies import train_maskable_ppo
from autotuner_policies.export import read_card, versions, write
from autotuner_policies.vectorised import pool

FIRST_SCENARIO = 2_000_000_000
"""Training scenarios from here on belong to this recipe, those that judge a round from JUDGES on."""
JUDGES = 2_500_000_000
MOST_SEEDS = 100
LOOKED_AT = 30.0
"""Decisions of a whole budget that are looked at, or all where there are fewer: those next to each other tell the same."""
LATER = 0.4
"""Share of them after the target, where less is left to win."""
LARGEST = 2.0
"""Advantages are cut here: half of them in logarithm of time, beyond which a run is lost or saved either way."""
CHUNK = 6144
"""Copies of runs stepped side by side."""
LAYERS = ("pi.0", "pi.1", "action")
_EXPECTED = FEATURES.index("memory_resolution_up")
_RATE, _RESOLUTION = KNOB_NAMES.index("lr_scale"), KNOB_NAMES.index("resolution")
Observations = NDArray[np.float32]
Masks = NDArray[np.bool_]
Choose = Callable[[Observations, Masks], NDArray[np.int64]]


@dataclass(frozen=True)
class Args:
    """Every setting of the recipe."""

    output: Path = Path("artifacts/draft")
    """Where the artefact of the chosen seed goes."""
    keep: Path = Path("policy-rounds")
    """Where every finished round goes; one that is there with the same settings is not made again."""
    workers: int = 1
    """Seeds trained at the same time."""
    seeds: tuple[int, ...] = (0,)
    """Training seeds, each with scenarios of its own; the one with the largest reward on validation is exported."""
    rounds: int = 6
    hidden: int = 64
    """Width of both hidden layers."""
    clone_scenarios: int = 3_000
    """Training scenarios whose best plans are imitated first."""
    scenarios: int = 4_000
    """Training scenarios of one round, met in no other."""
    explore: float = 0.05
    """Share of the decisions made at random while states are collected."""
    remembered: int = 2
    """Rounds whose states are learned from; advantages of older policies are worth less."""
    epochs: int = 12
    """Passes over them."""
    batch: int = 1024
    learning_rate: float = 1e-3
    """Adam's; it falls to a tenth over the epochs."""
    softened: float = 0.5
    """What the logits are multiplied by before a round learns: an action that is never thought of is never found better."""
    divergences: tuple[float, ...] = (0.2, 0.1)
    """Weights of the divergence that are tried, in units of reward; the judges choose among them and to stay."""
    judges: int = 1_600
    """Training scenarios of no round that choose the weight."""
    validation: int = 4
    """Validation scenarios of each family, which choose the seed and nothing else."""


@dataclass(frozen=True)
class States:
    """Decisions that were looked at."""

    observations: Observations
    masks: Masks
    advantages: NDArray[np.float32]
    """(states, ACTION_COUNT): reward to the end of the run, less that of the policy's own action; 0 where not legal."""

    def __len__(self) -> int:
        return len(self.observations)


def network_of(arrays: dict[str, NDArray[np.float32]]) -> torch.nn.Sequential:
    """The artefact's network, to be trained."""
    layers = []
    for name in LAYERS:
        weight, bias = (torch.as_tensor(arrays[f"{name}.{part}"].copy()) for part in ("weight", "bias"))
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight.data, layer.bias.data = weight, bias
        layers.append(layer)
    return torch.nn.Sequential(layers[0], torch.nn.Tanh(), layers[1], torch.nn.Tanh(), layers[2])


def arrays_of(network: torch.nn.Sequential) -> dict[str, NDArray[np.float32]]:
    """The way back."""
    return {
        f"{name}.{part}": np.ascontiguousarray(getattr(network[2 * i], part).detach().numpy().astype(np.float32))
        for i, name in enumerate(LAYERS)
        for part in ("weight", "bias")
    }


def greedy(arrays: dict[str, NDArray[np.float32]]) -> Choose:
    """The allowed action with the largest logit, for many runs."""

    def choose(observations: Observations, masks: Masks) -> NDArray[np.int64]:
        hidden = observations
        for name in LAYERS[:2]:
            hidden = np.tanh(hidden @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"])
        logits = hidden @ arrays["action.weight"].T + arrays["action.bias"]
        return np.asarray(np.where(masks, logits, -np.inf).argmax(axis=1))

    return choose


def grounded(runs: Runs, observations: Observations, masks: Masks) -> Masks:
    """The ``masks`` (N, ACTION_COUNT) without what ``Learned`` never does: trained with it, a policy would count on it.

    Resolutions that are too low for it are on no simulated ladder.
    """
    masks = masks.copy()
    near = np.clip(runs["positions"][:, _RATE, None] + [[-1, 0, 1]], 0, LADDER - 1)
    rates = np.take_along_axis(runs["values"][:, _RATE], near, axis=1)  # past the ladder zeros, and no legal action
    below, now, above = np.abs(np.log(np.where(rates > 0, rates, 1.0))).T
    masks[:, action_index("lr_scale", -1)] &= (below < now) | (observations[:, FEATURES.index("not_finite")] > 0)
    masks[:, action_index("lr_scale", 1)] &= above < now
    masks[:, action_index("distill", -1)] = False
    coarse = runs["positions"][:, _RESOLUTION] + 1 < runs["count"][:, _RESOLUTION]
    late = coarse & (observations[:, FEATURES.index("budget_used")] > LATEST_COARSE)
    way = np.zeros_like(masks)
    way[:, UP] = masks[:, UP]
    tight = (observations[:, FEATURES.index("pressure")] > 0) | (observations[:, _EXPECTED] > GUARDED_MEMORY)
    way[:, ROOM] = masks[:, ROOM] & (tight & ~masks[:, UP])[:, None]
    late &= way.any(axis=1)
    masks[late] = way[late]
    return masks


def brought(runs: Runs, which: NDArray[np.int64], actions: NDArray[np.int64], choose: Choose) -> NDArray[np.float64]:
    """Reward to the end of a copy of each run of the indices ``which`` that does one of ``actions``, then as ``choose``.

    Copies are made a chunk at a time: a run is 14 kB.
    """
    parts = [slice(start, start + CHUNK) for start in range(0, len(which), CHUNK)]
    return np.concatenate([_to_the_end(runs[which[part]], actions[part], choose) for part in parts])


def _to_the_end(runs: Runs, actions: NDArray[np.int64], choose: Choose) -> NDArray[np.float64]:
    total, where = np.zeros(len(runs)), np.arange(len(runs))
    while len(runs):
        observations, masks = np.zeros((len(runs), len(FEATURES)), np.float32), np.zeros((len(runs), ACTION_COUNT), bool)
        rewards, ended = np.zeros(len(runs)), np.zeros(len(runs), bool)
        step_all(runs, actions, observations, masks, rewards, ended)
        total[where] += rewards
        if ended.any():
            runs, where, observations, masks = runs[~ended], where[~ended], observations[~ended], masks[~ended]
        actions = choose(observations, grounded(runs, observations, masks))
    return total


def collect(scenarios: Runs, choose: Choose, explore: float, random: np.random.Generator) -> States:
    """Decisions with the advantage of each action."""
    parts: list[States] = []
    runs = BatchedRuns(scenarios)
    share = LOOKED_AT * scenarios["interval_seconds"] / scenarios["budget_seconds"]
    while not runs.ended.all():
        masks = grounded(runs.runs, runs.observations, runs.masks)
        action = choose(runs.observations, masks)
        unmet = np.isnan(runs.runs["reached_at"])
        looked = ~runs.ended & (random.random(len(share)) < share * np.where(unmet, 1.0, LATER))
        if looked.any():
            parts.append(_tried(runs, masks, np.flatnonzero(looked), action, choose))
        other = np.where(masks, random.random(masks.shape), -1.0).argmax(axis=1)
        runs.step(np.where(random.random(len(action)) < explore, other, action))
    return joined(parts)


def _tried(runs: BatchedRuns, masks: Masks, which: NDArray[np.int64], own: NDArray[np.int64], choose: Choose) -> States:
    masks = masks[which]
    state, action = np.nonzero(masks)
    worth = np.full(masks.shape, np.nan)
    worth[state, action] = brought(runs.runs, which[state], action, choose)
    advantages = worth - worth[np.arange(len(which)), own[which], None]
    return States(runs.observations[which].copy(), masks.copy(), np.nan_to_num(advantages).astype(np.float32))


def joined(parts: Sequence[States]) -> States:
    """All of them, one after another."""
    return States(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(States)))


def improved(network: torch.nn.Sequential, states: States, args: Args, weight: float, seed: int) -> torch.nn.Sequential:
    """The network moved to larger mean advantage, less ``weight`` times the divergence of the old policy from the new."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    network = copy.deepcopy(network)
    network[4].weight.data *= args.softened
    network[4].bias.data *= args.softened
    moved = copy.deepcopy(network)
    observations, masks = torch.as_tensor(states.observations), torch.as_tensor(states.masks)
    advantages = torch.as_tensor(states.advantages).clamp(-LARGEST, LARGEST)
    with torch.no_grad():
        old = _log_probabilities(network, observations, masks)
    optimizer = torch.optim.Adam(moved.parameters(), lr=args.learning_rate)
    parts = max(1, len(states) // args.batch)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, args.epochs * parts)
    for _ in range(args.epochs):
        for part in np.array_split(random.permutation(len(states)), parts):
            new = _log_probabilities(moved, observations[part], masks[part])
            gained = (new.exp() * advantages[part]).sum(dim=1)
            divergence = (old[part].exp() * (old[part] - new)).sum(dim=1)
            loss = (weight * divergence - gained).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            falling.step()
    return moved


def _log_probabilities(network: torch.nn.Sequential, observations: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    logits = network(observations).masked_fill(~masks, -30.0)
    return torch.nn.functional.log_softmax(logits, dim=1)


def played(scenarios: Runs | list[Any], choose: Choose) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Reward, and log(budget / seconds to the target), of every scenario under the greedy policy."""
    runs = BatchedRuns(scenarios)
    rewards = runs.play(lambda batch: choose(batch.observations, grounded(batch.runs, batch.observations, batch.masks)))
    return rewards, np.asarray(np.log(runs.runs["budget_seconds"] / runs.seconds_to_target))


def own_states(args: Args, seed: int, number: int, network: torch.nn.Sequential) -> States:
    """What the policy that begins a round meets on the round's scenarios."""
    first = FIRST_SCENARIO + (seed * 1000 + number) * args.scenarios
    random = np.random.default_rng([seed, number])
    return collect(pool(args.scenarios, first), greedy(arrays_of(network)), args.explore, random)


def one_round(
    args: Args, seed: int, states: States, network: torch.nn.Sequential
) -> tuple[torch.nn.Sequential, dict[str, float]]:
    """Learn with each weight, keep the best by the judges; with their mean rewards by weight, ``none`` the network before."""
    judges = pool(args.judges, JUDGES)
    best, found = network, float(played(judges, greedy(arrays_of(network)))[0].mean())
    told = {"none": round(found, 4)}
    for weight in args.divergences:
        candidate = improved(network, states, args, weight, seed)
        value = float(played(judges, greedy(arrays_of(candidate)))[0].mean())
        told[str(weight)] = round(value, 4)
        if value > found:
            best, found = candidate, value
    return best, told


def train(args: Args, seed: int) -> Path:
    """One seed: imitation, then every round that is not there yet; the last round's artefact."""
    torch.set_num_threads(1)
    plain = train_maskable_ppo.Args(
        keep=args.keep / "imitated", steps=0, hidden=args.hidden, clone_scenarios=args.clone_scenarios, scenarios=256
    )
    directory = train_maskable_ppo.train(plain, seed)
    network = network_of(load_file(directory / "policy.safetensors"))
    began = [network]
    trained: list[dict[str, Any]] = []
    memory: list[States] = []
    for number in range(args.rounds):
        directory = args.keep / f"seed-{seed}" / f"round-{number}"
        if (directory / "card.json").exists() and read_card(directory)["settings"] == settings(args):
            network = network_of(load_file(directory / "policy.safetensors"))
            trained = read_card(directory)["trained"]["rounds"]
        else:
            started = time.monotonic()
            for past in range(max(0, number + 1 - args.remembered), number) if not memory else ():
                memory.append(own_states(args, seed, past, began[past]))  # of rounds made by a process that is gone
            memory = [*memory, own_states(args, seed, number, network)][-args.remembered :]
            network, judged = one_round(args, seed, joined(memory), network)
            reward, score = (
                round(float(each.mean()), 4)
                for each in played(frozen("validation", args.validation), greedy(arrays_of(network)))
            )
            last = {"judges": judged, "validation_reward": reward, "validation_score": score}
            last["seconds"] = round(time.monotonic() - started, 1)
            trained = [*trained, last]
            print(f"seed {seed}, round {number}: {len(memory[-1])} states, {last}", flush=True)
            facts = {"settings": settings(args), "trained": {"seed": seed, "rounds": trained}}
            write(directory, "learned", arrays_of(network), facts)
        began.append(network)
    choose = greedy(arrays_of(network))
    train_maskable_ppo.check_export(lambda observation, mask: int(choose(observation[None], mask[None])[0]), directory)
    return directory


def settings(args: Args) -> dict[str, Any]:
    """What makes one seed differ from another training's: the flags, and the simulator by its hash."""
    left_out = ("output", "keep", "workers", "seeds", "rounds", "validation")
    flags = {name: value for name, value in asdict(args).items() if name not in left_out}
    return {"simulator": sources(), **flags, "divergences": list(args.divergences)}


def parse(arguments: Sequence[str]) -> Args:
    """Flags to Args: one flag for each field."""
    parser = argparse.ArgumentParser(prog="autotuner_policies.train_rollouts", description=__doc__)
    defaults = Args()
    for field in fields(Args):
        default = getattr(defaults, field.name)
        flag = f"--{field.name.replace('_', '-')}"
        if isinstance(default, tuple):
            parser.add_argument(flag, type=type(default[0]), nargs="+", default=list(default))
        else:
            parser.add_argument(flag, type=type(default), default=default)
    values = vars(parser.parse_args(arguments))
    for name in ("rounds", "scenarios", "judges", "remembered", "epochs", "validation"):
        if values[name] < 1:
            parser.error(f"--{name} {values[name]}; allowed are 1 and more")
    if not all(0 <= seed < MOST_SEEDS for seed in values["seeds"]):
        parser.error(
            f"--seeds {values['seeds']}; allowed are 0 to {MOST_SEEDS - 1}: others would share scenarios with the judges"
        )
    return Args(**{**values, "seeds": tuple(values["seeds"]), "divergences": tuple(values["divergences"])})


def main(arguments: Sequence[str]) -> None:
    """Train every seed, export the one that validates best."""
    args = parse(arguments)
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as processes:
        directories = list(processes.map(train, [args] * len(args.seeds), args.seeds))
    trained = [read_card(directory)["trained"] for directory in directories]
    best, chosen = max(zip(trained, directories, strict=True), key=lambda pair: pair[0]["rounds"][-1]["validation_reward"])
    facts = {
        "recipe": "train_rollouts",
        "command": "python -m autotuner_policies.train_rollouts " + " ".join(arguments),
        "settings": settings(args),
        "training_seeds": trained,
        "chosen_seed": best["seed"],
        "split": {split: {"families": list(families(split)), "first_seed": SEEDS[split]} for split in SEEDS},
        "versions": versions(),
    }
    directory = write(args.output, "learned", load_file(chosen / "policy.safetensors"), facts)
    print(f"wrote {directory}, seed {best['seed']} of {list(args.seeds)}")


if __name__ == "__main__":
    main(sys.argv[1:])
