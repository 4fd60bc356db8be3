"""Offline fine-tuning: the gradient is right, the bound holds, good actions gain, and what does not fit is refused."""

import hashlib
import json
import math
import shutil

import numpy as np
import pytest
from autotuner_policies import fine_tune as recipe
from autotuner_policies.catalog import ARTEFACTS
from autotuner_policies.export import read_card, write_card

from autotuner.controller.actions import ACTION_COUNT, HOLD, action_index
from autotuner.controller.learned import Learned
from autotuner.controller.observation import FEATURES
from autotuner.knobs import KNOB_NAMES
from autotuner.replay.episode import COLUMNS, Episode
from autotuner.replay.episode_file import write_episodes

PACE = action_index("pace", -1)
BASE = ARTEFACTS / "default"


def episode(run_id, actions, reward, seed=0, outcome="finished", **about):
    """A run whose decision i was ``actions[i]`` and made ``reward(action)`` of progress; all other terms are nothing."""
    random = np.random.default_rng(seed)
    made = Episode({"run_id": run_id, "outcome": outcome, "first_held_out_loss": 1.0, "target": None, **about})
    nothing = {"positions": [0] * len(KNOB_NAMES), "asked_positions": [0] * len(KNOB_NAMES), "reason": "", "vetoed": ""}
    for i, action in enumerate(actions):
        row = {
            **dict.fromkeys(COLUMNS, 0.0), **nothing, "run": 0, "time_unix": float(i), "action": action,
            "observation": random.uniform(-0.5, 0.5, len(FEATURES)).tolist(),
            "mask": [a in (HOLD, PACE) for a in range(ACTION_COUNT)],
            "asked_action": action, "decided_by": "rules", "propensity": 1.0, "progress": reward(action),
        }  # fmt: skip
        for name in COLUMNS:
            made.columns[name].append(row[name])
    return made


def mixed(seed, n=60):
    return np.random.default_rng(seed).choice([HOLD, PACE], n).tolist()


@pytest.fixture
def episodes(tmp_path):
    """Two runs in which pacing pays at once, and holding never does."""
    path = tmp_path / "good.npz"
    pays = [episode(f"run-{seed}", mixed(seed), lambda action: 0.2 * (action == PACE), seed) for seed in (1, 2)]
    write_episodes(path, pays)
    return path


def probability(directory, action, seed=5):
    """Mean probability of ``action`` on observations that were not recorded."""
    stored = recipe.weights_of(directory)
    x = np.random.default_rng(seed).uniform(-0.5, 0.5, (200, len(FEATURES)))
    allowed = np.zeros((200, ACTION_COUNT), dtype=bool)
    allowed[:, [HOLD, PACE]] = True
    return float(np.exp(recipe.forward(stored, x, allowed)[0])[:, action].mean())


def run(tmp_path, *files, **settings):
    return recipe.fine_tune(BASE, files, tmp_path / "tuned", recipe.Settings(**settings))


def test_what_did_well_becomes_likelier(tmp_path, episodes):
    run(tmp_path, episodes, gamma=0.0)
    assert probability(tmp_path / "tuned", PACE) > probability(BASE, PACE)


def test_what_did_badly_becomes_less_likely_than_what_did_well(tmp_path):
    bad, good = tmp_path / "bad.json", tmp_path / "good.json"
    write_episodes(bad, [episode(f"b{s}", mixed(s), lambda a: -0.2 * (a == PACE), s) for s in (1, 2)])
    write_episodes(good, [episode(f"g{s}", mixed(s), lambda a: 0.2 * (a == PACE), s) for s in (1, 2)])
    found = {}
    for path in (bad, good):
        recipe.fine_tune(BASE, [path], tmp_path / path.stem, recipe.Settings(gamma=0.0))
        found[path.stem] = probability(tmp_path / path.stem, PACE)
    assert found["bad"] < found["good"]


