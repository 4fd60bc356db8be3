"""Policy improvement by rollouts: what an action brings is what it brings, and a round makes a bad policy better."""

import numpy as np
import pytest
import torch
from autotuner_envs.batch.runs import BatchedRuns
from autotuner_envs.scenarios import FAMILIES, SEEDS, draw
from autotuner_envs.training_run import TrainingRun
from autotuner_policies import train_rollouts as recipe
from autotuner_policies.vectorised import pool

from autotuner.controller.actions import ACTION_COUNT, ACTIONS, HOLD
from autotuner.controller.learned import Learned, grounded
from autotuner.controller.observation import FEATURES


@pytest.fixture(scope="module")
def holding():
    """The arrays of a policy that always holds."""
    shapes = {"pi.0": (8, len(FEATURES)), "pi.1": (8, 8), "action": (ACTION_COUNT, 8)}
    random = np.random.default_rng(0)
    arrays = {f"{name}.weight": random.normal(0.0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    arrays |= {f"{name}.bias": np.zeros(shape[0], np.float32) for name, shape in shapes.items()}
    arrays["action.bias"][HOLD] = 2.0
    return arrays


@pytest.fixture(scope="module")
def states(holding):
    return recipe.collect(pool(32), recipe.greedy(holding), explore=0.0, random=np.random.default_rng(0))


def test_what_an_action_brings_is_what_a_run_earns_that_does_it(holding):
    """The sum of rewards of a run that is stepped by hand to its end, and the run itself is left alone."""
    choose = recipe.greedy(holding)
    runs = BatchedRuns(pool(4))
    before = runs.runs.copy()
    which, actions = np.arange(4), runs.masks[:, ::-1].argmax(axis=1)
    actions = ACTION_COUNT - 1 - actions  # the last legal one, which is not to hold
    told = recipe.brought(runs.runs, which, actions, choose)
    assert runs.runs["slices"].tolist() == before["slices"].tolist()
    earned, action = np.zeros(4), actions
    while not runs.ended.all():
        runs.step(action)
        earned += runs.rewards
        action = choose(runs.observations, recipe.grounded(runs.runs, runs.observations, runs.masks))
    assert told == pytest.approx(earned)


def test_what_the_recipe_leaves_out_is_what_the_runtime_never_does():
    random = np.random.default_rng(0)
    scenarios = [draw(family.name, SEEDS[family.splits[-1]] + 500) for family in FAMILIES]
    batch, alone = BatchedRuns(scenarios), [TrainingRun() for _ in scenarios]
    for env, scenario in zip(alone, scenarios, strict=True):
        env.reset(options={"scenario": scenario})
    left_out, on_its_way = set(), 0
    for _ in range(40):
        masks = recipe.grounded(batch.runs, batch.observations, batch.masks)
        for i in np.flatnonzero(~batch.ended):
            legal = np.flatnonzero(batch.masks[i]).tolist()
            kept = grounded(legal, batch.observations[i].tolist(), alone[i].loop.window)
            assert np.flatnonzero(masks[i]).tolist() == kept, scenarios[i].family
            on_its_way += HOLD not in kept
            left_out |= {ACTIONS[k].name for k in np.flatnonzero(batch.masks[i] & ~masks[i])}
        live = np.flatnonzero(~batch.ended)
        actions = np.array([random.choice(np.flatnonzero(mask)) for mask in batch.masks])  # wherever legal actions lead
        for i in live:
            alone[i].step(actions[i])
        batch.step(actions)
    assert left_out >= {"lr_scale down", "lr_scale up", "distill down"}
    assert on_its_way > 20  # back to full resolution


def test_its_own_action_and_what_is_not_legal_have_no_advantage(states):
    assert not states.advantages[:, HOLD].any()
    assert not states.advantages[~states.masks].any()
    assert states.advantages.max() > 0.1  # to hold for ever is not best


def test_the_network_moves_to_what_was_better_as_far_as_the_divergence_allows(holding, states):
    network = recipe.network_of(holding)

    def after(weight):
        moved = recipe.improved(network, states, recipe.Args(epochs=4, batch=64), weight, seed=0)
        with torch.no_grad():
            logits = moved(torch.as_tensor(states.observations)).masked_fill(~torch.as_tensor(states.masks), -30.0)
        return float((logits.softmax(dim=1).numpy() * states.advantages.clip(-2.0, 2.0)).sum(axis=1).mean())

    assert after(0.01) > after(100.0)


SMALL = {"seeds": 0, "scenarios": 16, "judges": 16, "validation": 1, "epochs": 1, "divergences": 0.1, "hidden": 8}
FLAGS = ["--clone-scenarios", "32", *(text for name, value in SMALL.items() for text in (f"--{name}", str(value)))]


def test_rounds_end_in_an_artefact_that_the_runtime_runs(tmp_path, capfd):
    recipe.main(["--rounds", "1", "--keep", str(tmp_path / "keep"), "--output", str(tmp_path / "output"), *FLAGS])
    card = Learned.load(tmp_path / "output").card
    assert (card["recipe"], card["hidden"], card["chosen_seed"]) == ("train_rollouts", [8, 8], 0)
    assert "seed 0, round 0" in capfd.readouterr().out


def test_a_training_that_was_cut_off_goes_on_and_ends_as_if_it_had_not_been(tmp_path):
    """The second round learns from states of the first as well, which the process that made them took along."""
    for name, pieces in (("whole", ["2"]), ("cut", ["1", "2"])):
        for rounds in pieces:
            args = recipe.parse(["--rounds", rounds, "--keep", str(tmp_path / name), *FLAGS])
            recipe.train(args, 0)
    whole, cut = ((tmp_path / name / "seed-0/round-1/policy.safetensors").read_bytes() for name in ("whole", "cut"))
    assert whole == cut


@pytest.mark.parametrize("flags", [["--rounds", "0"], ["--scenarios", "-1"], ["--seeds", "0", "100"]])
def test_what_cannot_be_trained_is_refused_with_what_is_allowed(flags, capsys):
    with pytest.raises(SystemExit):
        recipe.parse(flags)
    assert "allowed are" in capsys.readouterr().err
