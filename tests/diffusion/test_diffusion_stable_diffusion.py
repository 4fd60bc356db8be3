"""Whole pipelines beside diffusers', from the same folder and the same noise."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from tiny_pipeline import open_pipeline, write_pipeline

from autotuner.diffusion import lora
from autotuner.diffusion.blas import mx
from autotuner.diffusion.models.unet_2d_condition import UNet2DConditionModel
from autotuner.diffusion.models.weights import load
from autotuner.diffusion.scheduler import Scheduler
from autotuner.diffusion.stable_diffusion import StableDiffusion
from autotuner.errors import ConfigurationError

PROMPTS = ["the red cat", "a square, and the BLUE round thing"]
NEGATIVE = "the of"
VARIANTS = {
    "epsilon": {},
    "v prediction": {"scheduler": {"prediction_type": "v_prediction"}},
    "trailing, ends at zero": {"scheduler": {"timestep_spacing": "trailing", "set_alpha_to_one": True}},
    "two encoders": {"xl": True},
}


@pytest.fixture(scope="module", params=sorted(VARIANTS))
def folder(request, tmp_path_factory):
    return write_pipeline(tmp_path_factory.mktemp("pipeline"), **VARIANTS[request.param])


@pytest.fixture(scope="module")
def both(folder):
    return StableDiffusion.load(folder), open_pipeline(folder)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_pipeline(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def ours(plain):
    return StableDiffusion.load(plain)


def of_theirs(pipeline, noise, **changes):
    """Latents (channels last, standardised) and uint8 pictures."""
    told = {"prompt": PROMPTS, "negative_prompt": [NEGATIVE] * 2, "num_inference_steps": 4, "guidance_scale": 5.0} | changes
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = torch.tensor(np.array(noise).transpose(0, 3, 1, 2))
        size = {"height": noise.shape[1] * 2, "width": noise.shape[2] * 2}
        latents = pipeline(latents=start, output_type="latent", **size, **told).images.numpy()
        decoded = pipeline.vae.decode(torch.tensor(latents) / pipeline.vae.config.scaling_factor).sample.numpy()
    pictures = np.clip(np.rint(decoded.transpose(0, 2, 3, 1) * 127.5 + 127.5), 0, 255)
    return latents.transpose(0, 2, 3, 1), pictures


def apart(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_latents_and_pictures_are_those_of_diffusers(both, guidance):
    ours, theirs = both
    noise = ours.noise(2, 24, 16, seed=4)
    levels = ours.scheduler.levels(4)
    latents = ours.sample(noise * np.sqrt(1 + levels[0] ** 2), levels, PROMPTS, NEGATIVE, guidance, "ddim")
    expected, pictures = of_theirs(theirs, noise, guidance_scale=guidance)
    assert apart(latents, expected) < 1e-3
    assert np.abs(ours.decode(latents).astype(int) - pictures).max() <= 2


def test_an_empty_negative_prompt_is_told_as_diffusers_tells_it(both):
    ours, theirs = both
    noise = ours.noise(2, 16, 16, seed=4)
    levels = ours.scheduler.levels(4)
    latents = ours.sample(noise * np.sqrt(1 + levels[0] ** 2), levels, PROMPTS, "", 5.0, "ddim")
    assert apart(latents, of_theirs(theirs, noise, negative_prompt=None)[0]) < 1e-3


def test_the_whole_way_from_text_is_what_its_parts_make(both):
    ours, theirs = both
    pictures = ours.text_to_image(PROMPTS, NEGATIVE, steps=4, guidance=5.0, solver="ddim", seed=4, height=24, width=16)
    assert pictures.shape == (2, 24, 16, 3)
    assert pictures.dtype == np.uint8
    assert np.abs(pictures.astype(int) - of_theirs(theirs, ours.noise(2, 24, 16, seed=4))[1]).max() <= 2


def test_image_to_image_begins_where_diffusers_does(ours, plain):
    from diffusers import StableDiffusionImg2ImgPipeline

    pipeline = open_pipeline(plain)
    theirs = StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    start = torch.tensor(ours.encode(images).transpose(0, 3, 1, 2))
    noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        told = {"strength": 0.5, "num_inference_steps": 8, "guidance_scale": 3.0, "output_type": "latent"}
        expected = theirs(PROMPTS, start, generator=torch.Generator().manual_seed(5), **told).images.numpy()
    levels = ours.scheduler.levels(8)[-5:]
    x = mx.array(ours.encode(images)) + levels[0] * mx.array(noise.numpy().transpose(0, 2, 3, 1))
    assert apart(ours.sample(x, levels, PROMPTS, "", 3.0, "ddim"), expected.transpose(0, 2, 3, 1)) < 1e-3


def test_weak_image_to_image_stays_near_its_image_and_strong_leaves_it(ours):
    images = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    away = [
        np.abs(
            ours.encode(ours.image_to_image(images, ["cat"], strength=strength, steps=10, guidance=1)) - ours.encode(images)
        ).mean()
        for strength in (0.1, 1.0)
    ]
    assert away[0] < away[1]


def test_encoding_is_the_mean_that_diffusers_encodes(ours, plain):
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)
    vae = open_pipeline(plain).vae
    with torch.no_grad():
        mean = vae.encode(torch.tensor(images.transpose(0, 3, 1, 2) / 127.5 - 1, dtype=torch.float32)).latent_dist.mean
    expected = (mean * vae.config.scaling_factor).numpy().transpose(0, 2, 3, 1)
    assert apart(ours.encode(images), expected) < 1e-4


@pytest.mark.slow
def test_solvers_and_schedules_come_nearer_to_one_picture_with_more_steps(ours):
    noise = ours.noise(1, 8, 8, seed=1)

    def latents(solver, schedule, steps):
        levels = ours.scheduler.levels(steps, schedule)
        return ours.sample(noise * levels[0], levels, ["red cat"], "", 1.0, solver)

    reference = latents("heun", "log_snr", 80)
    for solver, schedule in (("euler", "karras"), ("dpmpp_2m", "log_snr"), ("unipc", "vp_time")):
        few, many = (apart(latents(solver, schedule, steps), reference) for steps in (5, 40))
        assert many < 0.5 * few


def test_the_seed_alone_decides_the_noise_and_every_step_is_shown(ours):
    seen = []
    first = ours.text_to_image(["cat"], steps=3, seed=3, watch=seen.append)
    again = ours.text_to_image(["cat"], steps=3, seed=3)
    other = ours.text_to_image(["cat"], steps=3, seed=4)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert [step.number for step in seen] == [1, 2, 3]


def test_half_precision_stays_near(plain, ours):
    half = StableDiffusion.load(plain, mx.float16)
    assert half.unet.conv_in.weight.dtype == mx.float16
    levels = ours.scheduler.levels(8)
    noise = ours.noise(1, 16, 16, seed=1) * levels[0]
    latents = [pipeline.sample(noise, levels, ["red cat"], "", 2.0, "ddim") for pipeline in (half, ours)]
    assert apart(*latents) < 0.02


def test_an_adapter_of_both_networks_computes_what_diffusers_computes(plain, tmp_path):
    ours, theirs = StableDiffusion.load(plain), open_pipeline(plain)
    lora.add(ours.unet, 3, 6.0)
    lora.add(ours.text.encoders["text_encoder"], 2, targets=lora.TEXT)
    mx.random.seed(0)
    for module in (ours.unet, ours.text.encoders["text_encoder"]):
        for layer in lora.layers(module).values():
            layer.lora_B.weight = 0.3 * mx.random.normal(layer.lora_B.weight.shape)
    ours.save_adapter(tmp_path)
    noise = ours.noise(2, 16, 16, seed=4)
    levels = ours.scheduler.levels(4)
    start = noise * np.sqrt(1 + levels[0] ** 2)
    latents = ours.sample(start, levels, PROMPTS, NEGATIVE, 5.0, "ddim")
    without = of_theirs(theirs, noise)[0]
    theirs.load_lora_weights(tmp_path, local_files_only=True)
    assert apart(latents, of_theirs(theirs, noise)[0]) < 1e-3
    assert apart(latents, without) > 1e-2
    again = StableDiffusion.load(plain)
    again.load_adapter(tmp_path)
    assert np.array_equal(again.sample(start, levels, PROMPTS, NEGATIVE, 5.0, "ddim"), latents)


def test_a_prompt_that_is_cut_is_logged(ours, caplog):
    ours.condition(["the " * 80 + "cat"], "", 1.0, (16, 16))
    assert "lost='the the the the the cat'" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"solver": "dpm"}, "solver 'dpm'; allowed: euler"),
        ({"schedule": "cubic"}, "schedule 'cubic'; allowed: published"),
        ({"steps": 0}, "sampling steps 0"),
        ({"height": 17}, "height 17, width 16; allowed are multiples of 2"),
        ({"negative": ["a", "b"]}, "2 negative prompts for 1 prompts"),
    ],
)
def test_wrong_wishes_are_refused_with_what_is_allowed(ours, changes, message):
    with pytest.raises(ConfigurationError) as caught:
        ours.text_to_image(["cat"], **changes)
    assert message in str(caught.value)


@pytest.mark.parametrize("prompts", ["cat", []])
def test_a_prompt_outside_a_list_is_not_taken_for_one_of_each_letter(ours, prompts):
    with pytest.raises(ConfigurationError, match="allowed is a list of one or more"):
        ours.text_to_image(prompts, steps=2)


@pytest.mark.parametrize(("told", "shape"), [(8, (8, 8)), ([8, 12], (8, 12)), (None, None)])
def test_a_model_may_tell_its_size_by_one_edge_by_two_or_not_at_all(plain, ours, tmp_path, told, shape):
    shutil.copytree(plain / "unet", tmp_path / "unet")
    path = tmp_path / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sample_size": told}))
    pipeline = StableDiffusion(load(UNet2DConditionModel, tmp_path / "unet"), ours.vae, ours.text, ours.scheduler)
    assert pipeline.noise(1, 16, 24, seed=0).shape == (1, 8, 12, 4)
    if shape is not None:
        assert pipeline.noise(1, None, None, seed=0).shape == (1, *shape, 4)
    else:
        with pytest.raises(ConfigurationError, match="height None, width None; allowed are multiples of 2"):
            pipeline.noise(1, None, None, seed=0)


def test_wrong_pictures_are_refused(ours):
    with pytest.raises(ConfigurationError, match="multiples of 2"):
        ours.image_to_image(np.zeros((1, 15, 16, 3), np.uint8), ["cat"])
    with pytest.raises(ConfigurationError, match=r"strength 0.*2 images for 1 prompts"):
        ours.image_to_image(np.zeros((2, 16, 16, 3), np.uint8), ["cat"], strength=0)


def test_another_pipeline_is_refused_by_name(plain, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(plain, folder)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(ConfigurationError, match="a FluxPipeline; allowed are StableDiffusionPipeline"):
        StableDiffusion.load(folder)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"prediction_type": "sample"}, "prediction_type = 'sample'"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule = 'sigmoid'"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr = True"),
        ({"num_train_timesteps": 500}, "num_train_timesteps = 500"),
        ({"_class_name": "EDMEulerScheduler"}, "_class_name = 'EDMEulerScheduler'"),
        ({"use_beta_sigmas": True}, "use_beta_sigmas = True"),
        ({"interpolation_type": "log_linear"}, "interpolation_type = 'log_linear'"),
        ({"timestep_type": "continuous"}, "timestep_type = 'continuous'"),
        ({"sigma_max": 80.0}, "sigma_max = 80.0"),
        ({"lambda_min_clipped": -5.1}, "lambda_min_clipped = -5.1"),
        ({"clip_sample": True}, "clip_sample = True"),
        ({"_class_name": "EulerDiscreteScheduler", "final_sigmas_type": "tiny"}, "final_sigmas_type = 'tiny'"),
    ],
)
def test_noise_that_is_not_implemented_is_refused(told, message):
    with pytest.raises(ConfigurationError) as caught:
        Scheduler.read(told, "here")
    assert message in str(caught.value)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 7, 20, 1000])
def test_timesteps_are_those_of_diffusers(spacing, steps):
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(timestep_spacing=spacing)
    theirs.set_timesteps(steps)
    assert Scheduler.read({"timestep_spacing": spacing}, "here").timesteps(steps).tolist() == theirs.timesteps.tolist()


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_any_number_of_steps_is_that_many_falling_timesteps(spacing, offset):
    scheduler = Scheduler(timestep_spacing=spacing, steps_offset=offset)
    for steps in range(1, 1001):
        visited = scheduler.timesteps(steps)
        assert len(visited) == steps
        assert (np.diff(visited) < 0).all()
        assert 0 <= visited[-1] <= visited[0] < 1000


def test_what_a_file_leaves_out_is_what_diffusers_supposes():
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler()
    kept = theirs.alphas_cumprod.double().numpy()
    ours = Scheduler.read({}, "here")
    assert ours.table == pytest.approx(np.sqrt((1 - kept) / kept), rel=1e-4)
    assert ours.to_zero
    assert ours.steps_offset == 0


GRIDS = {
    "DDIMScheduler": ({}, {"set_alpha_to_one": False}),
    "PNDMScheduler": ({"skip_prk_steps": True},),
    "EulerDiscreteScheduler": ({}, {"final_sigmas_type": "sigma_min"}, {"use_karras_sigmas": True}),
    "LMSDiscreteScheduler": ({}, {"use_exponential_sigmas": True}),
    "EulerAncestralDiscreteScheduler": ({},),
    "DPMSolverMultistepScheduler": (
        {},
        {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"},
        {"use_lu_lambdas": True},
        {"use_exponential_sigmas": True},
    ),
    "UniPCMultistepScheduler": ({}, {"use_karras_sigmas": True}, {"final_sigmas_type": "sigma_min"}),
    "DEISMultistepScheduler": ({}, {"use_karras_sigmas": True}),
}


def grid_of_theirs(name, told, steps):
    """Levels from the first to the last, each once; those that count in timesteps are looked up."""
    import diffusers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy about torch's arrays
        theirs = getattr(diffusers, name)(**told)
        theirs.set_timesteps(steps)
    if hasattr(theirs, "sigmas"):
        found = theirs.sigmas.double().numpy()
    else:
        kept = theirs.alphas_cumprod.double().numpy()
        table = np.sqrt((1 - kept) / kept)
        kept_last = float(theirs.final_alpha_cumprod)
        found = np.append(table[theirs.timesteps.numpy()], np.sqrt((1 - kept_last) / kept_last))
    return found[np.append(True, np.diff(found) < -1e-5 * found[:-1])]  # PNDM asks twice at its second level


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace", None])
@pytest.mark.parametrize(("name", "told"), [(name, told) for name, each in GRIDS.items() for told in each])
def test_the_grid_of_a_folder_is_the_one_that_its_scheduler_makes(name, told, spacing):
    told = told | {"beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    told |= {} if spacing is None else {"timestep_spacing": spacing}
    ours = Scheduler.read({"_class_name": name, **told}, "here")
    for steps in (2, 7, 30):
        assert ours.levels(steps) == pytest.approx(grid_of_theirs(name, told, steps), rel=2e-4)


def test_a_class_reads_only_its_own_keys():
    left_over = {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min", "set_alpha_to_one": False, "clip_sample": True}
    told = Scheduler.read({"_class_name": "EulerAncestralDiscreteScheduler", **left_over}, "here")
    assert told == Scheduler.read({"_class_name": "EulerAncestralDiscreteScheduler"}, "here")


def test_one_step_from_a_level_to_itself_is_refused():
    """Diffusers answers with the noise it was given."""
    told = {"set_alpha_to_one": False}
    with pytest.raises(ConfigurationError, match="1 sampling steps with timestep_spacing 'leading' and steps_offset 0"):
        Scheduler.read(told, "here").levels(1)
    assert len(Scheduler.read(told, "here").levels(2)) == 2
    assert len(Scheduler.read({**told, "timestep_spacing": "trailing"}, "here").levels(1)) == 2
    with pytest.raises(ConfigurationError, match="do not fall"):
        Scheduler.read({"_class_name": "DPMSolverMultistepScheduler", "timestep_spacing": "leading"}, "here").levels(1000)
