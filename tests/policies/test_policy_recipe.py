"""The recipe runs from the first line to an artefact, and the runtime chooses what torch chose."""

import numpy as np
import pytest
from autotuner_policies import train_maskable_ppo as recipe
from autotuner_policies.export import arrays_of, write

from autotuner.controller.actions import ACTION_COUNT
from autotuner.controller.learned import Learned
from autotuner.controller.observation import FEATURES
from autotuner.knobs import KNOB_NAMES


@pytest.fixture(scope="module")
def model():
    return recipe.build(recipe.Args(environments=2, scenarios=4, rollout=64, batch=64), seed=0)


def test_numpy_chooses_what_torch_chooses(model, tmp_path):
    learned = Learned.load(write(tmp_path / "draft", "draft", arrays_of(model), {"knobs": list(KNOB_NAMES)}))
    random = np.random.default_rng(0)
    observations = random.uniform(-1.0, 1.0, size=(1000, len(FEATURES))).astype(np.float32)
    masks = random.random((1000, ACTION_COUNT)) < 0.5
    masks[:, 0] = True
    actions, _ = model.predict(observations, action_masks=masks, deterministic=True)
    ours = [learned.choose(o.tolist(), m.tolist()).action for o, m in zip(observations, masks, strict=True)]
    assert ours == actions.tolist()
    assert len(set(ours)) > 3


def test_a_few_hundred_steps_end_in_an_artefact(tmp_path, capsys):
    flags = "--steps 256 --environments 2 --scenarios 4 --rollout 64 --batch 64 --epochs 1 --validation 1 --critic-steps 128"
    flags += " --clone-scenarios 2 --clone-epochs 2"
    directory = tmp_path / "tiny"
    arguments = [*flags.split(), "--seeds", "3", "--keep", str(tmp_path / "seeds"), "--output", str(directory)]
    recipe.main(arguments)
    card = Learned.load(directory).card
    assert card["chosen_seed"] == 3
    assert card["settings"]["steps"] == 256
    assert card["hidden"] == [64, 64]
    assert "wrote" in capsys.readouterr().out
    made = (tmp_path / "seeds" / "seed-3" / "policy.safetensors").stat().st_mtime_ns
    recipe.main([*arguments, "--validation", "2"])
    assert (tmp_path / "seeds" / "seed-3" / "policy.safetensors").stat().st_mtime_ns == made  # it was there


def test_cloning_lowers_the_loss_of_imitation(model):
    args = recipe.Args(clone_scenarios=4)
    first = recipe.clone(model, args, seed=0)
    assert recipe.clone(model, args, seed=0) < first


def test_flags_and_settings_are_one_table():
    args = recipe.parse(["--seeds", "1", "2", "--gamma", "0.9", "--clone-scenarios", "0"])
    assert (args.seeds, args.gamma, args.clone_scenarios) == ((1, 2), 0.9, 0)
    assert recipe.parse([]) == recipe.Args()
