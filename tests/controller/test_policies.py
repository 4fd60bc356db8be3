"""The contract of a policy over all policies, and what each one is for."""

from __future__ import annotations

import json

import numpy as np
import pytest
from controller_bench import MEGABYTE, make_bench
from modelled_bench import modelled
from safetensors.numpy import load, save

from autotuner.controller.actions import ACTION_COUNT, ACTION_NAMES, ACTIONS, HOLD, action_index
from autotuner.controller.forecast import Forecast
from autotuner.controller.hold import Hold
from autotuner.controller.learned import LATEST_COARSE, Learned
from autotuner.controller.observation import FEATURES, OBSERVATION_VERSION
from autotuner.controller.reasons import REASONS
from autotuner.controller.rules import Rules
from autotuner.errors import ArtefactError
from autotuner.knobs import declare

PACED = (declare("micro_batch", 64, [8, 16, 32, 64]), declare("pace", 1.0, [0.5, 0.7, 0.85, 1.0]))


def write_artefact(directory, seed=0, **card):
    rng = np.random.default_rng(seed)
    shapes = {
        "pi.0.weight": (16, len(FEATURES)),
        "pi.0.bias": (16,),
        "pi.1.weight": (16, 16),
        "pi.1.bias": (16,),
        "action.weight": (ACTION_COUNT, 16),
        "action.bias": (ACTION_COUNT,),
    }
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    document = {
        "name": "random",
        "observation_version": OBSERVATION_VERSION,
        "features": list(FEATURES),
        "actions": list(ACTION_NAMES),
        **card,
    }
    directory.mkdir(exist_ok=True)
    (directory / "policy.safetensors").write_bytes(save(arrays))
    (directory / "card.json").write_text(json.dumps(document))
    return directory


def a_window():
    """A run some decisions old."""
    bench = make_bench()
    for _ in range(6):
        bench.turn()
    return bench.loop.window


@pytest.fixture(params=["hold", "rules", "forecast", "learned"])
def policy(request, tmp_path):
    if request.param == "learned":
        return Learned.load(write_artefact(tmp_path / "artefact"))
    return {"hold": Hold, "rules": Rules, "forecast": Forecast}[request.param]()


def test_every_policy_keeps_the_contract(policy):
    """Deterministic, always legal, and with a reason from the table, over 300 random observations and masks."""
    rng = np.random.default_rng(1)
    window = a_window()
    for _ in range(300):
        observation = tuple(rng.uniform(-1, 1, len(FEATURES)))
        mask = (True, *(bool(x) for x in rng.random(ACTION_COUNT - 1) < 0.5))
        choice = policy.choose(observation, mask, window)
        assert choice == policy.choose(observation, mask, window)
        assert mask[choice.action]
        assert choice.reason in REASONS


def test_every_policy_holds_when_nothing_else_is_legal(policy):
    mask = (True, *(False,) * (ACTION_COUNT - 1))
    assert policy.choose((0.5,) * len(FEATURES), mask, a_window()).action == HOLD


def test_rules_take_memory_back_in_small_steps_and_return_it_slowly():
    bench = make_bench(Rules())
    bench.used = 950 * MEGABYTE
    bench.machine(memory_available_bytes=60 * MEGABYTE, memory_total_bytes=1010 * MEGABYTE)
    before = bench.turn()
    assert (before.what, before.reason) == ("micro_batch 64 to 32", "memory_high")
    bench.used = 300 * MEGABYTE
    bench.machine(memory_available_bytes=2000 * MEGABYTE)
    grown = [bench.turn() for _ in range(20)]
    assert "micro_batch 32 to 64" in [decision.what for decision in grown]
    assert grown[0].what != "micro_batch 32 to 64"


def test_rules_leave_steady_heat_to_the_machine_and_pace_against_its_cycles():
    steady, cycling = modelled(Rules(), PACED), modelled(Rules(), PACED)
    steady.machine(thermal_level=2)
    paces = []
    for i in range(12):
        cycling.machine(thermal_level=2 * (i % 2))
        cycling.speed = 0.4 if i % 2 else 1.0
        steady.turn()
        paces += [change.to_value for change in cycling.turn().changes if change.knob == "pace"]
    assert steady.value("pace") == 1.0
    assert paces == [0.85]
    cycling.machine(thermal_level=1)
    assert cycling.turns_until("pace", 1.0, most=12) <= 12  # slower than before: it brought nothing


