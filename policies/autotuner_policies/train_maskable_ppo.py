"""Recipe: MaskablePPO on simulated training runs, one file from top to bottom.

``python -m autotuner_policies.train_maskable_ppo --seeds 0 1 2 --output policies/autotuner_policies/artifacts/default``
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from autotuner_envs.batch.compiled import sources
from autotuner_envs.batch.runs import BatchedRuns
from autotuner_envs.scenarios import SEEDS, families, frozen
from autotuner_envs.training_run import TrainingRun
from numpy.typing import NDArray
from safetensors.numpy import load_file
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks

from autotuner.controller.learned import Learned
from autotuner_policies.demonstrations import demonstrations
from autotuner_policies.export import arrays_of, read_card, versions, write
from autotuner_policies.vectorised import VectorisedRuns, pool

Choice = Callable[[NDArray[np.float32], NDArray[np.bool_]], int]
"""The action for one observation and its mask."""


@dataclass(frozen=True)
class Args:
    """Every setting of the recipe."""

    output: Path = Path("artifacts/draft")
    """Where the artefact of the chosen seed goes."""
    keep: Path = Path("policy-seeds")
    """Where every finished seed goes; one that is there with the same settings is not trained again."""
    workers: int = 1
    """Seeds trained at the same time."""
    seeds: tuple[int, ...] = (0,)
    """Training seeds; the one with the best score on validation is exported."""
    steps: int = 4_000_000
    """Environment steps of each seed; 0 leaves it at imitation."""
    environments: int = 256
    """Simulated runs stepped side by side in this process."""
    scenarios: int = 6_000
    """Different training scenarios; each is met more than once."""
    rollout: int = 128
    """Steps of each environment between two updates."""
    batch: int = 2048
    """Transitions of one gradient step."""
    epochs: int = 5
    """Passes over each rollout."""
    learning_rate: float = 2e-4
    """Adam's rate at the start; it falls linearly to a twentieth."""
    gamma: float = 0.995
    """Discount: a horizon of 200 decisions, three times an episode, so that what a phase at low resolution costs now and pays
    ten decisions later is weighed nearly in full."""
    gae_lambda: float = 0.95
    """Generalised advantage estimation's mix of bias and variance."""
    entropy: float = 0.002
    """Weight of the entropy bonus."""
    clip: float = 0.15
    """PPO's clipping range."""
    target_kl: float = 0.02
    """An update stops early when the policy has moved this far."""
    hidden: int = 64
    """Width of both hidden layers."""
    clone_scenarios: int = 1_500
    """Training scenarios whose best plans are imitated first; 0 begins from nothing."""
    clone_epochs: int = 20
    """Passes over them."""
    critic_steps: int = 100_000
    """Environment steps in which the critic alone learns, so that a fresh critic does not undo what was cloned."""
    validation: int = 4
    """Validation scenarios of each family that choose the seed."""


def parse(arguments: Sequence[str]) -> Args:
    """Flags to Args: one flag for each field."""
    parser = argparse.ArgumentParser(prog="autotuner_policies.train_maskable_ppo", description=__doc__)
    defaults = Args()
    for field in fields(Args):
        default = getattr(defaults, field.name)
        kind = type(default)
        if kind is tuple:
            parser.add_argument(f"--{field.name}", type=int, nargs="+", default=list(default))
        else:
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=default)
    values = vars(parser.parse_args(arguments))
    return Args(**{**values, "seeds": tuple(values["seeds"])})


def build(args: Args, seed: int) -> MaskablePPO:
    """An untrained model; every seed has training scenarios of its own."""
    return MaskablePPO(
        "MlpPolicy",
        VectorisedRuns(args.environments, pool(args.scenarios, seed * args.scenarios), seed),
        learning_rate=lambda left: args.learning_rate * max(left, 0.05),
        n_steps=args.rollout,
        batch_size=args.batch,
        n_epochs=args.epochs,
        gamma=args.gamma,
        gae_lambda=args.gae_lambda,
        clip_range=args.clip,
        target_kl=args.target_kl,
        ent_coef=args.entropy,
        policy_kwargs={"net_arch": {"pi": [args.hidden] * 2, "vf": [args.hidden] * 2}, "activation_fn": torch.nn.Tanh},
        seed=seed,
        device="cpu",
    )