@pytest.mark.parametrize("bound", [0.0, 0.001, 0.02])
def test_the_result_stays_within_the_bound(tmp_path, episodes, bound):
    facts = run(tmp_path, episodes, kl_bound=bound, kl_weight=0.0, epochs=400, learning_rate=0.01)
    assert facts["kl"] <= bound + 1e-9
    if bound:
        assert facts["kl"] > 0.9 * bound, "the bound is what stops it here"
    else:
        assert facts["same_choice"] == 1.0


def data(n=40, seed=0):
    random = np.random.default_rng(seed)
    allowed = random.random((n, ACTION_COUNT)) < 0.6
    allowed[:, HOLD] = True
    actions = np.array([random.choice(np.flatnonzero(row)) for row in allowed])
    return recipe.Data(random.normal(size=(n, len(FEATURES))) * 0.3, allowed, actions, random.normal(size=n), 2)


def test_the_gradient_is_that_of_the_loss():
    w, d = recipe.weights_of(BASE), data()
    old, _, _ = recipe.forward({n: a * 0.9 for n, a in w.items()}, d.observations, d.allowed)
    weights = recipe.weigh(d.advantages, recipe.Settings())

    def loss(at):
        new = recipe.forward(at, d.observations, d.allowed)[0]
        return -(weights * new[np.arange(len(d.actions)), d.actions]).mean() + 0.7 * recipe.divergence(old, new)

    slopes = recipe.gradient(w, d, weights, old, 0.7)
    random = np.random.default_rng(1)
    for name in w:
        direction = random.normal(size=w[name].shape)
        high, low = ({**w, name: w[name] + sign * 1e-5 * direction} for sign in (1, -1))
        numeric = (loss(high) - loss(low)) / 2e-5
        assert numeric == pytest.approx(float((slopes[name] * direction).sum()), rel=1e-4, abs=1e-8), name


def test_the_same_network_as_the_runtimes():
    learned, d = Learned.load(BASE), data()
    w = recipe.weights_of(BASE)
    ours = recipe.forward(w, d.observations, d.allowed)[0]
    for x, row in zip(d.observations, ours, strict=True):
        theirs = np.asarray(learned.logits(x.tolist()))
        known = np.isfinite(row)
        assert np.allclose(row[known] - row[HOLD], theirs[known] - theirs[HOLD])


def test_returns_end_with_their_run_and_death_is_paid_for():
    reward, runs = np.array([1.0, 1.0, 1.0, 1.0]), np.array([0, 0, 1, 1])
    assert recipe.returns(reward, runs, set(), 0.5).tolist() == [1.5, 1.0, 1.5, 1.0]
    assert recipe.returns(reward, runs, {1}, 0.5).tolist() == [1.5, 1.0, 1.5 - 4 * 0.25, 1.0 - 2.0]


def test_an_unknown_term_counts_nothing_and_a_target_sets_the_scale():
    columns = {name: [0.0, 0.0] for name in COLUMNS} | {"progress": [math.nan, 0.5], "changes": [0.0, 2.0]}
    assert recipe.rewards(columns, np.array([1.0, 2.0])).tolist() == pytest.approx([0.0, 2.0 * 0.25 - 0.02])


def test_no_single_decision_leads():
    weights = recipe.weigh(np.array([0.0] * 99 + [1000.0]), recipe.Settings())
    assert weights.max() / weights.min() <= recipe.Settings().largest_weight
    assert weights.mean() == pytest.approx(1.0)


def test_decisions_of_guard_and_people_are_not_learned(tmp_path):
    made = [episode(f"run-{seed}", mixed(seed), lambda action: 0.1, seed) for seed in (1, 2)]
    made[0].columns["decided_by"][:5] = ["guard"] * 4 + ["you"]
    made[1].columns["asked_action"][0] = -1
    write_episodes(tmp_path / "e.json", made)
    assert run(tmp_path, tmp_path / "e.json")["decisions"] == 120 - 6


