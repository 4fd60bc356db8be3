"""Real trainers of MLX with the hook around them: the same losses, one report a step, knobs as the table says."""

from types import SimpleNamespace

import pytest

mx = pytest.importorskip("mlx.core")

import mlx.nn as nn  # noqa: E402
import mlx.optimizers as optim  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402

from autotuner.adapters.table import effect_of  # noqa: E402
from autotuner.hook.checkpoint import Answer, ability_on  # noqa: E402
from autotuner.hook.run import Run  # noqa: E402
from autotuner.messages import Evaluation, Sample  # noqa: E402
from tests.adapters.ring_of import answer_of, ask_for, declaration, records  # noqa: E402


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


def diffuser(tune=None, steps=5, **settings):
    library = pytest.importorskip("mlx_diffuser")
    mx.random.seed(0)
    model = library.DiT(library.DiTConfig(in_channels=1, patch_size=4, hidden_size=16, depth=1, num_heads=2))
    trainer = library.DiffusionTrainer(model, library.FlowMatchEulerScheduler(), lr=1e-3, ema_decay=0.9)
    tuned = tune(trainer, "stripes", steps=5, **settings) if tune else None
    history = trainer.fit([mx.ones((4, 8, 8, 1))] * steps, steps=steps)
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


def copies(*trees):
    """All their numbers as they are now."""
    return {f"{n}.{name}": mx.array(array) for n, tree in enumerate(trees) for name, array in tree_flatten(tree)}


def same(one, other):
    return one.keys() == other.keys() and all(mx.array_equal(one[name], other[name]) for name in one)


def test_mlx_diffuser_saves_and_goes_back_when_asked_and_trains_on_from_there(tmp_path):
    from autotuner.adapters.mlx_diffuser import tune

    _, tuned = diffuser(tune, checkpoints=tmp_path)
    trainer, run, images = tuned._trainer, tuned.training.run, mx.ones((4, 8, 8, 1))
    assert ability_on((run.directory / "knobs.page").read_bytes()) == ("save", "restore")

    def now():
        return copies(trainer.model.parameters(), trainer.optimizer.state, trainer.ema.shadow)

    def step():
        """With the same noise each time."""
        trainer._key = mx.random.key(3)
        tuned.step(images)
        return now()

    ask_for(run, "save")
    saved, after = step(), step()
    path = str(tmp_path / "asked-0000006")
    assert answer_of(run) == Answer(1, 1e9, 6, True, path)
    assert not same(saved, after)
    ask_for(run, "restore", 2)
    assert same(step(), saved)
    assert answer_of(run) == Answer(2, 1e9, 6, True, path)
    assert same(step(), after), "the compiled step goes on with the restored optimizer"
    ask_for(run, "restore", 3, path)
    assert same(step(), saved)


@pytest.mark.filterwarnings("ignore:a request to restore failed")
def test_a_checkpoint_of_another_network_or_none_changes_nothing_and_says_why(tmp_path):
    from autotuner.adapters.mlx_diffuser import tune

    _, tuned = diffuser(tune, steps=1, checkpoints=tmp_path)
    run, trainer = tuned.training.run, tuned._trainer
    ask_for(run, "restore")
    tuned.step(mx.ones((4, 8, 8, 1)))
    assert answer_of(run).text == "ValueError: this run has not been asked to save before: name the checkpoint"
    for number, (files, reason) in enumerate(
        [({}, "OSError"), ({"model": {"x": mx.zeros(3)}, "optimizer": {}, "ema": {}}, "this run trains with")], start=2
    ):
        for name, arrays in files.items():
            mx.save_safetensors(str(tmp_path / f"{name}.safetensors"), arrays)
        ask_for(run, "restore", number, str(tmp_path))
        trainer._step_fn = lambda *_: mx.array(0.5)  # so that nothing else changes the weights
        before = copies(trainer.model.parameters())
        tuned.step(mx.ones((4, 8, 8, 1)))
        answer = answer_of(run)
        assert (answer.number, answer.done) == (number, False)
        assert reason in answer.text
        assert same(copies(trainer.model.parameters()), before)


def llama():
    from mlx_lm.models.llama import Model, ModelArgs

    mx.random.seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16, "num_attention_heads": 2, "vocab_size": 32}
    return Model(ModelArgs(model_type="llama", rms_norm_eps=1e-5, **sizes))


def test_mlx_lm_is_watched_at_each_iteration_and_its_validation_is_left_alone(tmp_path):
    pytest.importorskip("mlx_lm")
    from mlx_lm.tuner.trainer import TrainingArgs, iterate_batches, train

    from autotuner.adapters.mlx_lm_callback import AutotunerCallback

    model = llama()
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


