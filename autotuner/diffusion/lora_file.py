"""What stands in an adapter's file, whichever of diffusers' and peft's spellings it was written in."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from autotuner.diffusion.blas import mx
from autotuner.errors import ConfigurationError

FILE_NAME = "pytorch_lora_weights.safetensors"
METADATA_KEY = "lora_adapter_metadata"
COMPONENTS = ("unet", "text_encoder", "text_encoder_2")
SPELLINGS = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".alpha": "alpha",
}
"""Ends of names: peft's, those that diffusers' training scripts wrote, and the ones before them."""
PEFT_FILE, PEFT_CONFIG, PEFT_PREFIX = "adapter_model.safetensors", "adapter_config.json", "base_model.model."
"""How peft itself saves one model, without saying which of a pipeline's it is."""


class Found(NamedTuple):
    """The adapter of one layer."""

    component: str
    layer: str
    down: mx.array
    """A, (rank, inputs)."""
    up: mx.array
    """B, (outputs, rank)."""
    alpha: float


def read(source: str | Path, component: str = "unet") -> list[Found]:
    """All adapters in a file, or in diffusers' or peft's file in a folder; peft's is taken to be that of ``component``.

    Raises ConfigurationError for anything that the file cannot mean.
    """
    path = _file(Path(source))
    try:
        loaded: Any = mx.load(str(path), return_metadata=True, format="safetensors")
        arrays, metadata = loaded
        told = json.loads(metadata.get(METADATA_KEY, "{}"))
        if path.with_name(PEFT_CONFIG).exists() and path.name == PEFT_FILE:
            config = json.loads(path.with_name(PEFT_CONFIG).read_text(encoding="utf-8"))
            told = {f"{component}.{key}": value for key, value in config.items()}
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigurationError(f"{path}: not an adapter in safetensors: {error}") from None
    parts: dict[tuple[str, str], dict[str, mx.array]] = {}
    for name, array in arrays.items():
        owner, layer, part = _parse(name.replace(PEFT_PREFIX, f"{component}."), path)
        parts.setdefault((owner, layer), {})[part] = array
    return [_found(key, parts[key], told, path) for key in sorted(parts)]


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    return path / (PEFT_FILE if (path / PEFT_FILE).exists() else FILE_NAME)


def _parse(name: str, path: Path) -> tuple[str, str, str]:
    component, _, rest = name.partition(".")
    for end, part in SPELLINGS.items():
        if component in COMPONENTS and rest.endswith(end):
            layer = rest.removesuffix(end).replace(".processor.", ".")
            return component, f"{layer}.0" if layer.endswith(".to_out") else layer, part
    raise ConfigurationError(
        f"{path}: {name} is not understood; allowed are {', '.join(COMPONENTS)}, a linear layer, then {', '.join(SPELLINGS)}"
    )


def _found(key: tuple[str, str], parts: Mapping[str, mx.array], told: Mapping[str, Any], path: Path) -> Found:
    component, layer = key
    if "down" not in parts or "up" not in parts:
        raise ConfigurationError(f"{path}: {component}.{layer} has only {', '.join(parts)}; A and B are needed")
    down, up = parts["down"], parts["up"]
    if down.ndim != 2 or up.ndim != 2:
        raise ConfigurationError(f"{path}: {component}.{layer} adapts a convolution {down.shape}; allowed are linear layers")
    described = {key.removeprefix(f"{component}."): value for key, value in told.items() if key.startswith(f"{component}.")}
    alpha = float(parts["alpha"].astype(mx.float32)) if "alpha" in parts else _alpha(layer, down.shape[0], described, path)
    return Found(component, layer, down, up, alpha)


def _alpha(layer: str, rank: int, described: Mapping[str, Any], path: Path) -> float:
    """The layer's alpha by peft's rules: a pattern that ends the name, else the common one, else the rank itself."""
    if described.get("use_dora"):
        raise ConfigurationError(f"{path}: use_dora = true is not implemented; allowed is false")
    alpha = float(described.get("lora_alpha", rank))
    for pattern, value in (described.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            alpha = float(value)
            break
    return alpha * math.sqrt(rank) if described.get("use_rslora") else alpha