def test_knobs_that_the_artefact_never_moves_stay_out(tmp_path):
    other = action_index("lr_scale", 1)
    made = [episode(f"run-{seed}", mixed(seed), lambda action: 0.1, seed) for seed in (1, 2)]
    made[0].columns["asked_action"][0] = other
    made[0].columns["mask"][0] = [True] * ACTION_COUNT
    write_episodes(tmp_path / "e.json", made)
    base = tmp_path / "base"
    shutil.copytree(BASE, base)
    write_card(base, {**read_card(base), "knobs": [name for name in KNOB_NAMES if name != "lr_scale"]})
    assert recipe.fine_tune(base, [tmp_path / "e.json"], tmp_path / "tuned", recipe.Settings())["decisions"] == 119


def test_the_card_says_from_which_data_and_claims_no_results(tmp_path, episodes):
    run(tmp_path, episodes)
    card = read_card(tmp_path / "tuned")
    told = card["fine_tuned"]
    (file,) = told["episodes"]
    assert file["sha256"] == hashlib.sha256(episodes.read_bytes()).hexdigest()
    assert (file["file"], file["runs"], file["decisions"]) == ("good.npz", ["run-1", "run-2"], 120)
    assert told["base_sha256"] == read_card(BASE)["sha256"] != card["sha256"]
    assert card["knobs"] == read_card(BASE)["knobs"]
    assert not {"results", "beats", "default"} & set(card)
    assert str(tmp_path) not in json.dumps(card)


@pytest.mark.parametrize("sizes", [(60,), (10, 10)])
def test_too_little_to_learn_from_is_refused(tmp_path, capsys, sizes):
    path = tmp_path / "few.json"
    write_episodes(path, [episode(f"run-{i}", mixed(i, n), lambda action: 0.1, i) for i, n in enumerate(sizes)])
    assert recipe.main(["--artifact", str(BASE), "--episodes", str(path), "--output", str(tmp_path / "tuned")]) == 1
    assert "are needed" in capsys.readouterr().err
    assert not (tmp_path / "tuned").exists()


def test_a_run_that_is_given_twice_is_refused(tmp_path, episodes, capsys):
    files = [str(episodes), str(episodes)]
    assert recipe.main(["--artifact", str(BASE), "--episodes", *files, "--output", str(tmp_path / "tuned")]) == 1
    assert "run-1, run-2 more than once" in capsys.readouterr().err


def test_episodes_of_another_observation_are_refused(tmp_path, episodes, capsys):
    path = tmp_path / "old.json"
    write_episodes(path, [episode("run-1", mixed(1), lambda action: 0.1)])
    path.write_text(json.dumps({**json.loads(path.read_text()), "observation_version": 1}))
    assert recipe.main(["--artifact", str(BASE), "--episodes", str(path), "--output", str(tmp_path / "tuned")]) == 1
    assert "observation version 1" in capsys.readouterr().err


def test_an_artefact_of_another_observation_is_refused(tmp_path, episodes, capsys):
    old = tmp_path / "old"
    shutil.copytree(BASE, old)
    write_card(old, {**read_card(old), "observation_version": 1})
    assert recipe.main(["--artifact", str(old), "--episodes", str(episodes), "--output", str(tmp_path / "tuned")]) == 1
    assert "observation version 1" in capsys.readouterr().err


def test_the_artefact_itself_is_never_overwritten(tmp_path, episodes, capsys):
    own = tmp_path / "own"
    shutil.copytree(BASE, own)
    assert recipe.main(["--artifact", str(own), "--episodes", str(episodes), "--output", str(own)]) == 1
    assert read_card(own) == read_card(BASE)


def test_the_command_says_what_came_of_it(tmp_path, episodes, capsys):
    words = ["--artifact", str(BASE), "--episodes", str(episodes), "--output", str(tmp_path / "tuned"), "--epochs", "20"]
    assert recipe.main(words) == 0
    assert "120 decisions of 2 runs count as" in capsys.readouterr().out