def clone(model: MaskablePPO, args: Args, seed: int) -> float:
    """Fit the policy head to the best plans by cross-entropy; returns the last mean loss."""
    observations, masks, actions = demonstrations(pool(args.clone_scenarios, 500_000 + seed * args.clone_scenarios))
    optimizer = torch.optim.Adam(model.policy.parameters(), lr=1e-3)
    random = np.random.default_rng(seed)
    loss = torch.zeros(())
    for _ in range(args.clone_epochs):
        for part in np.array_split(random.permutation(len(actions)), max(1, len(actions) // 512)):
            _, likelihood, entropy = model.policy.evaluate_actions(
                torch.as_tensor(observations[part]), torch.as_tensor(actions[part]), action_masks=masks[part]
            )
            loss = -likelihood.mean() - 0.001 * entropy.mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return float(loss.detach())


def learn_critic(model: MaskablePPO, steps: int) -> None:
    """Let the value head learn while the policy head stands still."""
    heads = [*model.policy.mlp_extractor.policy_net.parameters(), *model.policy.action_net.parameters()]
    for parameter in heads:
        parameter.requires_grad_(False)
    if steps:
        model.learn(steps)
    for parameter in heads:
        parameter.requires_grad_(True)


def validate(model: MaskablePPO, count: int) -> dict[str, float]:
    """The greedy policy on the frozen validation scenarios: mean reward, and mean log(budget / seconds to the target)."""

    def choose(runs: BatchedRuns) -> np.ndarray:
        return model.predict(runs.observations, action_masks=runs.masks, deterministic=True)[0]

    runs = BatchedRuns(frozen("validation", count))
    reward = runs.play(choose).mean()
    sooner = np.log(runs.runs["budget_seconds"] / runs.seconds_to_target).mean()
    return {"validation_reward": round(float(reward), 4), "validation_score": round(float(sooner), 4)}


def settings(args: Args) -> dict[str, Any]:
    """What makes one seed differ from another training's: the flags, and the simulator by its hash."""
    flags = [name for name in vars(Args()) if name not in ("output", "keep", "workers", "seeds", "validation")]
    return {"simulator": sources(), **{name: getattr(args, name) for name in flags}}


def train(args: Args, seed: int) -> Path:
    """One seed, unless it is there: imitate, learn, validate, write."""
    directory = args.keep / f"seed-{seed}"
    if (directory / "card.json").exists() and read_card(directory)["settings"] == settings(args):
        return directory
    torch.set_num_threads(1)
    started = time.monotonic()
    model = build(args, seed)
    facts: dict[str, Any] = {"seed": seed, "steps": args.steps}
    if args.clone_scenarios:
        clone(model, args, seed)
        facts["cloned"] = validate(model, args.validation)
        learn_critic(model, args.critic_steps if args.steps else 0)
    if args.steps:
        model.learn(args.steps)
    seconds = time.monotonic() - started
    facts |= {"seconds": round(seconds, 1), **validate(model, args.validation)}
    print(facts, flush=True)
    write(directory, "learned", arrays_of(model), {"settings": settings(args), "trained": facts})
    check_export(greedy(model), directory)
    return directory


def main(arguments: Sequence[str]) -> None:
    """Train every seed, export the one that validates best."""
    args = parse(arguments)
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as processes:
        trained = list(processes.map(train, [args] * len(args.seeds), args.seeds))
    cards = [read_card(directory)["trained"] for directory in trained]
    best, chosen = max(zip(cards, trained, strict=True), key=lambda pair: pair[0]["validation_score"])
    facts = {
        "recipe": "train_maskable_ppo",
        "command": "python -m autotuner_policies.train_maskable_ppo " + " ".join(arguments),
        "settings": settings(args),
        "training_seeds": cards,
        "chosen_seed": best["seed"],
        "split": {split: {"families": list(families(split)), "first_seed": SEEDS[split]} for split in SEEDS},
        "versions": versions(),
    }
    directory = write(args.output, "learned", load_file(chosen / "policy.safetensors"), facts)
    print(f"wrote {directory}, seed {best['seed']} of {[card['seed'] for card in cards]}")


def greedy(model: MaskablePPO) -> Choice:
    """What the model chooses when it does not explore."""

    def choose(observation: NDArray[np.float32], mask: NDArray[np.bool_]) -> int:
        return int(model.predict(observation, action_masks=mask, deterministic=True)[0])

    return choose


def check_export(choose: Choice, directory: Path) -> None:
    """The runtime must choose what was trained to be chosen, or the artefact is not fit to ship; raises RuntimeError."""
    learned = Learned.load(directory)
    env = TrainingRun("validation")
    observation, _ = env.reset(seed=0)
    for _ in range(40):
        mask = get_action_masks(env)
        action = choose(observation, mask)
        if learned.choose(observation.tolist(), mask.tolist()).action != action:
            raise RuntimeError(f"{directory}: the exported policy and the trained one disagree")
        observation, _, ended, _, _ = env.step(np.int64(action))
        if ended:
            break


if __name__ == "__main__":
    main(sys.argv[1:])