def test_mlx_lm_saves_and_goes_back_when_asked_and_trains_on_from_there(tmp_path):
    pytest.importorskip("mlx_lm")
    from mlx_lm.tuner.trainer import TrainingArgs, iterate_batches, train

    from autotuner.adapters.mlx_lm_callback import AutotunerCallback

    model, optimizer, at = llama(), optim.Adam(0.01), []
    tuned = AutotunerCallback("lora", model, optimizer=optimizer, checkpoints=tmp_path / "asked")

    def batches(*arguments, **named):
        """What people ask between two iterations; each batch is the same."""
        for batch in iterate_batches(*arguments, **named):
            at.append(copies(model.trainable_parameters(), optimizer.state))
            if len(at) in (3, 5):
                ask_for(tuned.training.run, {3: "save", 5: "restore"}[len(at)], len(at))
            yield batch

    settings = TrainingArgs(batch_size=4, iters=8, max_seq_length=16, adapter_file=str(tmp_path / "adapters.safetensors"))
    data = [(list(range(16)), 0)] * 8
    train(model, optimizer, data, args=settings, iterate_batches=tuned.batches(batches), training_callback=tuned)
    path = tmp_path / "asked" / "asked-0000003"
    assert answer_of(tuned.training.run) == Answer(5, 1e9, 3, True, str(path))
    assert not same(at[3], at[4])
    assert same(at[5], at[3])
    assert same(at[6], at[4]), "the compiled step goes on with the restored optimizer"
    assert mx.load(str(path / "adapters.safetensors")).keys() == dict(tree_flatten(model.trainable_parameters())).keys()


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


def mflux_training(batch=2, output="", saved=None):
    from mflux.models.common.training.dataset.iterator import Iterator
    from mflux.models.common.training.statistics.statistics import Statistics

    items = [SimpleNamespace(clean_latents=mx.ones((1, 4)) * n, cond=None, width=8, height=8) for n in range(4)]
    data = SimpleNamespace(data=items, size=lambda: len(items))
    state = SimpleNamespace(
        iterator=Iterator(data, batch, num_epochs=3, seed=0), statistics=Statistics(),
        optimizer=SimpleNamespace(optimizer=optim.SGD(0.1)), should_plot_loss=lambda spec: False,
        should_generate_image=lambda spec: False, should_save=lambda spec: False,
        save=lambda *_: None if saved is None else saved.append(state.iterator.to_dict()),
    )  # fmt: skip
    spec = SimpleNamespace(
        monitoring=None, gradient_checkpointing=False, low_ram=False, max_resolution=512,
        checkpoint=SimpleNamespace(output_path=output),
        training_loop=SimpleNamespace(batch_size=batch, timestep_low=0, timestep_high=None, timestep_type=None),
        optimizer=SimpleNamespace(max_grad_norm=None, gradient_accumulation_steps=1),
    )  # fmt: skip
    return spec, state


@pytest.fixture
def tuned_mflux(monkeypatch):
    """mflux's trainer, patched until the test is over; ``plain`` is it before."""
    module = pytest.importorskip("mflux.models.common.training.trainer")
    from mflux.models.common.training.dataset.iterator import Iterator
    from mflux.models.common.training.statistics.statistics import Statistics

    from autotuner.adapters import mflux_attach

    trainer = module.TrainingTrainer
    monkeypatch.setattr(trainer, "_preview_dimensions", staticmethod(lambda *_, **__: (8, 8)))
    for owner, name in ((Iterator, "__next__"), (Statistics, "append_values"), (trainer, "train")):
        monkeypatch.setattr(owner, name, owner.__dict__[name])  # put back after the test
    plain, watch = trainer.train, mflux_attach.Watch()
    monkeypatch.setattr(mflux_attach, "Watch", lambda: watch)
    monkeypatch.setattr(trainer, "_autotuner", False, raising=False)
    mflux_attach.install(module)
    mflux_attach.install(module)
    return SimpleNamespace(plain=plain, train=trainer.train, watch=watch)


def test_mflux_is_watched_through_its_iterator(tuned_mflux):
    plain, tuned = Adapter(), Adapter()
    for train, adapter in ((tuned_mflux.plain, plain), (tuned_mflux.train, tuned)):
        spec, state = mflux_training()
        train(adapter=adapter, training_spec=spec, training_state=state)
    assert mx.array_equal(tuned.net.weight, plain.net.weight)
    run = tuned_mflux.watch.training.run
    seen = records(run, Sample)
    assert [sample.step for sample in seen] == [1, 2, 3, 4, 5, 6]
    assert seen[-1].images == 12
    assert effects(run) == expected_effects("mflux", "pace", "cache_limit", "micro_batch", "resolution")
    assert not declaration(run).knob("resolution").tunable


def test_mflux_writes_its_own_checkpoint_when_asked_before_it_draws_the_next_batch(tuned_mflux, monkeypatch, tmp_path):
    saved, tuned = [], Adapter()
    spec, state = mflux_training(output=str(tmp_path), saved=saved)
    predict, calls = tuned.predict_noise, []

    def people(**named):
        calls.append(None)
        if len(calls) == 5:  # the first image of step 3
            ask_for(tuned_mflux.watch.training.run, "save")
        return predict(**named)

    monkeypatch.setattr(tuned, "predict_noise", people)
    tuned_mflux.train(adapter=tuned, training_spec=spec, training_state=state)
    path = tmp_path / "checkpoints" / "0000003_checkpoint.zip"
    assert answer_of(tuned_mflux.watch.training.run) == Answer(1, 1e9, 3, True, str(path))
    assert [each["num_iterations"] for each in saved] == [3, 6]
    assert saved[0]["position"] == 2, "nothing of the next batch is gone"
