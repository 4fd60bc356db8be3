"""Published architectures as networks of the trainer, and Stable Diffusion fine-tuned end to end on a tiny folder."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from tiny_pipeline import open_pipeline, write_pipeline

from autotuner.diffusion import betas, checkpoint, config, latents, lora, networks
from autotuner.diffusion.blas import mx
from autotuner.diffusion.config import TrainerConfig
from autotuner.diffusion.data import Dataset
from autotuner.diffusion.held_out import HeldOut
from autotuner.diffusion.models.weights import save
from autotuner.diffusion.noise import rho_schedule
from autotuner.diffusion.published import EDM_TIMESTEPS
from autotuner.diffusion.solvers import SOLVERS
from autotuner.diffusion.stable_diffusion import StableDiffusion
from autotuner.diffusion.stages import build
from autotuner.diffusion.trainer import Trainer
from autotuner.errors import ConfigurationError, DatasetError

UNET_2D = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "norm_num_groups": 4,
    "attention_head_dim": 8,
    "layers_per_block": 1,
}
DIT_2D = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "patch_size": 2, "norm_type": "ada_norm_zero"}


def colours():
    """Pictures of 16 x 16 pixels, red or blue above a darker half, with captions."""
    generator = np.random.default_rng(5)
    labels = np.arange(60) % 2
    images = np.full((60, 16, 16, 3), 30.0)
    images[labels == 0, :8, :, 0] = 230
    images[labels == 1, :8, :, 2] = 230
    pixels = np.clip(images + generator.normal(0, 8, images.shape), 0, 255).astype(np.uint8)
    captions = tuple("the red square" if label == 0 else "a blue square" for label in labels)
    marks = labels.astype(np.int32)
    return Dataset("colours", "made for tests", pixels[20:], marks[20:], pixels[:20], marks[:20], captions[20:], captions[:20])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def prepared(folder, tmp_path_factory):
    return latents.prepare(folder, colours(), (16, 8), tmp_path_factory.mktemp("cache"))


def fine_tuning(folder, prepared, **changes):
    return TrainerConfig(
        name="fine-tuning",
        network="stable_diffusion",
        model={},
        fixed={"folder": str(folder), "captions": str(prepared.captions), "rank": 4} | changes.pop("fixed", {}),
        process="vp_epsilon",
        beta_schedule="scaled_linear",
        weighting="uniform",
        sigma_min=0.03,
        sigma_max=14.0,
        batch=8,
        resolution=8,
        resolutions=(4, 8),
        micro_batch=8,
        micro_batches=(4, 8),
        student_ladder=(),
        seconds=None,
        steps=1000,
        evaluate_every_steps=10_000,
        held_out_images=20,
        quality_images=8,
        paired_images=0,
        half_life_images=20,
        learning_rate=2e-2,
        **changes,
    )


def small(network, **model):
    fixed = {
        "seconds": None,
        "steps": 10,
        "batch": 8,
        "micro_batch": 8,
        "micro_batches": (8,),
        "resolution": 8,
        "resolutions": (8,),
    }
    return TrainerConfig(network=network, model=model, fixed={}, **fixed)


PUBLISHED = {"unet2d": UNET_2D, "dit2d": DIT_2D}


def test_the_configuration_allows_the_networks_of_the_table():
    assert tuple(networks.NETWORKS) == config.NETWORKS


@pytest.mark.parametrize("process", ["edm", "vp_epsilon", "flow"])
@pytest.mark.parametrize("network", sorted(PUBLISHED))
def test_published_architectures_see_level_and_label(network, process):
    denoiser = build(replace(small(network, **PUBLISHED[network]), process=process), 1, 3, 8, 0.5)
    x, label = mx.random.normal((2, 8, 8, 1), key=mx.random.key(0)), mx.array([0, 3])
    base = denoiser.network(x, mx.array([0.1, 0.1]), label)
    assert base.shape == x.shape
    other_level = mx.array([0.3, 0.3]) if process == "edm" else mx.array([200.0, 200.0])
    assert float(mx.abs(denoiser.network(x, other_level, label) - base).max()) > 1e-4
    assert float(mx.abs(denoiser.network(x, mx.array([0.1, 0.1]), mx.array([1, 2])) - base).max()) > 1e-4


@pytest.mark.parametrize("network", sorted(PUBLISHED))
def test_a_published_architecture_trains(network, stripes, take):
    trainer = Trainer(replace(small(network, **PUBLISHED[network]), steps=40, evaluate_every_steps=1000), stripes)
    before = trainer.evaluator.held_out_losses().mean()
    take(trainer, 25)
    assert trainer.evaluator.held_out_losses().mean() < before


@pytest.mark.parametrize("network", sorted(PUBLISHED))
def test_a_folder_brings_its_weights_and_must_fit_the_images(network, tmp_path):
    first = networks.build_network(small(network, **PUBLISHED[network]), 1, 3, 8)
    save(first.model, tmp_path)
    from_folder = replace(small(network), fixed={"folder": str(tmp_path)})
    second = networks.build_network(from_folder, 1, 3, 8)
    arguments = mx.ones((1, 8, 8, 1)), mx.array([0.1]), mx.array([1])
    assert mx.array_equal(first(*arguments), second(*arguments))
    with pytest.raises(ConfigurationError, match="in_channels = 1; allowed is 3"):
        networks.build_network(from_folder, 3, 3, 8)
    with pytest.raises(ConfigurationError, match="= 4; allowed is 6" if network == "unet2d" else "= 3; allowed is 5"):
        networks.build_network(from_folder, 1, 5, 8)
    with pytest.raises(ConfigurationError, match="not allowed beside folder"):
        networks.build_network(replace(from_folder, model={"dropout": 0.0}), 1, 3, 8)


def walked(unet, scheduler, noise, timesteps=1):
    """Diffusers' own loop of five steps; ``timesteps`` multiplies what its network is told."""
    import torch

    scheduler.set_timesteps(5)
    x = torch.tensor(noise.transpose(0, 3, 1, 2))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for t in scheduler.timesteps:
            answer = unet(scheduler.scale_model_input(x, t), timesteps * t, torch.tensor([0, 2])).sample
            x = scheduler.step(answer, t, x).prev_sample
    return x.numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize("process", ["edm", "vp_epsilon", "vp_v"])
