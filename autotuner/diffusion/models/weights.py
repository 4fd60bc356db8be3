"""Weights between diffusers' safetensors and our modules: same names, convolutions transposed, every misfit named."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from autotuner.diffusion.blas import mx
from autotuner.diffusion.models.config import FILE_NAME, ModelConfig, Schema, config_path, read_json
from autotuner.errors import AutotunerError

SHOWN = 8
"""Names of each kind that an error lists."""

OLD_NAMES = ((".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0."))
"""Attention layers in files written before diffusers 0.18, and their names today."""


class WeightsError(AutotunerError):
    """The weights in a file are missing, damaged, or not those of the model."""


class Model(nn.Module):
    """What can be loaded and saved: a module made from a checked configuration alone."""

    SCHEMA: ClassVar[Schema]

    def __init__(self, config: ModelConfig | Mapping[str, Any] | str | Path) -> None:
        super().__init__()
        self.config = self.SCHEMA.read(config)

    def file_weights(self, found: dict[str, mx.array]) -> dict[str, mx.array]:
        """What the file holds, under this module's names; a model whose file differs from its modules says how here."""
        return found


M = TypeVar("M", bound=Model)


def load(kind: type[M], folder: str | Path, *, variant: str | None = None, dtype: mx.Dtype | None = mx.float32) -> M:
    """Build a model from a folder of `config.json` and safetensors; ``dtype=None`` keeps the file's precision.

    Raises ConfigurationError for a configuration that is not implemented, WeightsError for weights that do not fit it.
    """
    model = kind(config_path(folder))
    found = model.file_weights(read_weights(folder, model.config.schema.weights_file, variant))
    fill(model, found, origin=str(folder), dtype=dtype)
    return model


def save(model: Model, folder: str | Path, *, variant: str | None = None) -> Path:
    """Write `config.json` as it was read and the weights in torch's layout; returns the weights' file.

    Each file is complete or absent: it is written beside its place and renamed, as the old one may still be read from.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    weights = to_torch(model)
    mx.eval(weights)
    path, config = target / with_variant(model.config.schema.weights_file, variant), target / FILE_NAME
    drafts = {each: each.with_name(f".draft-{each.name}") for each in (path, config)}
    mx.save_safetensors(str(drafts[path]), weights, metadata={"format": "pt"})
    drafts[config].write_text(json.dumps(model.config.raw, indent=2) + "\n", encoding="utf-8")
    for each, draft in drafts.items():
        os.replace(draft, each)
    return path


def with_variant(name: str, variant: str | None) -> str:
    """A file's name with a variant before its last ending: `model.fp16.safetensors`, `model.safetensors.index.fp16.json`."""
    stem, _, ending = name.rpartition(".")
    return name if variant is None else f"{stem}.{variant}.{ending}"


def read_weights(folder: str | Path, weights_file: str, variant: str | None = None) -> dict[str, mx.array]:
    """All arrays of one file or of its shards, in torch's layout, read when first used."""
    root = Path(folder)
    single, index = root / with_variant(weights_file, variant), root / with_variant(f"{weights_file}.index.json", variant)
    if not single.exists() and not index.exists():
        there = ", ".join(sorted(path.name for path in root.glob("*.safetensors*"))) or "none"
        raise WeightsError(f"{root}: neither {single.name} nor {index.name} exists; safetensors there: {there}")
    weights: dict[str, mx.array] = {}
    for path in [single] if single.exists() else _shards(index):
        weights.update(_read(path))
    return weights


def fill(model: nn.Module, found: Mapping[str, mx.array], *, origin: str, dtype: mx.Dtype | None = mx.float32) -> None:
    """Set every weight of a model from arrays in torch's layout; WeightsError lists missing, unexpected and misshapen ones."""
    wanted = dict(tree_flatten(model.parameters()))
    convolutions = _convolutions(model)
    renamed = {_today(name, wanted): array for name, array in found.items()}
    # A projection that was a 1 x 1 convolution in old files.
    fitted = {
        name: array.squeeze() if name in wanted and array.ndim == 4 and wanted[name].ndim == 2 else array
        for name, array in renamed.items()
    }
    ours = {
        name: array.transpose(0, 2, 3, 1) if name in convolutions and array.ndim == 4 else array
        for name, array in fitted.items()
    }
    misshapen = [
        f"{name} is {ours[name].shape} instead of {wanted[name].shape}"
        for name in sorted(wanted.keys() & ours.keys())
        if ours[name].shape != wanted[name].shape
    ]
    problems = {
        "missing": sorted(wanted.keys() - ours.keys()),
        "unexpected": sorted(ours.keys() - wanted.keys()),
        "misshapen": misshapen,
    }
    if any(problems.values()):
        told = "; ".join(f"{len(rows)} {kind}: {_some(rows)}" for kind, rows in problems.items() if rows)
        raise WeightsError(f"{origin}: the weights do not fit {type(model).__name__}: {told}")
    model.update(tree_unflatten([(name, array if dtype is None else array.astype(dtype)) for name, array in ours.items()]))


def to_torch(model: nn.Module, tree: Any = None) -> dict[str, mx.array]:
    """A module's weights, or a tree shaped like them such as its gradients, by diffusers' names in torch's layout."""
    convolutions = _convolutions(model)
    flat = tree_flatten(model.parameters() if tree is None else tree)
    return {name: mx.contiguous(array.transpose(0, 3, 1, 2)) if name in convolutions else array for name, array in flat}


def _convolutions(model: nn.Module) -> frozenset[str]:
    return frozenset(f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Conv2d))


def _today(name: str, wanted: Mapping[str, Any]) -> str:
    if name in wanted:
        return name
    for old, new in OLD_NAMES:
        if name.replace(old, new) in wanted:
            return name.replace(old, new)
    return name


def _shards(index: Path) -> list[Path]:
    table, origin = read_json(index)
    shards = table.get("weight_map")
    if not isinstance(shards, dict):
        raise WeightsError(f"{origin}: has no weight_map of names to files")
    return [index.parent / name for name in sorted(set(shards.values()))]


def _read(path: Path) -> dict[str, mx.array]:
    try:
        found: Any = mx.load(str(path), format="safetensors")
    except (RuntimeError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read as safetensors: {error}") from error
    return dict(found)


def _some(rows: Iterable[str]) -> str:
    listed = list(rows)
    rest = len(listed) - SHOWN
    return ", ".join(listed[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