def test_a_machine_that_warms_up_with_noise_is_not_paced():
    bench = modelled(Rules(), PACED)
    for i in range(12):
        bench.machine(thermal_level=0 if i < 3 else 2)
        bench.speed = 0.7 if i % 2 else 1.0
        assert not [change for change in bench.turn().changes if change.knob == "pace"]


def test_rules_begin_no_student_before_the_target_while_there_is_time():
    bench = modelled(Rules())
    object.__setattr__(bench.loop.declaration, "target", 1e-9)
    whats = [(i, change.what) for i, decision in enumerate(bench.all_turns(60)) for change in decision.changes]
    begins = {what: i for i, what in whats if what.startswith("distill")}
    assert begins["distill 0 to 1"] >= 50


def test_rules_begin_coarse_and_distill_last():
    bench = modelled(Rules())
    changes = {change.what: i for i in range(60) for change in bench.turn().changes}
    resolutions = [what for what in changes if what.startswith("resolution")]
    assert resolutions == ["resolution 28 to 20", "resolution 20 to 16", "resolution 16 to 20", "resolution 20 to 28"]
    assert changes["resolution 20 to 28"] <= 15
    assert changes["distill 0 to 1"] >= 40
    assert bench.value("distill") == 2


@pytest.mark.parametrize("policy", [Rules, Forecast])
def test_a_training_that_is_resumed_does_not_begin_coarse_again(policy):
    bench = modelled(policy())
    bench.step = 5000
    changes = [change.what for _ in range(10) for change in bench.turn().changes]
    assert not [what for what in changes if what.startswith("resolution")]


@pytest.mark.parametrize("policy", [Rules, Forecast])
def test_full_resolution_comes_back_though_another_program_took_the_memory_meanwhile(policy):
    knobs = (declare("resolution", 28, [16, 20, 28]), declare("micro_batch", 64, [8, 16, 32, 64]))
    bench = modelled(policy(), knobs, image_bytes=3.0 * MEGABYTE)
    bench.machine(memory_available_bytes=2000 * MEGABYTE)
    bench.all_turns(7)
    assert bench.value("resolution") < 28
    bench.machine(memory_available_bytes=40 * MEGABYTE)
    bench.all_turns(30)
    assert bench.value("resolution") == 28
    assert bench.value("micro_batch") < 64


def test_rules_leave_a_low_resolution_that_was_measured_no_faster():
    bench = make_bench(Rules())
    whats = [change.what for _ in range(60) for change in bench.turn().changes if change.knob == "resolution"]
    assert whats == ["resolution 28 to 20", "resolution 20 to 28"]


@pytest.mark.parametrize(("level", "resolution"), [(0, 28), (2, 16)])
def test_rules_do_not_blame_low_resolution_for_what_heat_costs(level, resolution):
    """Slow steps there say that it brings nothing, unless the machine is hotter than when full ones were measured."""
    bench = modelled(Rules())
    bench.turns_until("resolution", 20, most=5)
    bench.speed = 0.3
    bench.machine(thermal_level=level)
    bench.all_turns(5)
    assert bench.value("resolution") == resolution


def test_rules_go_no_lower_than_half_of_the_full_resolution():
    bench = modelled(Rules(), (declare("resolution", 64, [16, 32, 64]),))
    whats = [change.what for _ in range(60) for change in bench.turn().changes]
    assert whats == ["resolution 64 to 32", "resolution 32 to 64"]


@pytest.mark.parametrize("scale", [0.25, 2.0])
def test_rules_repair_bad_starts(scale):
    knobs = (
        declare("resolution", 16, [16, 20, 28]),
        declare("micro_batch", 8, [8, 16, 32, 64]),
        declare("lr_scale", scale, [0.25, 0.5, 1.0, 2.0]),
        declare("timestep_density", 2, [0, 1, 2]),
    )
    bench = modelled(Rules(), knobs)
    bench.all_turns(25)
    assert [bench.value(knob.name) for knob in knobs] == [28, 64, 1.0, 0]