def test_what_is_trained_is_sampled_by_diffusers_as_the_page_says(process, tmp_path):
    from diffusers import DDIMScheduler, EDMEulerScheduler, UNet2DModel

    denoiser = build(replace(small("unet2d", **UNET_2D), process=process), 1, 3, 8, 0.4)
    save(denoiser.network.model, tmp_path)
    unet = UNet2DModel.from_pretrained(tmp_path, local_files_only=True)
    noise, labels = np.random.default_rng(4).standard_normal((2, 8, 8, 1)).astype(np.float32), np.array([0, 2])
    if process == "edm":
        levels = rho_schedule(5, 0.02, 40.0)
        scheduler = EDMEulerScheduler(sigma_min=0.02, sigma_max=40.0, sigma_data=0.4)
        found = walked(unet, scheduler, noise * np.float32(levels[0]), EDM_TIMESTEPS)
    else:
        levels = np.append(betas.sigmas("linear")[[999, 799, 599, 399, 199]], 0)
        predicts = {"vp_epsilon": "epsilon", "vp_v": "v_prediction"}[process]
        scheduler = DDIMScheduler(prediction_type=predicts, timestep_spacing="trailing", clip_sample=False)
        found = walked(unet, scheduler, noise * np.float32(levels[0] / np.hypot(1, levels[0])))
    x = SOLVERS["euler"](lambda x, sigma: denoiser(x, sigma, mx.array(labels)), mx.array(noise * levels[0]), list(levels))
    assert np.abs(found - np.array(x)).max() < 1e-3 * np.abs(found).max()


@pytest.mark.parametrize(
    "changes", [{"time_embedding_type": "fourier"}, {"time_embedding_type": "learned", "num_train_timesteps": 9}]
)
def test_timesteps_that_a_process_does_not_tell_are_refused(changes):
    with pytest.raises(ConfigurationError, match=r"time_embedding_type = '\w+'; allowed is positional"):
        networks.build_network(small("unet2d", **UNET_2D, **changes), 1, 3, 8)


def test_an_unknown_parameter_is_refused_by_name():
    with pytest.raises(ConfigurationError, match="widths"):
        networks.build_network(small("dit", widths=3), 1, 3, 8)
    with pytest.raises(ConfigurationError, match="widths"):
        networks.build_network(small("unet2d", widths=3), 1, 3, 8)


