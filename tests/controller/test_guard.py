"""The guard: what is refused, what happens without the policy, and that nothing escapes the ladders."""

from __future__ import annotations

import math

import pytest
from controller_bench import MEGABYTE, a_declaration, make_bench, refused
from hypothesis import given, settings
from hypothesis import strategies as st

from autotuner.controller.actions import ACTION_COUNT, ACTIONS, HOLD, action_index
from autotuner.controller.observation import FEATURES
from autotuner.controller.policy import Choice
from autotuner.knobs import declare
from autotuner.messages import FLAG_NOT_FINITE, FLAG_OUT_OF_MEMORY, Acknowledgement, MachineState, Sample


def test_a_wish_within_all_limits_is_let_through(bench):
    bench.pass_interval()
    assert refused(bench, "micro_batch", -1) == ""
    assert bench.value("micro_batch") == 32


def test_a_knob_that_the_script_does_not_offer_is_refused(bench):
    bench.pass_interval()
    assert refused(bench, "lr_scale", 1) == "not_declared"


def test_a_knob_that_takes_effect_never_is_refused():
    bench = make_bench(declaration=a_declaration((declare("pace", 1.0, [0.5, 1.0], effect="none"),)))
    bench.pass_interval()
    assert refused(bench, "pace", -1) == "not_declared"


def test_the_end_of_a_ladder_is_refused(bench):
    bench.pass_interval()
    assert refused(bench, "pace", 1) == "ladder_end"


def test_a_pinned_knob_is_refused_until_released(bench):
    bench.pass_interval()
    bench.loop.pin("pace")
    assert refused(bench, "pace", -1) == "pinned"
    bench.loop.release("pace")
    assert refused(bench, "pace", -1) == ""


def test_nothing_is_asked_while_a_change_is_unacknowledged(bench):
    bench.pass_interval()
    bench.loop.act(Choice(action_index("pace", -1), "policy"), bench.now)
    assert bench.loop.pending
    assert [ACTIONS[i].name for i, allowed in enumerate(bench.loop.mask(bench.now)) if allowed] == ["hold"]


def test_a_knob_rests_after_a_change():
    bench = make_bench(declaration=a_declaration((declare("lr_scale", 1.0, [0.25, 0.5, 1.0]),)))
    bench.pass_interval()
    refused(bench, "lr_scale", -1)
    bench.pass_interval()
    bench.loop.observe(bench.now)
    assert refused(bench, "lr_scale", -1) == "dwell"


def test_a_change_is_not_undone_at_once():
    bench = make_bench(declaration=a_declaration((declare("pace", 1.0, [0.5, 0.7, 1.0]),)))
    bench.pass_interval()
    refused(bench, "pace", -1)
    bench.turn()
    assert refused(bench, "pace", 1) == "reversal"
    for _ in range(4):
        bench.turn()
    assert refused(bench, "pace", 1) == ""


def test_the_budget_of_changes_is_kept():
    bench = make_bench(changes_per_hour=1)
    bench.pass_interval()
    assert refused(bench, "pace", -1) == ""
    bench.turn()
    assert refused(bench, "sampling_steps", -1) == "change_budget"
    bench.now += 3601.0
    bench.pass_interval()
    assert refused(bench, "sampling_steps", -1) == ""


def test_a_ninth_shape_is_refused():
    declaration = a_declaration((declare("resolution", 28, [16, 20, 28]),), max_shapes=1)
    bench = make_bench(declaration=declaration)
    bench.pass_interval()
    assert refused(bench, "resolution", -1) == "shape_budget"


def test_the_scripts_joint_limit_holds():
    declaration = a_declaration(
        (declare("resolution", 16, [16, 28]), declare("micro_batch", 64, [32, 64])), max_pixels=64 * 16 * 16
    )
    bench = make_bench(declaration=declaration)
    bench.pass_interval()
    assert refused(bench, "resolution", 1) == "joint_limit"


def test_a_larger_shape_waits_for_room():
    bench = make_bench(declaration=a_declaration((declare("micro_batch", 32, [16, 32, 64]),)))
    bench.used = 500 * MEGABYTE
    bench.machine(memory_available_bytes=100 * MEGABYTE)
    bench.pass_interval()
    assert refused(bench, "micro_batch", 1) == "memory_predicted"
    bench.machine(memory_available_bytes=2000 * MEGABYTE)
    assert refused(bench, "micro_batch", 1) == ""