def test_a_stage_is_passed_by_its_gap_before_its_time():
    early, late = (modelled(Rules(), budget_seconds=14400.0, gap=gap) for gap in (1.0, 3.0))
    assert early.turns_until("distill", 2, 240) < late.turns_until("distill", 2, 240) <= 240


def test_a_learned_choice_says_how_sure_it_is_and_why(tmp_path):
    policy = Learned.load(write_artefact(tmp_path / "artefact"))
    rng = np.random.default_rng(2)
    mask = (False, *(True,) * (ACTION_COUNT - 1))
    choice = policy.choose(tuple(rng.uniform(-1, 1, len(FEATURES))), mask)
    assert choice.detail.startswith("p=")
    assert any(feature in choice.detail for feature in FEATURES)


def test_the_influence_that_is_named_is_the_gradient_of_the_logit(tmp_path):
    policy = Learned.load(write_artefact(tmp_path / "artefact"))
    x = np.random.default_rng(3).uniform(-1, 1, len(FEATURES))
    logits, first, second = policy._forward(x)
    action = int(np.argmax(logits[1:])) + 1
    step = 1e-6
    influence = np.array(
        [
            (
                (np.asarray(policy.logits(x + step * np.eye(len(x))[i])) - logits)[action]
                - (np.asarray(policy.logits(x + step * np.eye(len(x))[i])) - logits)[HOLD]
            )
            / step
            * x[i]
            for i in range(len(x))
        ]
    )
    strongest = FEATURES[int(np.argmax(influence))]
    assert f"because of {strongest}=" in policy._because(action, x, first, second)


def test_a_knob_that_the_policy_never_met_in_training_is_left_alone(tmp_path):
    policy = Learned.load(write_artefact(tmp_path / "artefact", knobs=["pace"]))
    rng = np.random.default_rng(4)
    chosen = {policy.choose(tuple(rng.uniform(-1, 1, len(FEATURES))), (True,) * ACTION_COUNT).action for _ in range(200)}
    assert {ACTIONS[action].knob for action in chosen} <= {"", "pace"}
    assert len(chosen) > 1


def wants(directory, action):
    """An artefact that wants one action whatever it sees."""
    write_artefact(directory)
    arrays = {name: np.zeros_like(array) for name, array in load((directory / "policy.safetensors").read_bytes()).items()}
    arrays["action.bias"][action] = 1.0
    (directory / "policy.safetensors").write_bytes(save(arrays))
    return Learned.load(directory)


@pytest.mark.parametrize(("ladder", "step", "lowest"), [([16, 32, 64], 0, 32), ([16, 20, 28], 0, 16), ([16, 20, 28], 5000, 28)])
def test_the_learned_policy_goes_no_lower_than_any_simulated_run_did(tmp_path, ladder, step, lowest):
    """Nor does it take a training that was resumed to low resolution again, which it cannot see."""
    knobs = (declare("resolution", ladder[-1], ladder),)
    bench = modelled(wants(tmp_path / "artefact", action_index("resolution", -1)), knobs)
    bench.step = step
    bench.all_turns(10)
    assert bench.value("resolution") == lowest


@pytest.mark.parametrize(
    ("start", "step", "ends"), [(1.0, 1, 1.0), (1.0, -1, 1.0), (0.5, 1, 1.0), (2.0, -1, 1.0), (0.5, -1, 0.5)]
)
def test_the_learned_policy_brings_the_learning_rate_to_the_scripts_own_alone(tmp_path, start, step, ends):
    knobs = (declare("lr_scale", start, [0.5, 1.0, 2.0]),)
    bench = modelled(wants(tmp_path / "artefact", action_index("lr_scale", step)), knobs)
    bench.all_turns(12)
    assert bench.value("lr_scale") == ends


@pytest.mark.parametrize(("start", "ends"), [(1, 1), (3, 3), (0, 0)])
def test_the_learned_policy_gives_no_student_up(tmp_path, start, ends):
    knobs = (declare("distill", start, [0, 1, 2, 3]),)
    bench = modelled(wants(tmp_path / "artefact", action_index("distill", -1)), knobs)
    bench.all_turns(12)
    assert bench.value("distill") == ends


