"""Real trainers of MLX with the hook around them: the same losses, one report a step, knobs as the table says."""

from types import SimpleNamespace

import pytest

mx = pytest.importorskip("mlx.core")

import mlx.nn as nn  # noqa: E402
import mlx.optimizers as optim  # noqa: E402

from autotuner.adapters.table import effect_of  # noqa: E402
from autotuner.hook.run import Run  # noqa: E402
from autotuner.messages import Evaluation, Sample  # noqa: E402
from tests.adapters.ring_of import declaration, records  # noqa: E402


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOTUNER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(Run, "close", lambda self, outcome="finished": None)  # so that the ring can be read through the run
    limit = mx.set_cache_limit(2**28)
    yield
    mx.set_cache_limit(limit)


def effects(run):
    return {knob.name: knob.effect for knob in declaration(run).knobs}


def expected_effects(adapter, *names):
    return {name: effect_of(adapter, name) for name in names}


def diffuser(tune=None):
    library = pytest.importorskip("mlx_diffuser")
    mx.random.seed(0)
    model = library.DiT(library.DiTConfig(in_channels=1, patch_size=4, hidden_size=16, depth=1, num_heads=2))
    trainer = library.DiffusionTrainer(model, library.FlowMatchEulerScheduler(), lr=1e-3)
    tuned = tune(trainer, "stripes", steps=5) if tune else None
    history = trainer.fit([mx.ones((4, 8, 8, 1))] * 5, steps=5)
    return history, tuned


def test_mlx_diffuser_trains_as_before_and_is_reported():
    from autotuner.adapters.mlx_diffuser import tune

    expected, _ = diffuser()
    history, tuned = diffuser(tune)
    assert history == expected
    seen = records(tuned.training.run, Sample)
    assert [sample.loss for sample in seen] == pytest.approx(history)
    assert [sample.images for sample in seen] == [4, 8, 12, 16, 20]
    assert seen[-1].peak_bytes > 0
    assert effects(tuned.training.run) == expected_effects("mlx-diffuser", "pace", "cache_limit", "micro_batch")
    assert declaration(tuned.training.run).model["resolution"] == 8


def test_the_cache_limit_reaches_mlx_and_pace_rests(monkeypatch):
    from autotuner.adapters.mlx_diffuser import tune
    from autotuner.adapters.mlx_training import cache_limit

    pauses = []
    monkeypatch.setattr("autotuner.adapters.pause.time.sleep", pauses.append)
    _, tuned = diffuser(tune)
    tuned.training._pauses._sleep = pauses.append
    tuned.training.run.set("cache_limit", 2**26)
    tuned.training.run.set("pace", 0.5)
    tuned.step(mx.ones((4, 8, 8, 1)))
    assert cache_limit() == 2**26
    assert len(pauses) == 1
    assert 0 < pauses[0] <= 0.4


def test_a_trainer_that_is_closed_has_its_own_step_again():
    from autotuner.adapters.mlx_diffuser import tune

    _, tuned = diffuser(tune)
    tuned.close()
    assert tuned._trainer.step == tuned._inner


def test_mlx_lm_is_watched_at_each_iteration_and_its_validation_is_left_alone(tmp_path):
    pytest.importorskip("mlx_lm")
    from mlx_lm.models.llama import Model, ModelArgs
    from mlx_lm.tuner.trainer import TrainingArgs, iterate_batches, train

    from autotuner.adapters.mlx_lm_callback import AutotunerCallback

    mx.random.seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16, "num_attention_heads": 2, "vocab_size": 32}
    model = Model(ModelArgs(model_type="llama", rms_norm_eps=1e-5, **sizes))
    data = [(list(range(16)), 0)] * 8
    told = []
    own = SimpleNamespace(on_train_loss_report=told.append, on_val_loss_report=told.append)
    tuned = AutotunerCallback("lora", model, iterations=6, wrapped=own)
    settings = TrainingArgs(
        batch_size=4, iters=6, val_batches=1, steps_per_report=3, steps_per_eval=6, max_seq_length=16,
        adapter_file=str(tmp_path / "adapters.safetensors"),
    )  # fmt: skip
    batches = tuned.batches(iterate_batches)
    train(model, optim.SGD(0.1), data, data, settings, iterate_batches=batches, training_callback=tuned)
    tuned.close()
    seen = records(tuned.training.run, Sample)
    assert [sample.step for sample in seen] == [1, 2, 3, 4, 5, 6]
    assert [sample.step for sample in seen if sample.loss == sample.loss] == [3, 6]
    assert len(records(tuned.training.run, Evaluation)) == 2
    assert len(told) == 4
    assert effects(tuned.training.run) == expected_effects("mlx-lm", "pace", "cache_limit", "micro_batch")


