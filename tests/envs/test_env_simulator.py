"""The simulated run: what the knobs do to time, memory, heat and learning."""

from dataclasses import replace

import pytest
from autotuner_envs.curves import Curve, Distillation
from autotuner_envs.scenario import HeatSetting, MemoryLimit, Span
from autotuner_envs.scenarios import draw
from autotuner_envs.simulator import Simulator

from autotuner.knobs import declare
from autotuner.messages import FLAG_FIRST_OF_SHAPE, FLAG_NOT_FINITE, Acknowledgement, Evaluation, Sample

KNOBS = {
    "resolution": (16, 20, 28),
    "micro_batch": (16, 64),
    "distill": (0, 1, 2),
    "pace": (0.5, 1.0),
    "cache_limit": (0.0, 2.0**40),
}
STARTS = {"resolution": 28, "micro_batch": 64, "distill": 0, "pace": 1.0, "cache_limit": 2.0**40}


def scenario(**changes):
    """A stationary run without noise in its step times, with a fixed set of knobs."""
    plain = draw("stationary", 1)
    knobs = tuple(declare(name, STARTS[name], values) for name, values in KNOBS.items())
    fixed = {"sampling_steps": 8.0, "lr_scale": 1.0, "timestep_density": 0.0}
    memory = replace(plain.memory, cached_share=1.0)
    declaration = replace(plain.declaration, knobs=knobs)
    return replace(plain, declaration=declaration, fixed=fixed, memory=memory, step_noise=0.0, stages=2, **changes)


def run(simulator, share, **values):
    """Let a share of the budget pass with some knobs elsewhere than at their start, in sixtieths."""
    asked = tuple(
        knob.values.index(values[knob.name]) if knob.name in values else knob.start
        for knob in simulator.scenario.declaration.knobs
    )
    budget = simulator.scenario.budget_seconds
    return [simulator.advance(asked, budget / 60) for _ in range(round(share * 60))]


def samples(progress):
    return [record for part in progress for record in part.records if isinstance(record, Sample)]


def test_lower_resolution_makes_more_images_and_less_memory():
    low, full = Simulator(scenario()), Simulator(scenario())
    run(low, 0.2, resolution=16)
    run(full, 0.2)
    assert low.state.images > 1.5 * full.state.images
    assert low.state.used_bytes < full.state.used_bytes


def test_held_out_loss_suffers_at_low_resolution_and_recovers_at_full():
    simulator = Simulator(scenario())
    run(simulator, 0.3)
    before = simulator.held_out_loss()
    run(simulator, 0.1, resolution=16)
    assert simulator.held_out_loss() > before
    run(simulator, 0.2)
    assert simulator.held_out_loss() < before


def test_pace_costs_images():
    slow, fast = Simulator(scenario()), Simulator(scenario())
    run(slow, 0.1, pace=0.5)
    run(fast, 0.1)
    assert slow.state.images == pytest.approx(fast.state.images / 2, rel=0.1)


def test_pace_cools_a_hot_machine():
    hot = scenario(heat=HeatSetting("air_fanless", 30.0, 10.0))
    slow, fast = Simulator(hot), Simulator(hot)
    run(slow, 0.8, pace=0.5)
    run(fast, 0.8)
    assert fast.state.frequency_ratio < 0.95
    assert slow.state.frequency_ratio > fast.state.frequency_ratio


def test_a_smaller_micro_batch_relieves_memory():
    plain = scenario()
    needed = plain.memory.resident(0, 1) + plain.memory.activations(64, 1.0, 0)
    tight = replace(plain, limits=(MemoryLimit(0.0, 0.9 * needed),))
    large, small = Simulator(tight), Simulator(tight)
    assert any(part.pressure_seconds for part in run(large, 0.02))
    assert not any(part.pressure_seconds for part in run(small, 0.02, micro_batch=16))
    assert small.state.images > large.state.images


def test_a_cache_follows_its_shape_until_limited():
    simulator = Simulator(scenario())
    run(simulator, 0.05)
    large = simulator.state.cached_bytes
    run(simulator, 0.05, micro_batch=16)
    assert 0 < simulator.state.cached_bytes < large
    run(simulator, 0.05, cache_limit=0.0)
    assert simulator.state.cached_bytes == 0


def test_a_run_far_above_its_memory_is_killed_in_the_end():
    plain = scenario()
    simulator = Simulator(replace(plain, limits=(MemoryLimit(0.0, plain.memory.resident(0, 1) * 0.5),)))
    run(simulator, 1.0)
    assert simulator.state.killed
    assert simulator.ended
    assert simulator.state.out_of_memory > 0


def test_a_student_learns_few_steps_while_its_teacher_stands_still():
    simulator = Simulator(scenario())
    run(simulator, 0.6)
    loss, undistilled = simulator.held_out_loss(), simulator.quality()
    run(simulator, 0.15, distill=1)
    run(simulator, 0.15, distill=2)
    assert simulator.held_out_loss() == loss
    assert simulator.quality() < undistilled


def test_samples_tell_first_shapes_and_losses_that_are_not_finite():
    bursts = (Span(0.0, 1e9, 0.9),)
    told = samples(run(Simulator(scenario(bursts=bursts)), 0.2))
    assert told[0].flags & FLAG_FIRST_OF_SHAPE
    assert any(sample.flags & FLAG_NOT_FINITE for sample in told)
    assert not any(sample.flags & FLAG_FIRST_OF_SHAPE for sample in told[1:])


def test_nothing_is_told_in_a_gap_but_acknowledgements():
    progress = run(Simulator(scenario(gaps=(Span(0.0, 1e9),))), 0.2, pace=0.5)
    records = [record for part in progress for record in part.records]
    assert [type(record) for record in records] == [Acknowledgement]
    assert all(part.machine is None for part in progress)


def test_evaluations_come_on_time_and_cost_time():
    progress = run(Simulator(scenario()), 1.0)
    evaluations = [record for part in progress for record in part.records if isinstance(record, Evaluation)]
    assert 20 <= len(evaluations) <= 26
    assert evaluations[-1].held_out_loss < evaluations[0].held_out_loss


def test_a_transient_returns_with_the_images_of_full_resolution():
    curve = Curve(gap=0.5, return_images=1000.0)
    away = curve.moved(0.0, 0.5, 1e9)
    assert away == pytest.approx(0.25)
    assert curve.moved(away, 1.0, 1000.0) == pytest.approx(away * 0.3679, rel=1e-3)


def test_the_student_tends_to_the_floor_of_its_stage():
    distillation = Distillation(floors=(0.7, 0.5), images=1000.0)
    assert distillation.moved(1.3, 1, 1e9) == pytest.approx(0.7)
    assert distillation.moved(1.3, 2, 1e9) == pytest.approx(0.5)
    assert distillation.moved(1.3, 9, 1e9) == pytest.approx(0.5)
