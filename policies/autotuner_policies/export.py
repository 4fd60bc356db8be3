"""From a trained network to an artefact that the daemon can read: ``policy.safetensors`` and ``card.json``."""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from autotuner.controller.actions import ACTION_NAMES
from autotuner.controller.observation import FEATURES, OBSERVATION_VERSION
from autotuner.knobs import KNOB_NAMES

KNOBS = KNOB_NAMES
"""Knobs that the policy may move when it serves."""


def arrays_of(model: Any) -> dict[str, np.ndarray]:
    """The policy head of a MaskablePPO model with two hidden layers, as float32 arrays; the value head stays behind."""
    network = model.policy.mlp_extractor.policy_net
    first, second, last = network[0], network[2], model.policy.action_net
    tensors = {"pi.0": first, "pi.1": second, "action": last}
    return {
        f"{name}.{part}": np.ascontiguousarray(getattr(layer, part).detach().cpu().numpy().astype(np.float32))
        for name, layer in tensors.items()
        for part in ("weight", "bias")
    }


def versions() -> dict[str, str]:
    """Versions of what the training used."""
    import gymnasium
    import sb3_contrib
    import torch

    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "sb3_contrib": sb3_contrib.__version__,
        "gymnasium": gymnasium.__version__,
    }


def write(directory: Path, name: str, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> Path:
    """Write the artefact; ``facts`` (command, seeds, splits, results) join what the network itself says."""
    directory.mkdir(parents=True, exist_ok=True)
    data = save(arrays)
    (directory / "policy.safetensors").write_bytes(data)
    card = {
        "name": name,
        "observation_version": OBSERVATION_VERSION,
        "features": list(FEATURES),
        "actions": list(ACTION_NAMES),
        "knobs": list(KNOBS),
        "hidden": [int(arrays["pi.0.weight"].shape[0]), int(arrays["pi.1.weight"].shape[0])],
        "activation": "tanh",
        "sha256": hashlib.sha256(data).hexdigest(),
        **facts,
    }
    write_card(directory, card)
    return directory


def write_card(directory: Path, card: dict[str, Any]) -> None:
    """Write ``card.json``."""
    (directory / "card.json").write_text(json.dumps(card, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_card(directory: Path) -> dict[str, Any]:
    """Read ``card.json``."""
    return dict(json.loads((directory / "card.json").read_text(encoding="utf-8")))
