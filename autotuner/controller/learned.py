"""The exported RL policy: a small masked network, its artefact checked at the door.

In plain Python, which takes a third of a millisecond for two layers of 64: NumPy would add 14 MB to what the daemon holds.
"""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import mul
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, deserialize

from autotuner.controller.actions import ACTION_COUNT, ACTION_NAMES, ACTIONS, HOLD, Action, action_index
from autotuner.controller.observation import FEATURES, OBSERVATION_VERSION, moved
from autotuner.controller.policy import Choice
from autotuner.controller.rules import GUARDED_MEMORY, Rules, nearer_to_one, next_coarser
from autotuner.controller.window import RunWindow
from autotuner.errors import ArtefactError
from autotuner.knobs import KNOB_NAMES

LAYERS = ("pi.0", "pi.1", "action")
LARGEST_ARTEFACT_BYTES = 16_000_000
LARGEST_WEIGHT = 1e6
"""Trained weights stay below 10; from here on sums could overflow."""
EXPLAINING_FEATURES = 2
LATEST_COARSE = 0.17
"""Share of the budget from which on a resolution below the full one goes up, or room is made for it. In 1,600 simulated runs
that changes neither time nor reward (mean log time 1.0445 for 1.0444, reward -5.781 for -5.780)."""
UP = action_index("resolution", 1)
ROOM = (action_index("cache_limit", -1), action_index("micro_batch", -1))
_BUDGET_KNOWN = FEATURES.index("budget_known")
_BUDGET_USED = FEATURES.index("budget_used")
_PRESSURE = FEATURES.index("pressure")
_EXPECTED = FEATURES.index("memory_resolution_up")
_NOT_FINITE = FEATURES.index("not_finite")
_TYPES = {"F32": "f", "F64": "d"}


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights (outputs, inputs) and biases of one layer."""

    rows: tuple[tuple[float, ...], ...]
    columns: tuple[tuple[float, ...], ...]
    biases: tuple[float, ...]

    def __call__(self, x: Sequence[float]) -> list[float]:
        """Weights times ``x``, plus biases."""
        return [sum(map(mul, row, x), bias) for row, bias in zip(self.rows, self.biases, strict=True)]


class Learned:
    """Two tanh layers and one logit an action; the largest allowed logit wins (Huang & Ontanon 2020, action masking).

    A card may name the ``knobs`` that the policy met in training; it never moves another one. Nor does it decide where no
    simulated run has been: without a budget ``rules`` decide, and resolution goes down only where they would let it. What
    other learning rates teach is assumed in the simulator, not recorded: the rate goes to the script's own alone. A student
    is given up for no stage before, nor for its teacher: that is the guard's to do, and the gate's. In the simulator going to
    and fro pays, where each stage begins at a fresh learning rate, and nothing recorded says that it does. After
    ``LATEST_COARSE`` of the budget it makes its way back to full resolution whenever it can: in real runs with little memory
    it put that off.
    """

    def __init__(self, name: str, layers: tuple[Layer, Layer, Layer], card: dict[str, Any]) -> None:
        self.name = name
        self.card = card
        self._layers = layers
        met = card.get("knobs", KNOB_NAMES)
        self._met = [not action.step or action.knob in met for action in ACTIONS]
        self._elsewhere = Rules()

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
            tensors = dict(deserialize(data))  # type: ignore[no-untyped-call]
        except (SafetensorError, ValueError, KeyError) as error:
            raise ArtefactError(f"{path} is not a safetensors file: {error!s:.300}") from None
        return cls(str(card.get("name", directory.name)), _checked(path, tensors), card)

    def logits(self, observation: Sequence[float]) -> list[float]:
        """One logit an action, shape (ACTION_COUNT,)."""
        return self._forward(observation)[0]

    def _forward(self, x: Sequence[float]) -> tuple[list[float], list[float], list[float]]:
        lower, upper, last = self._layers
        first = list(map(math.tanh, lower(x)))
        second = list(map(math.tanh, upper(first)))
        return last(second), first, second

    def choose(self, observation: Sequence[float], mask: Sequence[bool], window: RunWindow | None = None) -> Choice:
        """The allowed action with the largest logit, with its probability and the features that speak for it."""
        if not all(map(math.isfinite, observation)):
            return Choice(HOLD, "hold", "observation not finite")
        if window is not None and not observation[_BUDGET_KNOWN]:
            return replace(self._elsewhere.choose(observation, mask, window), detail="rules decide: the run told no budget")
        logits, first, second = self._forward(observation)
        allowed = [i for i, (legal, met) in enumerate(zip(mask, self._met, strict=True)) if legal and met]
        if window is not None:
            allowed = grounded(allowed, observation, window)
        action = max(allowed, key=logits.__getitem__, default=HOLD)
        if action == HOLD:
            return Choice(HOLD, "hold")
        probability = 1.0 / sum(math.exp(logits[i] - logits[action]) for i in allowed)
        return Choice(action, "policy", f"p={probability:.2f}; {self._because(action, observation, first, second)}")

    def _because(self, action: int, x: Sequence[float], first: list[float], second: list[float]) -> str:
        """Features with the largest input x gradient of this action's logit over hold's."""
        lower, upper, last = self._layers
        wanted, held = last.rows[action], last.rows[HOLD]
        above = [(w - h) * (1.0 - y * y) for w, h, y in zip(wanted, held, second, strict=True)]
        below = [sum(map(mul, column, above)) * (1.0 - y * y) for column, y in zip(upper.columns, first, strict=True)]
        influence = {i: sum(map(mul, lower.columns[i], below)) * value for i, value in enumerate(x) if value}
        top = sorted(influence, key=lambda i: -influence[i])[:EXPLAINING_FEATURES]
        return "because of " + ", ".join(f"{FEATURES[i]}={x[i]:.2f}" for i in top)


def grounded(allowed: Sequence[int], observation: Sequence[float], window: RunWindow) -> list[int]:
    """Those of the allowed actions that ``Learned`` chooses among; ``train_rollouts.grounded`` has the same."""
    diverges = observation[_NOT_FINITE] > 0
    kept = [i for i in allowed if _known(ACTIONS[i], window, diverges)]
    late = observation[_BUDGET_USED] > LATEST_COARSE and window.free("resolution")
    if late and moved(window, "resolution", 1) is not None:
        if UP in kept:
            return [UP]
        if observation[_PRESSURE] > 0 or observation[_EXPECTED] > GUARDED_MEMORY:
            return [i for i in kept if i in ROOM] or kept
    return kept


def _known(action: Action, window: RunWindow, diverges: bool) -> bool:
    """Whether what the simulator says of an action was recorded, or is known."""
    if action.knob == "lr_scale":
        return nearer_to_one(window, action.step) or (diverges and action.step < 0)
    if action.knob == "distill":
        return action.step > 0
    return action.knob != "resolution" or action.step > 0 or next_coarser(window)


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


def _checked(path: Path, tensors: dict[str, dict[str, Any]]) -> tuple[Layer, Layer, Layer]:
    """The three layers, their shapes and numbers checked."""
    found = [(_numbers(path, tensors, f"{name}.weight", 2), _numbers(path, tensors, f"{name}.bias", 1)) for name in LAYERS]
    hidden, last = found[0][0].shape[0], found[1][0].shape[0]
    expected = ((hidden, len(FEATURES)), (last, hidden), (ACTION_COUNT, last))
    layers = []
    for name, (weight, bias), shape in zip(LAYERS, found, expected, strict=True):
        for part, tensor, wanted in (("weight", weight, shape), ("bias", bias, shape[:1])):
            if tensor.shape != wanted:
                raise ArtefactError(f"{path}: {name}.{part} has shape {tensor.shape}, expected {wanted}")
        width = shape[1]
        rows = tuple(tuple(weight.values[i * width : (i + 1) * width]) for i in range(shape[0]))
        layers.append(Layer(rows, tuple(zip(*rows, strict=True)), tuple(bias.values)))
    return layers[0], layers[1], layers[2]


@dataclass(frozen=True, slots=True)
class _Tensor:
    shape: tuple[int, ...]
    values: Sequence[float]


def _numbers(path: Path, tensors: dict[str, dict[str, Any]], name: str, dimensions: int) -> _Tensor:
    tensor = tensors.get(name)
    if tensor is None:
        raise ArtefactError(f"{path}: {name} is missing; allowed are {', '.join(LAYERS)}, each with .weight and .bias")
    if tensor["dtype"] not in _TYPES or len(tensor["shape"]) != dimensions:
        raise ArtefactError(
            f"{path}: {name} is {tensor['dtype']} with shape {tuple(tensor['shape'])}; "
            f"expected {' or '.join(_TYPES)} with {dimensions} dimensions"
        )
    values: Sequence[float] = array(_TYPES[tensor["dtype"]], bytes(tensor["data"]))
    if not all(abs(value) <= LARGEST_WEIGHT for value in values):  # which no NaN is
        raise ArtefactError(f"{path}: {name} holds values that are not finite, or beyond {LARGEST_WEIGHT:g}")
    return _Tensor(tuple(tensor["shape"]), values)