def test_latents_are_those_of_the_pictures_at_each_size(folder, prepared):
    pipeline, pictures = StableDiffusion.load(folder), colours()
    dataset = prepared.dataset
    assert np.array_equal(dataset.images, pipeline.encode(pictures.images))
    assert np.array_equal(dataset.at(4), pipeline.encode(pictures.scaled(8).images))
    assert np.array_equal(dataset.held_out_at(4), pipeline.encode(pictures.scaled(8).held_out_images))
    assert np.array_equal(HeldOut(dataset, 20, 4)._images, dataset.held_out_at(4))
    assert dataset.channels == 4
    assert [dataset.label_names[label] for label in dataset.held_out_labels] == list(pictures.held_out_captions)


def test_the_last_row_of_the_table_is_the_empty_prompt(folder, prepared):
    table = latents.read_captions(prepared.captions).context
    pipeline = StableDiffusion.load(folder)
    expected = pipeline.text.encode([*prepared.dataset.label_names, ""], (16, 16)).context
    assert table.shape == (prepared.dataset.classes + 1, 77, 16)
    assert float(mx.abs(table - expected).max()) < 1e-5


def test_latents_are_encoded_once(folder, tmp_path, monkeypatch):
    first = latents.prepare(folder, colours(), (16,), tmp_path)
    files = sorted(tmp_path.iterdir())
    monkeypatch.setattr(latents, "encode", lambda *_: pytest.fail("encoded again"))
    monkeypatch.setattr(latents.TextConditioning, "load", lambda *_: pytest.fail("encoded again"))
    again = latents.prepare(folder, colours(), (16,), tmp_path)
    assert np.array_equal(again.dataset.images, first.dataset.images)
    assert sorted(tmp_path.iterdir()) == files


def test_a_missing_text_encoder_is_found_before_any_picture_is_encoded(folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "folder", ignore=shutil.ignore_patterns("text_encoder"))
    monkeypatch.setattr(latents, "encode", lambda *_: pytest.fail("encoded for nothing"))
    with pytest.raises(ConfigurationError, match="text_encoder"):
        latents.prepare(tmp_path / "folder", colours(), (16,), tmp_path / "cache")


def test_a_folder_that_changes_is_read_again(folder, prepared, tmp_path):
    own = shutil.copytree(folder, tmp_path / "folder")
    pipeline = StableDiffusion.load(folder)
    networks.build_network(fine_tuning(own, prepared), 4, 2, 8)
    for model in (pipeline.unet, pipeline.vae):
        model.update(tree_map(lambda array: array * 0.5, model.parameters()))
    save(pipeline.unet, own / "unet")
    network = networks.build_network(fine_tuning(own, prepared), 4, 2, 8)
    assert mx.array_equal(network.unet.conv_in.weight, pipeline.unet.conv_in.weight)
    some = np.random.default_rng(0).standard_normal((1, 8, 8, 4)).astype(np.float32)
    network.decode(some)
    save(pipeline.vae, own / "vae")
    assert np.array_equal(network.decode(some), pipeline.decode(some))


def test_other_pictures_or_another_autoencoder_are_other_files(folder, tmp_path):
    pictures = colours()
    names = {latents._hash(*latents._files(folder / "vae"), pictures.images, 16)}
    names.add(latents._hash(*latents._files(folder / "vae"), pictures.images[::-1], 16))
    names.add(latents._hash(*latents._files(folder / "unet"), pictures.images, 16))
    names.add(latents._hash(*latents._files(folder / "vae"), pictures.images, 8))
    assert len(names) == 4


def test_pictures_without_captions_are_refused_unless_labels_have_names():
    bare = replace(colours(), captions=(), held_out_captions=())
    with pytest.raises(DatasetError, match="made for tests: no captions"):
        latents.captions_of(bare)
    assert latents.captions_of(replace(bare, label_names=("red", "blue")))[0][:2] == ("red", "blue")


def test_grey_pictures_are_encoded_as_colour(folder):
    vae = StableDiffusion.load(folder).vae
    grey = colours().images[:1, :, :, :1]
    assert np.array_equal(latents.encode(vae, grey), latents.encode(vae, np.repeat(grey, 3, axis=3)))


def test_dropping_the_label_is_dropping_the_caption(folder, prepared):
    network = networks.build_network(fine_tuning(folder, prepared), 4, 2, 8)
    pipeline = StableDiffusion.load(folder)
    x, t = mx.random.normal((2, 8, 8, 4), key=mx.random.key(0)), mx.array([10.0, 600.0])
    context = pipeline.text.encode(["", "a blue square"], (16, 16)).context
    row = prepared.dataset.label_names.index("a blue square")
    expected = pipeline.unet(x, t, context)
    assert float(mx.abs(network(x, t, mx.array([2, row])) - expected).max()) < 1e-5


