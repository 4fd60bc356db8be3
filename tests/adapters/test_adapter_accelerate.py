"""The real accelerate: an unmodified loop reaches the same weights in pieces as in whole batches."""

import gc
from itertools import pairwise

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from accelerate import Accelerator  # noqa: E402
from accelerate import accelerator as accelerate_module  # noqa: E402
from accelerate.state import AcceleratorState, GradientState  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from autotuner.adapters import accelerate_attach, environment  # noqa: E402
from autotuner.hook import AutotunerWarning  # noqa: E402
from autotuner.hook.checkpoint import Answer  # noqa: E402
from autotuner.hook.ring import RingReader  # noqa: E402
from autotuner.messages import FLAG_NOT_FINITE, FLAG_OUT_OF_MEMORY, Declaration, Sample  # noqa: E402
from tests.adapters.ring_of import answer_of, ask_for  # noqa: E402

IMAGES = 44
"""No multiple of the batch: each epoch ends with a smaller one."""
BATCH, ACCUMULATION = 8, 2


@pytest.fixture(autouse=True)
def own_process_state(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOTUNER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv(environment.NAME, "stripes")
    yield
    accelerate_attach.forget()
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    gc.collect()


class Loop:
    """A training as scripts have it; it knows nothing of Autotuner."""

    def __init__(self, network=None, accumulate=True, drop_last=False, workers=0):
        torch.manual_seed(0)
        self.accelerator = Accelerator(gradient_accumulation_steps=ACCUMULATION if accumulate else 1, cpu=True)
        network = network or nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
        inputs = torch.randn(IMAGES, 6)
        loader = DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), BATCH, drop_last=drop_last, num_workers=workers)
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        prepared = self.accelerator.prepare(network, optimizer, loader, scheduler)
        self.network, self.optimizer, self.loader, self.scheduler = prepared
        self.accumulate = accumulate
        self.steps, self.passes, self.at_step, self.losses = 0, [], {}, []

    def train(self, epochs=3):
        for _ in range(epochs):
            for inputs, targets in self.loader:
                self.passes.append(len(inputs))
                if self.accumulate:
                    with self.accelerator.accumulate(self.network):
                        self.learn(inputs, targets)
                else:
                    self.learn(inputs, targets)
                if self.accelerator.sync_gradients:
                    self.steps += 1
                    self.at_step.get(self.steps, lambda: None)()
        return self

    def learn(self, inputs, targets):
        loss = nn.functional.mse_loss(self.network(inputs), targets)
        self.losses.append(loss.item())
        self.accelerator.backward(loss)
        if self.accelerator.sync_gradients:
            self.accelerator.clip_grad_norm_(self.network.parameters(), 0.5)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()

    @property
    def weights(self):
        return torch.cat([parameter.detach().flatten() for parameter in self.network.parameters()]).clone()


def installed(**settings):
    accelerate_attach.install(accelerate_module)
    return Loop(**settings)


def undisturbed(**settings):
    """The same training with our part switched off."""
    accelerate_attach.install(accelerate_module)
    accelerate_attach.session()._off = True
    loop = Loop(**settings).train()
    accelerate_attach.forget()
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return loop


def declaration():
    return Declaration.from_json((accelerate_attach.session().training.run.directory / "run.json").read_text())


def samples():
    ring = RingReader(accelerate_attach.session().training.run.directory / "telemetry.ring")
    try:
        return [record for record in ring.read() if isinstance(record, Sample)]
    finally:
        ring.close()


def test_watching_alone_changes_no_bit():
    expected = undisturbed()
    loop = installed().train()
    assert torch.equal(loop.weights, expected.weights)
    assert loop.losses == expected.losses
    assert loop.passes == expected.passes


@pytest.mark.parametrize("drop_last", [False, True])
def test_pieces_from_the_first_batch_lead_to_the_same_weights(monkeypatch, drop_last):
    expected = undisturbed(drop_last=drop_last)
    monkeypatch.setenv(environment.START, '{"micro_batch": 2}')
    loop = installed(drop_last=drop_last).train()
    assert set(loop.passes) == {2}
    assert loop.steps == expected.steps
    assert torch.allclose(loop.weights, expected.weights, rtol=0, atol=2e-6)
    assert not torch.equal(loop.weights, Loop(drop_last=drop_last).weights)


def test_pieces_that_leave_a_remainder_weigh_by_their_images(monkeypatch):
    expected = undisturbed()
    monkeypatch.setenv(environment.START, '{"micro_batch": 3}')
    loop = installed().train()
    assert loop.passes[:3] == [3, 3, 2]
    assert torch.allclose(loop.weights, expected.weights, rtol=0, atol=2e-6)


