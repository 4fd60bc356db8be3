"""Emergencies: critical memory and heat are answered at once, once, and without taking back what relieves."""

from __future__ import annotations

from controller_bench import MEGABYTE, a_declaration, make_bench, refused

from autotuner.controller.actions import action_index
from autotuner.controller.policy import Choice
from autotuner.knobs import declare
from autotuner.messages import FLAG_OUT_OF_MEMORY, Acknowledgement


def test_the_guard_looks_at_what_a_step_did_before_it_takes_the_next(bench):
    bench.used = 800 * MEGABYTE
    bench.pass_interval()
    bench.machine(memory_pressure=2, memory_available_bytes=0)
    first = bench.loop.decide(bench.now + 1.0)
    bench.now += 1.0
    bench.acknowledge(first)
    assert not bench.loop.due(bench.now + 1.5)  # the machine still says critical, of before the change
    assert bench.loop.due(bench.now + 2.5)
    second = bench.loop.decide(bench.now + 2.5)
    assert second.policy == "guard"
    assert second.changes


def test_an_emergency_overtakes_an_ask_that_the_script_has_not_taken_over(bench):
    bench.pass_interval()
    unanswered = bench.loop.act(Choice(action_index("pace", -1), "policy"), bench.now)
    assert bench.loop.pending
    bench.machine(memory_pressure=2, memory_available_bytes=0)
    assert bench.loop.due(bench.now + 3.0)
    decision = bench.loop.decide(bench.now + 3.0)
    assert [change.knob for change in decision.changes] == ["micro_batch", "pace"]
    assert not bench.loop.due(bench.now + 4.5)  # asked already, and not answered yet
    bench.acknowledge(decision)
    assert (bench.loop.pending, bench.value("micro_batch"), bench.value("pace")) == (False, decision.changes[0].to_value, 0.85)
    assert unanswered.positions != bench.loop.positions


def test_an_emergency_does_not_take_back_the_relief_that_it_overtakes(bench):
    bench.pass_interval()
    bench.loop.act(Choice(action_index("micro_batch", -1), "policy"), bench.now)
    bench.machine(thermal_level=3)
    decision = bench.loop.decide(bench.now + 3.0)
    bench.acknowledge(decision)
    assert (bench.value("pace"), bench.value("micro_batch")) == (0.5, 32)


def test_an_emergency_does_not_take_back_what_a_person_asked_for():
    bench = make_bench(declaration=a_declaration((declare("pace", 1.0, [0.5, 1.0]), declare("sampling_steps", 4, [4, 8]))))
    bench.pass_interval()
    bench.loop.pin("sampling_steps")
    bench.loop.force("sampling_steps", 1, "pinned", bench.now)
    bench.machine(thermal_level=3)
    bench.acknowledge(bench.loop.decide(bench.now + 3.0))
    assert (bench.value("pace"), bench.value("sampling_steps")) == (0.5, 8)


def test_an_emergency_overtakes_itself_only_to_take_away_more(bench):
    bench.pass_interval()
    bench.loop.window.memory.observe(8 * 28 * 28, False, 95 * MEGABYTE)  # the batch matters little
    bench.machine(memory_pressure=2, memory_available_bytes=0)
    first = bench.loop.decide(bench.now)
    assert [(change.knob, change.to_value) for change in first.changes] == [("micro_batch", 8)]
    bench.machine(memory_pressure=2, memory_available_bytes=4000 * MEGABYTE)
    assert not bench.loop.due(bench.now + 1.5)


def test_heat_is_answered_where_no_knob_frees_memory():
    bench = make_bench(declaration=a_declaration((declare("pace", 1.0, [0.5, 1.0]),)))
    bench.pass_interval()
    bench.machine(memory_pressure=2, thermal_level=3)
    decision = bench.loop.decide(bench.now)
    assert [(change.knob, change.to_value, change.reason) for change in decision.changes] == [("pace", 0.5, "heat")]


def test_an_out_of_memory_that_a_change_has_answered_is_not_answered_again(bench):
    bench.flags = FLAG_OUT_OF_MEMORY
    bench.pass_interval()
    decision = bench.loop.decide(bench.now)
    bench.pass_interval()  # the script runs out again before it takes over the change
    bench.acknowledge(decision)
    bench.flags = 0
    bench.pass_interval()
    assert bench.loop.decide(bench.now).changes == ()


def test_an_out_of_memory_after_the_change_is_answered_again(bench):
    bench.flags = FLAG_OUT_OF_MEMORY
    bench.pass_interval()
    bench.acknowledge(bench.loop.decide(bench.now))
    bench.pass_interval()
    bench.now += 3.0
    assert [change.knob for change in bench.loop.decide(bench.now).changes] == ["micro_batch"]


def test_the_late_refusal_of_an_overtaken_ask_does_not_forbid_the_emergency(bench):
    bench.pass_interval()
    bench.loop.act(Choice(action_index("pace", -1), "policy"), bench.now)
    bench.loop.delivered(1)
    bench.machine(memory_pressure=2, memory_available_bytes=0)
    decision = bench.loop.decide(bench.now + 3.0)
    bench.loop.delivered(2)
    bench.loop.feed(Acknowledgement(1, bench.step, bench.now + 3.0, True, 2, bench.loop.positions))
    assert bench.loop.pending
    assert decision.positions not in bench.loop.guard.quarantine


def test_an_out_of_memory_that_nothing_could_answer_does_not_undo_a_later_raise():
    bench = make_bench(declaration=a_declaration((declare("micro_batch", 8, [8, 16]),)))
    bench.flags = FLAG_OUT_OF_MEMORY
    bench.pass_interval()
    assert bench.loop.decide(bench.now).changes == ()
    bench.flags = 0
    for _ in range(4):
        bench.turn()
    assert refused(bench, "micro_batch", 1) == ""
    bench.pass_interval()
    bench.now += 3.0
    assert bench.loop.decide(bench.now).changes == ()


def test_an_emergency_asks_for_no_shape_that_the_script_would_refuse():
    knobs = (declare("micro_batch", 64, [32, 64]), declare("cache_limit", 2**30, [0, 2**30]))
    bench = make_bench(declaration=a_declaration(knobs, max_shapes=1))
    bench.pass_interval()
    bench.machine(memory_pressure=2, memory_available_bytes=0)
    decision = bench.loop.decide(bench.now)
    assert [change.knob for change in decision.changes] == ["cache_limit"]


def test_a_policys_change_does_not_put_off_the_guards_own(bench):
    """The policy wishes at every decision; each wish granted would start the guard's wait anew."""
    bench.used = 800 * MEGABYTE
    bench.pass_interval()
    bench.acknowledge(bench.loop.act(Choice(action_index("sampling_steps", -1), "previews_cost"), bench.now))
    bench.machine(memory_pressure=2, memory_available_bytes=0)
    wish = Choice(action_index("micro_batch", -1), "memory_pressure")
    waiting = bench.loop.act(wish, bench.now + 1.0)
    assert (waiting.changes, waiting.vetoed) == ((), "settles")
    decision = bench.loop.act(wish, bench.now + 2.5)
    assert decision.policy == "guard"
    assert "micro_batch" in [change.knob for change in decision.changes]
