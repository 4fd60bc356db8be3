"""The text encoders against transformers: all outputs, all gradients, both spellings of their names, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from parity import BOUND, Run, assert_way_back, error, errors, mlx_run, randomise, torch_run

from autotuner.diffusion.blas import mx
from autotuner.diffusion.models.clip_text import PREFIX, CLIPTextModel, CLIPTextModelWithProjection
from autotuner.diffusion.models.weights import load, save
from autotuner.errors import ConfigurationError

SMALL = {
    "vocab_size": 60,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "projection_dim": 12,
    "max_position_embeddings": 9,
}
CASES = {
    "stable diffusion 1.5": ("stable-diffusion-1.5-text-encoder", {}),
    "stable diffusion 2.1": ("stable-diffusion-2.1-text-encoder", {}),
    "stable diffusion xl, second": ("stable-diffusion-xl-text-encoder-2", {}),
    "with the true end token": ("stable-diffusion-xl-text-encoder-2", {"eos_token_id": 57, "pad_token_id": 57}),
}
KINDS = {
    "CLIPTextModel": (transformers.CLIPTextModel, CLIPTextModel),
    "CLIPTextModelWithProjection": (transformers.CLIPTextModelWithProjection, CLIPTextModelWithProjection),
}
IDS = np.array([[58, 4, 9, 4, 59, 57, 57], [58, 7, 57, 57, 57, 57, 57]])
"""The largest id and the first 57 stand at different places: the old and the new rule of the end token disagree."""


def build(config):
    torch.manual_seed(0)
    kind, ours = KINDS[config["architectures"][0]]
    return randomise(kind(transformers.CLIPTextConfig.from_dict(dict(config)))), ours


def outputs(model, x=None):
    """Every output of either library in one vector."""
    mine = isinstance(model, CLIPTextModel)
    found = model(mx.array(IDS)) if mine else model(torch.from_numpy(IDS), output_hidden_states=True)
    pooled = found.pooled if mine else found["text_embeds" if "text_embeds" in found else "pooler_output"]
    arrays = [found.last_hidden_state, pooled, *found.hidden_states]
    assert len(found.hidden_states) == SMALL["num_hidden_layers"] + 1
    return mx.concatenate([a.flatten() for a in arrays]) if mine else torch.cat([a.flatten() for a in arrays])


def by_our_names(run):
    return Run(run.output, {_ours(name): gradient for name, gradient in run.gradients.items()})


def _ours(name):
    return name if name.startswith("text_") else PREFIX + name


@pytest.mark.parametrize("case", CASES)
def test_all_outputs_gradients_and_the_way_back_agree_with_transformers(case, published, tmp_path):
    source, changes = CASES[case]
    theirs, kind = build(published(source, **{**SMALL, **changes}))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load(kind, tmp_path / "theirs")
    table = errors(mlx_run(ours, outputs, None), by_our_names(torch_run(theirs, outputs, None)))
    assert max(table.values()) <= BOUND, table
    assert_way_back(theirs, ours, tmp_path / "ours")


def test_files_with_the_prefix_of_transformers_4_and_its_position_ids_are_loaded(published, tmp_path):
    theirs, kind = build(published("stable-diffusion-1.5-text-encoder", **SMALL))
    theirs.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    old = {_ours(name): array for name, array in dict(mx.load(str(weights))).items()}
    assert all(name.startswith(PREFIX) for name in old)
    old[PREFIX + "embeddings.position_ids"] = mx.arange(9)[None]
    mx.eval(old)
    weights.unlink()
    mx.save_safetensors(str(weights), old, metadata={"format": "pt"})
    with torch.no_grad():
        expected = outputs(theirs).numpy()
    assert error(np.array(outputs(load(kind, tmp_path))), expected) < BOUND


def test_what_is_saved_has_the_names_that_both_generations_of_transformers_read(published, tmp_path):
    path = save(CLIPTextModel(published("stable-diffusion-1.5-text-encoder", **SMALL)), tmp_path)
    assert all(name.startswith(PREFIX) for name in dict(mx.load(str(path))))


def test_a_mask_hides_tokens_as_in_transformers(published, tmp_path):
    theirs, kind = build(published("stable-diffusion-1.5-text-encoder", **SMALL))
    theirs.save_pretrained(tmp_path)
    seen = (IDS != 57).astype(np.int64)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(IDS), attention_mask=torch.from_numpy(seen)).last_hidden_state.numpy()
    ours = load(kind, tmp_path)
    got = np.array(ours(mx.array(IDS), mx.array(seen)).last_hidden_state)
    assert error(got, expected) < BOUND
    assert error(np.array(ours(mx.array(IDS)).last_hidden_state), expected) > 1e-3


def test_later_tokens_do_not_change_earlier_states(published):
    model = CLIPTextModel(published("stable-diffusion-1.5-text-encoder", **SMALL))
    changed = IDS.copy()
    changed[:, 4] = 1
    states = [model(mx.array(ids)).last_hidden_state for ids in (IDS, changed)]
    assert mx.allclose(states[0][:, :4], states[1][:, :4], atol=1e-6)
    assert not mx.allclose(states[0][:, 4:], states[1][:, 4:], atol=1e-3)


@pytest.mark.slow
def test_the_published_text_encoder_of_stable_diffusion_agrees_with_transformers(published, tmp_path):
    """123 million weights, once, on two texts of 77 tokens."""
    theirs, kind = build(published("stable-diffusion-1.5-text-encoder"))
    theirs.save_pretrained(tmp_path)
    ours = load(kind, tmp_path)
    ids = np.random.default_rng(0).integers(0, 49406, (2, 77))
    ids[:, 40:] = 49407

    def run(model, x=None):
        return model(mx.array(ids)).last_hidden_state if model is ours else model(torch.from_numpy(ids)).last_hidden_state

    table = errors(mlx_run(ours, run, None), by_our_names(torch_run(theirs, run, None)))
    print(f"output {table['output']:.1e}, gradients up to {max(table.values()):.1e}")
    assert max(table.values()) <= BOUND, table


@pytest.mark.parametrize(("dtype", "bound"), [(mx.float16, 5e-3), (mx.bfloat16, 4e-2)], ids=["float16", "bfloat16"])
def test_half_precision_stays_near_float32(published, dtype, bound):
    mx.random.seed(0)
    model = CLIPTextModel(published("stable-diffusion-1.5-text-encoder", **SMALL))
    full = model(mx.array(IDS)).last_hidden_state
    model.apply(lambda w: w.astype(dtype))
    half = model(mx.array(IDS)).last_hidden_state
    assert half.dtype == dtype
    off = mx.sqrt(mx.square(half.astype(mx.float32) - full).mean() / mx.square(full).mean())
    print(f"{dtype}: {float(off):.1e}")
    assert float(off) < bound


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("hidden_act", "relu", "quick_gelu"),
        ("attention_dropout", 0.1, "0.0"),
        ("model_type", "t5", "clip_text_model"),
        ("hidden_size", 15, "multiple of num_attention_heads 2"),
        ("architectures", ["CLIPModel"], "CLIPTextModel"),
        ("relative_attention", True, "no key"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(published, key, value, told):
    with pytest.raises(ConfigurationError, match=told):
        CLIPTextModel(published("stable-diffusion-1.5-text-encoder", **{**SMALL, key: value}))


def test_a_text_longer_than_the_positions_is_refused(published):
    model = CLIPTextModel(published("stable-diffusion-1.5-text-encoder", **SMALL))
    with pytest.raises(ConfigurationError, match=r"10 tokens.*max_position_embeddings = 9"):
        model(mx.zeros((1, 10), mx.int32))