def test_a_change_in_the_middle_takes_effect_at_the_next_optimizer_step():
    expected = undisturbed()
    loop = installed()
    loop.at_step[2] = lambda: accelerate_attach.session().training.run.set("micro_batch", 2)
    loop.at_step[5] = lambda: accelerate_attach.session().training.run.set("micro_batch", 8)
    loop.train()
    assert loop.passes == [8] * 4 + [2] * 6 + [2] * 16 + [8, 4] + [8] * 5 + [4]
    assert torch.allclose(loop.weights, expected.weights, rtol=0, atol=2e-6)


def test_each_optimizer_step_is_reported_with_the_mean_loss_of_its_images(monkeypatch):
    expected = undisturbed()
    monkeypatch.setenv(environment.START, '{"micro_batch": 2}')
    loop = installed().train()
    accelerate_attach.session().training.run.poll()
    seen = samples()
    assert [sample.step for sample in seen] == list(range(1, loop.steps + 1))
    assert seen[-1].images == 3 * IMAGES
    assert seen[0].loss == pytest.approx(sum(expected.losses[:2]) / 2, rel=1e-5)
    assert seen[-1].peak_bytes > 2**20


def test_the_run_is_known_before_the_first_forward_pass_in_which_memory_may_run_out(monkeypatch):
    loop = installed()
    monkeypatch.setattr(loop, "learn", lambda inputs, targets: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loop.train()
    assert declaration().knob("micro_batch").effect == "boundary"
    accelerate_attach.session().safely(accelerate_attach.session().ran_out_of_memory)
    assert [sample.flags for sample in samples()] == [FLAG_OUT_OF_MEMORY | FLAG_NOT_FINITE]


def test_a_batch_that_nobody_can_cut_makes_the_knob_none(monkeypatch):
    monkeypatch.setattr(Loop, "learn", lambda self, inputs, targets: None)
    loop = installed()
    collated = loop.loader.base_dataloader
    collated.collate_fn = lambda rows: [torch.stack([row[0] for row in rows]), torch.zeros(3)]
    with pytest.warns(AutotunerWarning, match="stays as the script has it: a tensor has the shape"):
        loop.train(epochs=1)
    assert declaration().knob("micro_batch").effect == "none"


def test_the_tracker_tunes_as_the_command_does_and_stands_beside_others():
    from autotuner.adapters.accelerate_tracker import AutotunerTracker

    tracker = AutotunerTracker("by-hand")
    loop = Loop()
    loop.accelerator.log_with.append(tracker)
    loop.accelerator.init_trackers("project", config={"max_train_steps": 9, "resolution": 16})
    loop.train(epochs=1)
    loop.accelerator.log({"loss": 1.0}, step=1)
    declared = declaration()
    assert (declared.name, declared.budget_steps, declared.model["resolution"]) == ("by-hand", 9, 16)
    assert declared.knob("micro_batch").effect == "boundary"
    assert len(samples()) == loop.steps
    loop.accelerator.end_training()


def test_what_the_run_declares():
    installed().train(epochs=1)
    declared = declaration()
    assert (declared.name, declared.framework) == ("stripes", "accelerate-cpu")
    assert declared.knob("micro_batch").values == (1, 2, 4, 8)
    assert declared.knob("micro_batch").effect == "boundary"
    assert declared.model["parameters"] == 6 * 16 + 16 + 16 + 1
    assert declared.model["model"] == "Sequential"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"accumulate": False}, "would count pieces as steps"),
        ({"network": nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))}, "batch normalisation"),
    ],
)
def test_where_pieces_would_change_the_training_the_knob_is_none_and_it_is_said(settings, said):
    loop = installed(**settings)
    with pytest.warns(AutotunerWarning, match=said):
        loop.train(epochs=1)
    assert declaration().knob("micro_batch").effect == "none"
    assert set(loop.passes) == {8, 4}


def test_the_learning_rate_moves_slowly_and_the_scripts_schedule_stays(monkeypatch):
    monkeypatch.setenv(environment.KNOBS, "lr_scale")
    loop = installed()
    rates = []
    inner = loop.optimizer.optimizer
    inner.register_step_pre_hook(lambda *_: rates.append(inner.param_groups[0]["lr"]))
    loop.at_step[1] = lambda: accelerate_attach.session().training.run.set("lr_scale", 2.0)
    loop.train()
    schedule = [0.01 / (1 + step) for step in range(len(rates))]
    scales = [rate / planned for rate, planned in zip(rates, schedule, strict=True)]
    assert scales[0] == 1.0
    assert all(1.0 < later / earlier < 1.015 for earlier, later in pairwise(scales[1:]))
    assert inner.param_groups[0]["lr"] == pytest.approx(0.01 / (1 + loop.steps))


