"""Real trainers of PyTorch with their callback: the same losses and weights, one report a step, knobs as the table says."""

import gc
import math

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from autotuner.adapters.table import effect_of  # noqa: E402
from autotuner.hook.checkpoint import Answer  # noqa: E402
from autotuner.messages import FLAG_OUT_OF_MEMORY, Evaluation, Sample  # noqa: E402
from tests.adapters.ring_of import answer_of, ask_for, declaration, records  # noqa: E402

STEPS, BATCH, ACCUMULATION = 6, 4, 2


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOTUNER_STATE_DIR", str(tmp_path / "state"))
    torch.manual_seed(0)
    yield
    gc.collect()


class Regression(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 1)

    def forward(self, inputs, targets):
        return {"loss": nn.functional.mse_loss(self.layer(inputs), targets)}


def data():
    inputs = torch.randn(64, 3, generator=torch.Generator().manual_seed(1))
    return inputs, inputs.sum(1, keepdim=True)


def weights(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def train_transformers(tmp_path, *callbacks):
    transformers = pytest.importorskip("transformers")
    rows = [{"inputs": one, "targets": other} for one, other in zip(*data(), strict=True)]
    arguments = transformers.TrainingArguments(
        str(tmp_path / "out"), per_device_train_batch_size=BATCH, gradient_accumulation_steps=ACCUMULATION, max_steps=STEPS,
        learning_rate=0.1, logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
        dataloader_pin_memory=False, label_names=["targets"], eval_strategy="steps", eval_steps=3,
    )  # fmt: skip
    model = Regression()
    trainer = transformers.Trainer(model, arguments, train_dataset=rows, eval_dataset=rows[:8], callbacks=list(callbacks))
    trainer.train()
    return model


def tuned_transformers(**settings):
    pytest.importorskip("transformers")
    from autotuner.adapters.transformers_callback import AutotunerCallback

    return AutotunerCallback("regression", **settings)


def open_at_the_end(monkeypatch):
    """``close`` says nothing yet, so that the ring can be looked at through the run."""
    from autotuner.hook.run import Run

    monkeypatch.setattr(Run, "close", lambda self, outcome="finished": None)


def test_transformers_trains_as_before_and_is_reported(tmp_path, monkeypatch):
    expected = weights(train_transformers(tmp_path))
    open_at_the_end(monkeypatch)
    tuned = tuned_transformers()
    assert all(map(torch.equal, weights(train_transformers(tmp_path, tuned)), expected))
    seen = records(tuned.training.run, Sample)
    assert [sample.step for sample in seen] == list(range(1, STEPS + 1))
    assert seen[-1].images == STEPS * BATCH * ACCUMULATION
    assert not math.isnan(seen[-1].loss)
    assert [record.step for record in records(tuned.training.run, Evaluation)] == [3, 6]
    declared = declaration(tuned.training.run)
    assert (declared.framework, declared.budget_steps, declared.model["batch"]) == ("transformers-cpu", STEPS, BATCH)
    assert {knob.name: knob.effect for knob in declared.knobs} == {
        name: effect_of("transformers", name) for name in ("micro_batch", "pace")
    }


def test_transformers_scales_the_rate_of_its_schedule(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    open_at_the_end(monkeypatch)
    rates = []

    class Scale(transformers.TrainerCallback):
        def on_train_begin(self, *_, **__):
            tuned.training.run.set("lr_scale", 0.5)

        def on_pre_optimizer_step(self, args, state, control, optimizer=None, **_):
            rates.append(optimizer.param_groups[0]["lr"])

    tuned = tuned_transformers(knobs=("lr_scale",))
    train_transformers(tmp_path, tuned, Scale())
    planned = [0.1 * (1 - step / STEPS) for step in range(STEPS)]
    assert [rate / plan for rate, plan in zip(rates, planned, strict=True)] == pytest.approx(
        [2 ** (-(step + 1) / 50) for step in range(STEPS)], rel=1e-6
    )


def train_lightning(tmp_path, *callbacks, fail=""):
    pl = pytest.importorskip("lightning.pytorch")

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Regression()

        def training_step(self, batch, index):
            if fail and index == 5:
                raise RuntimeError(fail)
            return self.net(*batch)["loss"]

        def validation_step(self, batch, index):
            self.log("val_loss", self.net(*batch)["loss"])

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    trainer = pl.Trainer(
        max_steps=STEPS, accumulate_grad_batches=ACCUMULATION, callbacks=list(callbacks), accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=str(tmp_path),
    )  # fmt: skip
    module = Module()
    loader = DataLoader(TensorDataset(*data()), BATCH)
    trainer.fit(module, loader, loader)
    return module


lightning_warns = pytest.mark.filterwarnings(
    "ignore"
)  # of its own deprecations and of few workers, in every version other ones


def tuned_lightning(**settings):
    pytest.importorskip("lightning.pytorch")
    from autotuner.adapters.lightning_callback import AutotunerCallback

    return AutotunerCallback("regression", **settings)


@lightning_warns
def test_lightning_trains_as_before_and_is_reported(tmp_path, monkeypatch):
    tuned = tuned_lightning()
    expected = weights(train_lightning(tmp_path))
    open_at_the_end(monkeypatch)
    assert all(map(torch.equal, weights(train_lightning(tmp_path, tuned)), expected))
    seen = records(tuned.training.run, Sample)
    assert [sample.step for sample in seen] == list(range(1, STEPS + 1))
    assert seen[-1].images == STEPS * BATCH * ACCUMULATION
    assert seen[-1].loss < seen[0].loss
    declared = declaration(tuned.training.run)
    assert declared.budget_steps == STEPS
    assert {knob.name: knob.effect for knob in declared.knobs} == {
        name: effect_of("lightning", name) for name in ("micro_batch", "pace")
    }


@lightning_warns
def test_lightning_scales_the_rate_only_while_the_optimizer_steps(tmp_path, monkeypatch):
    pl = pytest.importorskip("lightning.pytorch")
    open_at_the_end(monkeypatch)
    seen = []

    class Scale(pl.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            seen.append(optimizer.param_groups[0]["lr"])
            tuned.training.run.set("lr_scale", 2.0)

        def on_train_batch_end(self, trainer, *_):
            seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    tuned = tuned_lightning(knobs=("lr_scale",))
    train_lightning(tmp_path, tuned, Scale())
    between = seen[2::3]
    assert between == pytest.approx([0.1 * 0.9**step for step in range(1, len(between) + 1)])
    assert seen[1::3][1] == pytest.approx(0.09 * 2 ** (1 / 50))


@lightning_warns
def test_out_of_memory_of_mps_which_lightning_does_not_know_is_told(tmp_path, monkeypatch):
    tuned = tuned_lightning()
    with pytest.raises(RuntimeError, match="MPS backend"):
        train_lightning(tmp_path, tuned, fail="MPS backend out of memory (MPS allocated: 17.2 GB)")
    assert records(tuned.training.run, Sample)[-1].flags & FLAG_OUT_OF_MEMORY


def test_transformers_saves_when_asked(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    open_at_the_end(monkeypatch)

    class People(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 3:
                ask_for(tuned.training.run, "save")

    tuned = tuned_transformers()
    train_transformers(tmp_path, tuned, People())
    assert answer_of(tuned.training.run) == Answer(1, 1e9, 4, True, str(tmp_path / "out" / "checkpoint-4"))
    assert (tmp_path / "out" / "checkpoint-4" / "trainer_state.json").is_file()


@lightning_warns
def test_lightning_saves_when_asked(tmp_path, monkeypatch):
    pl = pytest.importorskip("lightning.pytorch")
    open_at_the_end(monkeypatch)

    class People(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            if index == 4:
                ask_for(tuned.training.run, "save")

    tuned = tuned_lightning()
    train_lightning(tmp_path, tuned, People())
    path = tmp_path / "checkpoints" / "asked-step=3.ckpt"
    assert answer_of(tuned.training.run) == Answer(1, 1e9, 3, True, str(path))
    assert torch.load(path, weights_only=False)["global_step"] == 3