def test_networks_of_one_training_share_their_frozen_weights(folder, prepared):
    first, second = (dict(tree_flatten(networks.build_network(fine_tuning(folder, prepared), 4, 2, 8))) for _ in range(2))
    shared = [name for name in first if first[name] is second[name]]
    assert len(shared) > len(first) / 2


def test_frozen_weights_are_held_once_and_in_half_where_the_training_is(folder, prepared, take):
    config = replace(fine_tuning(folder, prepared), precision="bfloat16")
    mx.eval(networks.build_network(config, 4, 2, 8).parameters())
    before = mx.get_active_memory()
    further = networks.build_network(config, 4, 2, 8)
    further.set_dtype(mx.bfloat16)
    mx.eval(further.parameters())
    assert further.unet.conv_in.weight.dtype == mx.bfloat16
    weights = sum(array.nbytes for _, array in tree_flatten(further.parameters()))
    assert mx.get_active_memory() - before < weights / 10
    trainer = Trainer(config, prepared.dataset)
    first = trainer.evaluator.held_out_losses().mean()
    take(trainer, 20)
    assert trainer.evaluator.held_out_losses().mean() < first


def test_a_tiny_stable_diffusion_learns_pictures_and_its_adapter_loads_in_diffusers(folder, prepared, take, tmp_path):
    trainer = Trainer(fine_tuning(folder, prepared), prepared.dataset)
    before = trainer.evaluator.held_out_losses().mean()
    take(trainer, 40)
    assert trainer.evaluator.held_out_losses().mean() < 0.8 * before
    assert np.isfinite(trainer.evaluator.quality("teacher", 2))
    assert trainer.evaluator.samples("teacher", 2, 2, seed=1).shape == (2, 16, 16, 3)
    unet = trainer.stages.teacher.denoiser.network.unet
    lora.save(tmp_path, {"unet": unet})
    theirs = open_pipeline(folder)
    theirs.load_lora_weights(tmp_path, local_files_only=True)
    compared = StableDiffusion.load(folder)
    compared.load_adapter(tmp_path)
    import torch

    x, context = np.random.default_rng(0).standard_normal((1, 8, 8, 4)).astype(np.float32), latents.read_captions
    row = np.array(context(prepared.captions).context[:1])
    with torch.no_grad():
        expected = theirs.unet(torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor([300.0]), torch.tensor(row)).sample.numpy()
    found = np.array(compared.unet(mx.array(x), mx.array([300.0]), mx.array(row))).transpose(0, 3, 1, 2)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    checkpoint.save(trainer, tmp_path / "checkpoint.safetensors")
    again = Trainer(fine_tuning(folder, prepared), prepared.dataset)
    checkpoint.restore(again, tmp_path / "checkpoint.safetensors")
    assert take(again, 1)[0].loss == take(trainer, 1)[0].loss
    assert checkpoint.samples(tmp_path / "checkpoint.safetensors", "teacher", 2, 2, 1).shape == (2, 16, 16, 3)


def test_every_weight_trains_when_asked_and_half_of_a_run_may_be_at_lower_resolution(folder, prepared, take):
    trainer = Trainer(fine_tuning(folder, prepared, fixed={"adapter": "full"}), prepared.dataset)
    names = {name for name, _ in tree_flatten(trainer.stages.teacher.denoiser.trainable_parameters())}
    assert "network.unet.conv_in.weight" in names
    take(trainer, 2)
    trainer.set_knob("resolution", 4)
    assert take(trainer, 1)[0].resolution == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fixed": {"adapter": "ia3"}}, "adapter 'ia3'; allowed: lora, full"),
        ({"process": "edm"}, "process 'edm'"),
        ({"beta_schedule": "linear"}, "beta_schedule 'linear'"),
        ({"fixed": {"captions": "nowhere.safetensors"}}, "captions 'nowhere.safetensors': not a table of captions"),
    ],
)
def test_what_does_not_belong_together_is_refused(folder, prepared, changes, message):
    fixed = changes.get("fixed", {})
    told = replace(fine_tuning(folder, prepared, fixed=fixed), **{k: v for k, v in changes.items() if k != "fixed"})
    with pytest.raises(ConfigurationError) as caught:
        networks.build_network(told, 4, 2, 8)
    assert message in str(caught.value)


def test_a_table_of_other_captions_is_refused(folder, prepared):
    with pytest.raises(ConfigurationError, match="3 rows; 5 captions"):
        networks.build_network(fine_tuning(folder, prepared), 4, 5, 8)