def test_an_uncaught_out_of_memory_is_the_last_record(monkeypatch):
    installed().train(epochs=1)
    accelerate_attach.session().safely(accelerate_attach.session().ran_out_of_memory)
    assert samples()[-1].flags & FLAG_OUT_OF_MEMORY


def test_a_fault_of_ours_is_told_once_and_the_training_goes_on(monkeypatch):
    expected = undisturbed()
    loop = installed()
    monkeypatch.setattr(type(accelerate_attach.session()), "_attach", lambda self: 1 / 0)
    with pytest.warns(AutotunerWarning, match="the accelerate adapter is off; training goes on: ZeroDivisionError") as told:
        loop.train()
    assert len(told) == 1
    assert torch.equal(loop.weights, expected.weights)


def test_a_loader_that_is_only_evaluated_keeps_its_batches(monkeypatch):
    monkeypatch.setenv(environment.START, '{"micro_batch": 2}')
    loop = installed().train(epochs=1)
    held_out = loop.accelerator.prepare(DataLoader(TensorDataset(torch.randn(16, 6)), 8))
    with torch.no_grad():
        assert [len(inputs) for (inputs,) in held_out] == [8, 8]


def asked_at(loop, step, number=1):
    loop.at_step[step] = lambda: ask_for(accelerate_attach.session().training.run, "save", number)


def answered():
    return answer_of(accelerate_attach.session().training.run)


def test_a_script_saves_when_asked_at_the_end_of_a_step_so_that_it_can_go_on_from_there(tmp_path, monkeypatch):
    monkeypatch.setenv(environment.START, '{"micro_batch": 2}')
    loop = installed()
    loop.accelerator.init_trackers("stripes", config={"output_dir": str(tmp_path / "out")})
    at_the_end = {}
    asked_at(loop, 4)
    loop.at_step[5] = lambda: at_the_end.update(weights=loop.weights, rate=loop.scheduler.get_last_lr())
    loop.train()
    assert answered() == Answer(1, 1e9, 5, True, str(tmp_path / "out" / "checkpoint-5"))
    assert not torch.equal(loop.weights, at_the_end["weights"])
    loop.accelerator.load_state(answered().text)
    assert torch.equal(loop.weights, at_the_end["weights"])
    assert loop.scheduler.get_last_lr() == at_the_end["rate"]


def test_the_checkpoint_is_named_by_the_scripts_own_count_and_overwrites_nothing(tmp_path):
    loop = installed()
    loop.accelerator.init_trackers("stripes", config={"output_dir": str(tmp_path / "out")})
    (tmp_path / "out" / "checkpoint-104").mkdir(parents=True)
    told = []

    def logs():
        """As a script does that has gone on from step 100."""
        told.append(answered())
        loop.accelerator.log({"loss": 0.5}, step=100 + loop.steps)
        if loop.steps in (3, 5):
            ask_for(accelerate_attach.session().training.run, "save", loop.steps)

    loop.at_step = dict.fromkeys(range(1, 7), logs)
    loop.train(epochs=2)
    assert told[4] == Answer(3, 1e9, 4, False, f"{tmp_path / 'out' / 'checkpoint-104'} is there already")
    assert answered() == Answer(5, 1e9, 6, True, str(tmp_path / "out" / "checkpoint-106"))


def test_what_save_state_raises_is_the_answer_and_leaves_nothing_half_done(tmp_path, monkeypatch):
    loop = installed()
    loop.accelerator.init_trackers("stripes", config={"output_dir": str(tmp_path / "out")})

    def fails(path):
        (tmp_path / "out" / "checkpoint-3").mkdir(parents=True)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loop.accelerator, "save_state", fails)
    asked_at(loop, 2)
    loop.train(epochs=2)
    assert answered() == Answer(1, 1e9, 3, False, "OSError: [Errno 28] No space left on device")
    assert list((tmp_path / "out").iterdir()) == []
    assert loop.steps == 6


def test_a_script_of_which_nobody_knows_where_it_saves_is_not_asked():
    loop = installed()
    asked_at(loop, 2)
    loop.train(epochs=1)
    assert answered() is None
