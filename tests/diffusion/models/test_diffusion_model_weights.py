"""Weights: shards, variants, old names, and files that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlx.utils import tree_flatten

from autotuner.diffusion.blas import mx
from autotuner.diffusion.models.unet_2d import UNet2DModel
from autotuner.diffusion.models.weights import WeightsError, load, save, to_torch, with_variant

FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def model(published):
    mx.random.seed(3)
    return UNet2DModel(published("ddpm-cifar10-32", block_out_channels=[4, 8, 8, 8], norm_num_groups=2))


def flat(model):
    return dict(tree_flatten(model.parameters()))


def same(one, other):
    ours, theirs = flat(one), flat(other)
    return ours.keys() == theirs.keys() and all(mx.array_equal(ours[name], theirs[name]) for name in ours)


def rewrite(folder, change):
    weights = {name: mx.array(array) for name, array in mx.load(str(folder / FILE)).items()}
    mx.eval(weights)
    mx.save_safetensors(str(folder / FILE), change(weights), metadata={"format": "pt"})


def test_what_is_saved_is_loaded_and_saved_again_over_itself(model, tmp_path):
    save(model, tmp_path)
    loaded = load(UNet2DModel, tmp_path)
    assert same(model, loaded)
    save(loaded, tmp_path)
    assert same(model, load(UNet2DModel, tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", FILE]


def test_a_save_that_is_cut_off_leaves_what_was_there(model, tmp_path, monkeypatch):
    save(model, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    write = Path.write_text

    def cut_off(path, text, **told):
        write(path, text[:5], **told)
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", cut_off)
    with pytest.raises(OSError, match="no space left"):
        save(model, tmp_path)
    assert {path: path.read_bytes() for path in before} == before


def test_shards_are_read_through_their_index(model, tmp_path):
    save(model, tmp_path)
    weights = to_torch(model)
    names = sorted(weights)
    parts = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, part in parts.items():
        mx.save_safetensors(str(tmp_path / file), {name: weights[name] for name in part})
    (tmp_path / FILE).unlink()
    table = {name: file for file, part in parts.items() for name in part}
    (tmp_path / f"{FILE}.index.json").write_text(json.dumps({"weight_map": table}))
    assert same(model, load(UNet2DModel, tmp_path))


def test_a_variant_has_its_own_file_and_keeps_its_precision_only_when_asked(model, tmp_path):
    model.set_dtype(mx.float16)
    assert save(model, tmp_path, variant="fp16").name == "diffusion_pytorch_model.fp16.safetensors"
    assert {array.dtype for array in flat(load(UNet2DModel, tmp_path, variant="fp16")).values()} == {mx.float32}
    assert same(model, load(UNet2DModel, tmp_path, variant="fp16", dtype=None))
    with pytest.raises(WeightsError, match=r"neither .* exists; .*: diffusion_pytorch_model\.fp16\.safetensors"):
        load(UNet2DModel, tmp_path)


def test_names_of_variants_are_those_of_diffusers():
    from diffusers.utils.hub_utils import _add_variant

    for name in (FILE, f"{FILE}.index.json", "model.safetensors"):
        assert with_variant(name, "fp16") == _add_variant(name, "fp16")
        assert with_variant(name, None) == name


def test_old_names_of_attention_layers_are_understood(model, tmp_path):
    save(model, tmp_path)
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

    def rename(weights):
        for new, name in old.items():
            weights = {key.replace(new, name): array for key, array in weights.items()}
        return weights

    rewrite(tmp_path, rename)
    assert same(model, load(UNet2DModel, tmp_path))


def test_everything_that_does_not_fit_is_listed(model, tmp_path):
    save(model, tmp_path)

    def spoil(weights):
        del weights["conv_out.bias"]
        weights["conv_in.bias"] = mx.zeros((5,))
        weights["stray"] = mx.zeros((1,))
        return weights

    rewrite(tmp_path, spoil)
    with pytest.raises(WeightsError) as caught:
        load(UNet2DModel, tmp_path)
    assert "1 missing: conv_out.bias" in str(caught.value)
    assert "1 unexpected: stray" in str(caught.value)
    assert "1 misshapen: conv_in.bias is (5,) instead of (4,)" in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_damaged_file_is_named(model, tmp_path):
    save(model, tmp_path)
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:200])
    with pytest.raises(WeightsError, match=FILE):
        load(UNet2DModel, tmp_path)


def test_an_index_without_a_table_is_named(model, tmp_path):
    save(model, tmp_path)
    (tmp_path / FILE).unlink()
    (tmp_path / f"{FILE}.index.json").write_text("{}")
    with pytest.raises(WeightsError, match="weight_map"):
        load(UNet2DModel, tmp_path)
