"""Low-rank adapters (LoRA) on linear layers, and their files in the format of peft and diffusers.

An adapted layer computes W x + (alpha / rank) B A x (Hu et al. 2021, Eq. 3); only A and B are trained.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.nn as nn
from mlx.utils import tree_unflatten

from autotuner.diffusion import array_file
from autotuner.diffusion.blas import mx
from autotuner.diffusion.lora_file import FILE_NAME, METADATA_KEY, Found, read
from autotuner.errors import ConfigurationError

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""Attention projections of a U-Net: what diffusers' training scripts adapt."""
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj")
"""Attention projections of a CLIP text encoder."""
TEXT_LEVEL = "text_model."
"""A level of names that transformers 5 dropped in its text encoders; adapters exist with it and without."""


class LoRALinear(nn.Linear):
    """A linear layer whose weight keeps its name and stands still, with a trained low-rank addition."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        outputs, inputs = linear.weight.shape
        super().__init__(1, 1, bias=False)
        self.weight = linear.weight
        if "bias" in linear:
            self.bias = linear.bias
        self.lora_A = nn.Linear(inputs, rank, bias=False)
        self.lora_B = nn.Linear(rank, outputs, bias=False)
        self.lora_B.weight = mx.zeros_like(self.lora_B.weight)  # an untrained adapter changes nothing (Sec. 4.1)
        self.rank, self.alpha = rank, alpha
        self.merged = False
        self.freeze()
        self.lora_A.unfreeze()
        self.lora_B.unfreeze()

    @property
    def addition(self) -> mx.array:
        """(alpha / rank) B A, the shape of the weight."""
        return (self.alpha / self.rank) * (self.lora_B.weight @ self.lora_A.weight)

    def __call__(self, x: mx.array) -> mx.array:
        """(..., inputs) to (..., outputs) in the precision of ``x``; the addition is computed in that of A and B."""
        if self.merged:
            return super().__call__(x)
        low = self.lora_B(self.lora_A(x.astype(self.lora_A.weight.dtype)))
        return super().__call__(x) + ((self.alpha / self.rank) * low).astype(x.dtype)

    def merge(self, sign: int = 1) -> None:
        """Put the addition into the weight (``sign`` = -1: take it out again)."""
        weight: mx.array = self["weight"]
        self.weight = (weight + sign * self.addition).astype(weight.dtype)
        self.merged = sign > 0

    def plain(self) -> nn.Linear:
        """A linear layer with the weight as it is now."""
        linear = nn.Linear(1, 1, bias=False)
        linear.weight = self.weight
        if "bias" in self:
            linear.bias = self.bias
        return linear


def add(module: nn.Module, rank: int, alpha: float | None = None, targets: Sequence[str] = ATTENTION) -> list[str]:
    """Adapt every linear layer whose name ends in one of ``targets`` and freeze all else; returns the layers' names.

    ``alpha`` None is the rank: the addition then counts in full. Raises ConfigurationError when nothing matches.
    """
    if rank < 1:
        raise ConfigurationError(f"lora rank {rank}; allowed is a whole number from 1 on")
    names = [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and not isinstance(layer, LoRALinear) and _ends(name, targets)
    ]
    if not names:
        raise ConfigurationError(f"lora targets {', '.join(targets)}: no linear layer of {type(module).__name__} ends so")
    module.freeze()
    adapt(module, {name: (rank, float(rank if alpha is None else alpha)) for name in sorted(names)})
    return sorted(names)


def adapt(module: nn.Module, layers: Mapping[str, tuple[int, float]]) -> None:
    """Adapt the linear layers named, each with its rank and alpha; the rest stays as it is."""
    known = dict(module.named_modules())
    adapted = [(name, LoRALinear(_adaptable(module, known, name), *sizes)) for name, sizes in layers.items()]
    module.update_modules(tree_unflatten(adapted))


def layers(module: nn.Module) -> dict[str, LoRALinear]:
    """The adapted layers by name."""
    return {name: layer for name, layer in sorted(module.named_modules()) if isinstance(layer, LoRALinear)}


def merge(module: nn.Module) -> None:
    """Put every addition into its weight: as fast as without an adapter, and no longer trained in effect."""
    for layer in layers(module).values():
        if not layer.merged:
            layer.merge()


def unmerge(module: nn.Module) -> None:
    """Take every addition out again; weights come back up to rounding."""
    for layer in layers(module).values():
        if layer.merged:
            layer.merge(sign=-1)


def remove(module: nn.Module) -> None:
    """Plain linear layers again, with the additions if they are merged; for saving the whole model under its own names."""
    adapted = layers(module)
    if adapted:
        module.update_modules(tree_unflatten([(name, layer.plain()) for name, layer in adapted.items()]))


def save(folder: str | Path, modules: Mapping[str, nn.Module]) -> Path:
    """Write `pytorch_lora_weights.safetensors`: ``modules`` maps diffusers' names (`unet`, `text_encoder`) to adapted modules.

    The file is complete or absent. Returns its path; raises ConfigurationError when nothing is adapted.
    """
    arrays: dict[str, mx.array] = {}
    metadata: dict[str, Any] = {}
    for component, module in modules.items():
        adapted = layers(module)
        for name, layer in adapted.items():
            arrays[f"{component}.{name}.lora_A.weight"] = layer.lora_A.weight
            arrays[f"{component}.{name}.lora_B.weight"] = layer.lora_B.weight
        metadata |= {f"{component}.{key}": value for key, value in _described(adapted).items()}
    if not arrays:
        raise ConfigurationError(f"nothing to save: none of {', '.join(modules)} has an adapter")
    told = {"format": "pt", METADATA_KEY: json.dumps(metadata, sort_keys=True)}
    return array_file.write(Path(folder) / FILE_NAME, arrays, told)


def load(source: str | Path, modules: Mapping[str, nn.Module]) -> list[str]:
    """Adapt ``modules`` as a file of peft or diffusers says and set A and B; returns the adapted layers' names.

    Only A and B are trainable afterwards in a module that the file adapts. Raises ConfigurationError for a file that holds
    anything else, or layers that the modules do not have; the modules are then as they were.
    """
    found = read(source)
    strangers = sorted({row.component for row in found} - modules.keys())
    if strangers:
        raise ConfigurationError(f"{source}: adapts {', '.join(strangers)}; here are {', '.join(modules)}")
    own = {component: [row for row in found if row.component == component] for component in modules}
    for component, rows in own.items():
        _check(modules[component], rows)
    for component, rows in own.items():
        if rows:
            modules[component].freeze()
            _set(modules[component], rows)
    return [f"{row.component}.{row.layer}" for row in found]


def _check(module: nn.Module, rows: Sequence[Found]) -> None:
    known = dict(module.named_modules())
    for row in rows:
        layer = _adaptable(module, known, _own_name(row.layer, known))
        if (row.down.shape[1], row.up.shape[0]) != layer.weight.shape[::-1] or row.down.shape[0] != row.up.shape[1]:
            raise ConfigurationError(
                f"{row.component}.{row.layer}: A {row.down.shape} and B {row.up.shape} do not fit a weight {layer.weight.shape}"
            )


def _set(module: nn.Module, rows: Sequence[Found]) -> None:
    known = dict(module.named_modules())
    names = {row.layer: _own_name(row.layer, known) for row in rows}
    adapt(module, {names[row.layer]: (row.down.shape[0], row.alpha) for row in rows})
    adapted = layers(module)
    for row in rows:
        layer = adapted[names[row.layer]]
        layer.lora_A.weight, layer.lora_B.weight = row.down.astype(mx.float32), row.up.astype(mx.float32)


def _adaptable(module: nn.Module, known: Mapping[str, Any], name: str) -> nn.Linear:
    layer = known.get(name)
    if not isinstance(layer, nn.Linear) or isinstance(layer, LoRALinear):
        raise ConfigurationError(f"{name} is no linear layer of {type(module).__name__} that an adapter can be put on")
    return layer


def _own_name(name: str, known: Mapping[str, Any]) -> str:
    return next((other for other in (name, name.removeprefix(TEXT_LEVEL), TEXT_LEVEL + name) if other in known), name)


def _ends(name: str, targets: Sequence[str]) -> bool:
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _described(adapted: Mapping[str, LoRALinear]) -> dict[str, Any]:
    if not adapted:
        return {}
    rank = Counter(layer.rank for layer in adapted.values()).most_common(1)[0][0]
    alpha = Counter(layer.alpha for layer in adapted.values()).most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        # Names match by their ends, with transformers' old level and without it.
        "target_modules": [name.removeprefix(TEXT_LEVEL) for name in adapted],
        "rank_pattern": {name.removeprefix(TEXT_LEVEL): layer.rank for name, layer in adapted.items() if layer.rank != rank},
        "alpha_pattern": {
            name.removeprefix(TEXT_LEVEL): layer.alpha for name, layer in adapted.items() if layer.alpha != alpha
        },
    }