class Adapter:
    """The least that mflux's training loop needs of a model."""

    def __init__(self):
        mx.random.seed(0)
        self.net = nn.Linear(4, 4)
        self.config = SimpleNamespace(
            scheduler=SimpleNamespace(sigmas=mx.array([1.0, 0.5])), precision=mx.float32, num_inference_steps=2,
            model_config=SimpleNamespace(requires_sigma_shift=False), image_seq_len=4,
        )  # fmt: skip

    def create_config(self, spec, **_):
        return self.config

    def freeze_base(self):
        """Nothing is frozen here."""

    set_gradient_checkpointing = freeze_base

    def transformer(self):
        return self.net

    model = transformer

    def predict_noise(self, *, latents_t, **_):
        return self.net(latents_t)


def mflux_training(batch=2):
    from mflux.models.common.training.dataset.iterator import Iterator
    from mflux.models.common.training.statistics.statistics import Statistics

    items = [SimpleNamespace(clean_latents=mx.ones((1, 4)) * n, cond=None, width=8, height=8) for n in range(4)]
    data = SimpleNamespace(data=items, size=lambda: len(items))
    state = SimpleNamespace(
        iterator=Iterator(data, batch, num_epochs=3, seed=0), statistics=Statistics(),
        optimizer=SimpleNamespace(optimizer=optim.SGD(0.1)), should_plot_loss=lambda spec: False,
        should_generate_image=lambda spec: False, should_save=lambda spec: False, save=lambda *_: None,
    )  # fmt: skip
    spec = SimpleNamespace(
        monitoring=None, gradient_checkpointing=False, low_ram=False, max_resolution=512,
        training_loop=SimpleNamespace(batch_size=batch, timestep_low=0, timestep_high=None, timestep_type=None),
        optimizer=SimpleNamespace(max_grad_norm=None, gradient_accumulation_steps=1),
    )  # fmt: skip
    return spec, state


def test_mflux_is_watched_through_its_iterator(monkeypatch):
    module = pytest.importorskip("mflux.models.common.training.trainer")
    from mflux.models.common.training.dataset.iterator import Iterator
    from mflux.models.common.training.statistics.statistics import Statistics

    from autotuner.adapters import mflux_attach

    monkeypatch.setattr(module.TrainingTrainer, "_preview_dimensions", staticmethod(lambda *_, **__: (8, 8)))
    plain = Adapter()
    spec, state = mflux_training()
    module.TrainingTrainer.train(adapter=plain, training_spec=spec, training_state=state)

    for owner, name in ((Iterator, "__next__"), (Statistics, "append_values"), (module.TrainingTrainer, "train")):
        monkeypatch.setattr(owner, name, owner.__dict__[name])  # put back after the test
    watch = mflux_attach.Watch()
    monkeypatch.setattr(mflux_attach, "Watch", lambda: watch)
    monkeypatch.setattr(module.TrainingTrainer, "_autotuner", False, raising=False)
    mflux_attach.install(module)
    mflux_attach.install(module)
    tuned = Adapter()
    spec, state = mflux_training()
    module.TrainingTrainer.train(adapter=tuned, training_spec=spec, training_state=state)
    assert mx.array_equal(tuned.net.weight, plain.net.weight)
    seen = records(watch.training.run, Sample)
    assert [sample.step for sample in seen] == [1, 2, 3, 4, 5, 6]
    assert seen[-1].images == 12
    assert effects(watch.training.run) == expected_effects("mflux", "pace", "cache_limit", "micro_batch", "resolution")
    assert not declaration(watch.training.run).knob("resolution").tunable