def test_the_learned_policy_does_not_put_full_resolution_off(tmp_path):
    """Though its network would hold for ever."""
    knobs = (declare("resolution", 16, [16, 20, 28]),)
    bench = modelled(wants(tmp_path / "artefact", HOLD), knobs)
    assert bench.turns_until("resolution", 28, most=30) > 1
    assert LATEST_COARSE < _seen(bench)[0][FEATURES.index("budget_used")] < 2 * LATEST_COARSE


@pytest.mark.parametrize("by", ["rules", "learned"])
def test_no_room_is_made_for_a_resolution_that_is_pinned(tmp_path, by):
    """Its micro-batch fits as it is; for the full resolution it would be taken down to its least."""

    def micro_batch(pinned):
        knobs = (declare("resolution", 16, [16, 20, 28]), declare("micro_batch", 64, [8, 16, 32, 64]))
        bench = modelled(Rules() if by == "rules" else wants(tmp_path / "artefact", HOLD), knobs)
        bench.machine(memory_available_bytes=bench.state.memory_available_bytes // 32)
        if pinned:
            bench.loop.pin("resolution")
        bench.all_turns(20)
        return bench.value("micro_batch")

    assert micro_batch(pinned=True) > micro_batch(pinned=False)


def test_rules_decide_for_the_learned_policy_where_no_budget_is_told(tmp_path):
    policy = wants(tmp_path / "artefact", action_index("micro_batch", -1))
    benches = [modelled(each, PACED, budget_seconds=None) for each in (policy, Rules())]
    for bench in benches:
        bench.machine(thermal_level=0)
    whats = [[change.what for _ in range(8) for change in bench.turn().changes] for bench in benches]
    assert whats[0] == whats[1]
    assert "no budget" in benches[0].loop.policy.choose(*_seen(benches[0])).detail
    assert modelled(policy, PACED).turns_until("micro_batch", 32, most=3) <= 3


def _seen(bench):
    loop = bench.loop
    return loop.observe(bench.now), loop.mask(bench.now), loop.window


def test_an_observation_that_is_not_finite_is_answered_with_hold(tmp_path):
    policy = Learned.load(write_artefact(tmp_path / "artefact"))
    assert policy.choose((float("nan"),) * len(FEATURES), (True,) * ACTION_COUNT).action == HOLD


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"observation_version": OBSERVATION_VERSION + 1}, "observation version"),
        ({"features": ["something else"]}, "features differ"),
        ({"actions": list(ACTION_NAMES[:-1])}, "actions differ"),
        ({"sha256": "0" * 64}, "sha256"),
    ],
)
def test_an_artefact_of_another_version_is_refused_with_its_file_and_values(tmp_path, card, message):
    directory = write_artefact(tmp_path / "artefact", **card)
    with pytest.raises(ArtefactError, match=message) as error:
        Learned.load(directory)
    assert str(directory) in str(error.value)


def test_a_missing_artefact_is_refused(tmp_path):
    with pytest.raises(ArtefactError, match="cannot be read"):
        Learned.load(tmp_path / "nothing")


@pytest.mark.parametrize("damage", [b"", b"not safetensors", b"\xff" * 64, b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_damaged_artefact_is_refused(tmp_path, damage):
    directory = write_artefact(tmp_path / "artefact")
    (directory / "policy.safetensors").write_bytes(damage)
    with pytest.raises(ArtefactError):
        Learned.load(directory)


def test_weights_of_the_wrong_shape_or_not_finite_are_refused(tmp_path):
    directory = write_artefact(tmp_path / "artefact")
    from safetensors.numpy import load

    arrays = load((directory / "policy.safetensors").read_bytes())
    for name, value in (("action.bias", np.zeros(3, np.float32)), ("pi.0.bias", np.full(16, np.nan, np.float32))):
        (directory / "policy.safetensors").write_bytes(save({**arrays, name: value}))
        with pytest.raises(ArtefactError, match=name):
            Learned.load(directory)


def test_action_names_say_what_they_do():
    assert ACTION_NAMES[:3] == ("hold", "resolution down", "resolution up")
    assert len(set(ACTION_NAMES)) == len(ACTIONS)