def test_heat_forbids_more_than_the_start_but_not_relief():
    bench = make_bench(declaration=a_declaration((declare("pace", 0.7, [0.5, 0.7, 1.0]),)))
    bench.pass_interval()
    bench.machine(thermal_level=2)
    assert refused(bench, "pace", 1) == "heat"
    assert refused(bench, "pace", -1) == ""


def test_what_was_taken_away_in_heat_may_be_given_back_unless_it_is_critical():
    """A trial of a lower pace that could not be undone while it is hot would slow the run to its end."""
    bench = make_bench(declaration=a_declaration((declare("pace", 0.7, [0.5, 0.7, 1.0]),)))
    bench.pass_interval()
    bench.machine(thermal_level=2)
    assert refused(bench, "pace", -1) == ""
    for _ in range(6):
        bench.turn()
    bench.machine(thermal_level=3)
    assert refused(bench, "pace", 1) == "heat"
    bench.machine(thermal_level=2)
    assert refused(bench, "pace", 1) == ""
    for _ in range(6):
        bench.turn()
    assert refused(bench, "pace", 1) == "heat"


def test_stale_telemetry_allows_only_relief(bench):
    bench.pass_interval()
    bench.now += 60.0
    mask = bench.loop.mask(bench.now)
    allowed = {ACTIONS[i].name for i, legal in enumerate(mask) if legal}
    assert allowed == {"hold", "resolution down", "micro_batch down", "pace down"}


def test_a_machine_that_was_never_read_counts_as_stale():
    bench = make_bench()
    bench.pass_interval()
    bench.loop.machine(MachineState(time=-math.inf))
    assert refused(bench, "distill", 1) == "stale"


def test_losses_that_are_not_finite_forbid_load():
    bench = make_bench(declaration=a_declaration((declare("pace", 0.5, [0.5, 1.0]),)))
    bench.flags = FLAG_NOT_FINITE
    bench.pass_interval()
    assert refused(bench, "pace", 1) == "diverging"


def test_quarantined_positions_are_refused(bench):
    bench.loop.quarantine((2, 2, 2, 0, 3))
    bench.pass_interval()
    assert refused(bench, "micro_batch", -1) == "quarantined"


def test_positions_that_the_hook_refused_are_not_asked_again(bench):
    bench.pass_interval()
    decision = bench.loop.act(Choice(action_index("micro_batch", -1), "policy"), bench.now)
    bench.loop.feed(Acknowledgement(1, bench.step, bench.now, refused=True, detail=2, positions=bench.loop.positions))
    assert not bench.loop.pending
    for _ in range(4):
        bench.turn()
    assert decision.positions not in (bench.loop.positions, bench.loop.asked)
    assert refused(bench, "micro_batch", -1) == "quarantined"


def test_critical_memory_pressure_acts_without_the_policy(bench):
    bench.used = 800 * MEGABYTE
    bench.pass_interval()
    bench.machine(memory_pressure=2, memory_available_bytes=0)
    assert bench.loop.due(bench.now + 1.0)
    decision = bench.loop.decide(bench.now + 1.0)
    assert decision.policy == "guard"
    assert decision.reason == "memory_pressure"
    assert [change.knob for change in decision.changes] == ["micro_batch"]
    assert decision.changes[0].to_value < 64


def test_the_guard_chooses_the_largest_micro_batch_that_fits(bench):
    for batch, used in ((64, 800), (32, 420)):
        bench.used = used * MEGABYTE
        bench.pass_interval()
        if batch == 64:
            refused(bench, "micro_batch", -1)
    refused(bench, "micro_batch", -1)
    bench.machine(memory_pressure=2, memory_available_bytes=0)
    decision = bench.loop.decide(bench.now + 1.0)
    assert decision.changes[0].to_value == 16  # 32 needs 420 MB of 420 MB; 16 is expected near 230 MB


def test_an_out_of_memory_that_the_script_caught_is_answered_once(bench):
    bench.flags = FLAG_OUT_OF_MEMORY
    bench.pass_interval(samples=1)
    decision = bench.loop.decide(bench.now)
    assert decision.reason == "out_of_memory"
    bench.acknowledge(decision)
    bench.flags = 0
    assert bench.turn().changes == ()


def test_critical_heat_paces_to_the_bottom_at_once(bench):
    bench.pass_interval()
    bench.machine(thermal_level=3)
    decision = bench.loop.decide(bench.now + 1.0)
    assert [(c.knob, c.to_value) for c in decision.changes] == [("pace", 0.5)]


