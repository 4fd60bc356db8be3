"""The exported RL policy in NumPy: a small masked network, its artefact checked at the door."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from autotuner.controller.actions import ACTION_COUNT, ACTION_NAMES, ACTIONS, HOLD
from autotuner.controller.observation import FEATURES, OBSERVATION_VERSION
from autotuner.controller.policy import Choice
from autotuner.controller.window import RunWindow
from autotuner.errors import ArtefactError
from autotuner.knobs import KNOB_NAMES

ARRAYS = ("pi.0.weight", "pi.0.bias", "pi.1.weight", "pi.1.bias", "action.weight", "action.bias")
LARGEST_ARTEFACT_BYTES = 16_000_000
LARGEST_WEIGHT = 1e6
"""Trained weights stay below 10; from here on sums could overflow."""
EXPLAINING_FEATURES = 2
Array = NDArray[np.float64]


class Learned:
    """Two tanh layers and one logit an action; the largest allowed logit wins (Huang & Ontanon 2020, action masking).

    A card may name the ``knobs`` that the policy met in training; it never moves another one.
    """

    def __init__(self, name: str, weights: dict[str, Array], card: dict[str, Any]) -> None:
        self.name = name
        self.card = card
        self._weights = weights
        met = card.get("knobs", KNOB_NAMES)
        self._met = np.array([not action.step or action.knob in met for action in ACTIONS])

    @classmethod
    def load(cls, directory: Path) -> Learned:
        """Read ``policy.safetensors`` and ``card.json``; raises ArtefactError, naming file, value and what is allowed."""
        card = _read_card(directory / "card.json")
        path = directory / "policy.safetensors"
        data = _read_bytes(path)
        digest = hashlib.sha256(data).hexdigest()
        if card.get("sha256") not in (None, digest):
            raise ArtefactError(f"{path}: sha256 {digest} differs from the card's {card['sha256']!s:.80}")
        try:
            arrays = load(data)
        except (SafetensorError, ValueError, KeyError) as error:
            raise ArtefactError(f"{path} is not a safetensors file: {error!s:.300}") from None
        return cls(str(card.get("name", directory.name)), _check_arrays(path, arrays), card)

    def logits(self, observation: Sequence[float]) -> Array:
        """One logit an action, shape (ACTION_COUNT,)."""
        return self._forward(np.asarray(observation, dtype=np.float64))[0]

    def _forward(self, x: Array) -> tuple[Array, Array, Array]:
        w = self._weights
        first = np.tanh(w["pi.0.weight"] @ x + w["pi.0.bias"])
        second = np.tanh(w["pi.1.weight"] @ first + w["pi.1.bias"])
        return w["action.weight"] @ second + w["action.bias"], first, second

    def choose(self, observation: Sequence[float], mask: Sequence[bool], window: RunWindow | None = None) -> Choice:
        """The allowed action with the largest logit, with its probability and the features that speak for it."""
        x = np.asarray(observation, dtype=np.float64)
        if not np.isfinite(x).all():
            return Choice(HOLD, "hold", "observation not finite")
        logits, first, second = self._forward(x)
        allowed = np.asarray(mask, dtype=bool) & self._met
        masked = np.where(allowed, logits, -np.inf)
        action = int(np.argmax(masked)) if allowed.any() else HOLD
        if action == HOLD:
            return Choice(HOLD, "hold")
        weights = np.exp(masked - masked[action])
        probability = float(weights[action] / weights.sum())
        return Choice(action, "policy", f"p={probability:.2f}; {self._because(action, x, first, second)}")

    def _because(self, action: int, x: Array, first: Array, second: Array) -> str:
        """Features with the largest input x gradient of this action's logit over hold's."""
        w = self._weights
        upper = (w["action.weight"][action] - w["action.weight"][HOLD]) * (1 - second**2)
        gradient = ((upper @ w["pi.1.weight"]) * (1 - first**2)) @ w["pi.0.weight"]
        influence = gradient * x
        top = np.argsort(-influence)[:EXPLAINING_FEATURES]
        return "because of " + ", ".join(f"{FEATURES[i]}={x[i]:.2f}" for i in top)


def _read_bytes(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for, a device has no end
            raise ArtefactError(f"{path} is no regular file")
        with path.open("rb") as file:
            data = file.read(LARGEST_ARTEFACT_BYTES + 1)
    except OSError as error:
        raise ArtefactError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > LARGEST_ARTEFACT_BYTES:
        raise ArtefactError(f"{path} has more than {LARGEST_ARTEFACT_BYTES} bytes")
    return data


def _read_card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(_read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{path} is not JSON: {error}") from None
    if not isinstance(card, dict):
        raise ArtefactError(f"{path} holds {type(card).__name__}, expected an object")
    if card.get("observation_version") != OBSERVATION_VERSION:
        found = card.get("observation_version")
        raise ArtefactError(f"{path}: observation version {found!r:.80}; this Autotuner observes version {OBSERVATION_VERSION}")
    for key, kind in (("name", str), ("knobs", list)):
        if not isinstance(card.get(key, kind()), kind):
            raise ArtefactError(f"{path}: {key} is {card[key]!r:.80}; expected {kind.__name__}")
    for key, expected in (("features", FEATURES), ("actions", ACTION_NAMES)):
        if card.get(key) != list(expected):
            raise ArtefactError(f"{path}: {key} differ from this Autotuner's {len(expected)} {key}; train the policy again")
    return card


def _check_arrays(path: Path, arrays: dict[str, Any]) -> dict[str, Array]:
    missing = [name for name in ARRAYS if name not in arrays]
    if missing:
        raise ArtefactError(f"{path}: arrays {missing} are missing")
    weights = {name: np.asarray(arrays[name], dtype=np.float64) for name in ARRAYS}
    if weights["pi.0.weight"].ndim != 2 or weights["pi.1.weight"].ndim != 2:
        raise ArtefactError(f"{path}: pi.*.weight must be matrices")
    hidden, last = weights["pi.0.weight"].shape[0], weights["pi.1.weight"].shape[0]
    shapes = ((hidden, len(FEATURES)), (hidden,), (last, hidden), (last,), (ACTION_COUNT, last), (ACTION_COUNT,))
    for name, shape in zip(ARRAYS, shapes, strict=True):
        if weights[name].shape != shape:
            raise ArtefactError(f"{path}: {name} has shape {weights[name].shape}, expected {shape}")
        if not (np.abs(weights[name]) <= LARGEST_WEIGHT).all():
            raise ArtefactError(f"{path}: {name} holds values that are not finite, or beyond {LARGEST_WEIGHT:g}")
    return weights