def test_an_emergency_leaves_a_pinned_knob_alone(bench):
    bench.loop.pin("micro_batch")
    bench.pass_interval()
    bench.machine(memory_pressure=2)
    decision = bench.loop.decide(bench.now)
    assert [change.knob for change in decision.changes] == ["resolution"]


def test_a_run_ends_at_the_resolution_that_its_script_chose(bench):
    bench.pass_interval()
    refused(bench, "resolution", -1)
    reasons = [bench.turn().reason for _ in range(60)]
    assert "restore" in reasons
    assert bench.value("resolution") == 28
    assert reasons.index("restore") / 60 > 0.8


def test_a_script_that_turns_a_knob_itself_pins_it(bench):
    bench.pass_interval()
    positions = (1, *bench.loop.positions[1:])
    bench.loop.feed(Acknowledgement(0, bench.step, bench.now, positions=positions))
    assert bench.loop.pinned == {"resolution": "script"}
    assert bench.loop.positions == positions


def test_history_read_again_after_a_restart_is_not_taken_for_the_scripts_own_changes(bench):
    bench.pass_interval()
    bench.loop.feed(Acknowledgement(7, bench.step, bench.now, positions=(1, 1, 1, 0, 3)))
    assert bench.loop.pinned == {}
    assert bench.loop.asked == (1, 1, 1, 0, 3)


losses = st.sampled_from([0.0, -1.0, 1e-30, 0.5, 1e30, math.inf, -math.inf, math.nan])
byte_counts = st.sampled_from([0, 1, 10**6, 10**9, 2**62])
machines = st.builds(
    MachineState,
    time=st.just(0.0),
    memory_total_bytes=st.one_of(st.none(), byte_counts),
    memory_available_bytes=st.one_of(st.none(), byte_counts),
    memory_pressure=st.sampled_from([None, 0, 1, 2]),
    swap_used_bytes=st.one_of(st.none(), byte_counts),
    thermal_level=st.sampled_from([None, 0, 1, 2, 3, 4]),
)
turns = st.lists(st.tuples(st.integers(0, ACTION_COUNT - 1), losses, byte_counts, machines), max_size=12)


@settings(max_examples=150, deadline=None)
@given(turns)
def test_whatever_comes_in_observations_stay_finite_and_positions_on_their_ladders(script):
    bench = make_bench()
    for action, loss, used, machine in script:
        bench.loss, bench.used, bench.state = loss, used, machine
        bench.pass_interval(samples=2)
        mask = bench.loop.mask(bench.now)
        assert mask[HOLD]
        decision = bench.loop.act(Choice(action, "policy"), bench.now)
        assert len(decision.observation) == len(FEATURES)
        assert all(math.isfinite(x) and -1.0 <= x <= 1.5 for x in decision.observation)
        if decision.policy != "guard" and decision.changes:
            assert mask[action]
        for position, knob in zip(decision.positions, bench.loop.declaration.knobs, strict=True):
            assert 0 <= position < len(knob.values)
        bench.acknowledge(decision)


def test_a_sample_of_the_future_or_past_does_not_break_the_loop(bench):
    bench.pass_interval()
    bench.loop.feed(Sample(1, bench.now - 1e6, 1.0))
    bench.loop.feed(Sample(1, bench.now + 1e6, 1.0))
    assert all(math.isfinite(x) for x in bench.loop.decide(bench.now).observation)


@pytest.mark.parametrize("action", [-1, ACTION_COUNT, 10**9])
def test_an_action_that_does_not_exist_is_refused(bench, action):
    bench.pass_interval()
    decision = bench.loop.act(Choice(action, "policy"), bench.now)
    assert decision.vetoed == "illegal"
    assert decision.changes == ()


@pytest.mark.parametrize(("available", "verdict"), [(60, "memory_predicted"), (1000, "")])
def test_a_cache_limit_goes_up_only_where_what_the_cache_once_held_fits(available, verdict):
    """What an evaluation left in the cache filled the machine again as soon as the limit was raised."""
    bench = make_bench(declaration=a_declaration((declare("cache_limit", 0.0, [0.0, 1024.0 * MEGABYTE]),)))
    bench.used = 100 * MEGABYTE
    bench.cache = 150 * MEGABYTE
    bench.pass_interval()
    bench.cache = 0
    bench.machine(memory_available_bytes=available * MEGABYTE)
    bench.pass_interval()
    assert refused(bench, "cache_limit", 1) == verdict
