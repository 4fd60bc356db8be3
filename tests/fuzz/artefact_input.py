"""A policy artefact: its card, its weights, and the little header before the weights."""

from __future__ import annotations

import json
import math
import struct
import warnings
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from safetensors.numpy import save

from autotuner.controller.actions import ACTION_COUNT, ACTION_NAMES, HOLD
from autotuner.controller.learned import Learned
from autotuner.controller.observation import FEATURES, OBSERVATION_VERSION
from autotuner.daemon.policies import resolve_policy
from autotuner.errors import ArtefactError
from tests.fuzz.damage import FLOATS, as_text, damaged, damaged_document, damaged_json, overwrite, readable

HIDDEN = 4
SHAPES = {
    "pi.0.weight": (HIDDEN, len(FEATURES)), "pi.0.bias": (HIDDEN,), "pi.1.weight": (HIDDEN, HIDDEN), "pi.1.bias": (HIDDEN,),
    "action.weight": (ACTION_COUNT, HIDDEN), "action.bias": (ACTION_COUNT,),
}  # fmt: skip
CARD = {
    "name": "tiny", "observation_version": OBSERVATION_VERSION, "features": list(FEATURES), "actions": list(ACTION_NAMES),
    "knobs": ["micro_batch", "pace"], "default": "rules", "sha256": None,
}  # fmt: skip
TYPES = (np.float32, np.float64, np.float16, np.int64, np.uint8, np.bool_)


@st.composite
def weights(draw: st.DrawFn) -> bytes:
    """A safetensors file: whole, with extreme values or other shapes, with a damaged header, or damaged anywhere."""
    arrays = {name: np.full(shape, 0.1, np.float32) for name, shape in SHAPES.items()}
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(list(SHAPES)))
        how = draw(st.integers(0, 3))
        if how == 0:
            del arrays[name]
            arrays["other"] = np.zeros(1)
            break
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if how == 1:
                shape = draw(st.sampled_from(((), (0,), (1,), (HIDDEN, 0), (0, HIDDEN), (HIDDEN,) * 3, (ACTION_COUNT,))))
                arrays[name] = np.zeros(shape, np.float32)
            else:
                kind = draw(st.sampled_from(TYPES))
                arrays[name] = np.full(SHAPES[name], draw(st.sampled_from(FLOATS)), np.float64).astype(kind)
    data = save(arrays)
    how = draw(st.integers(0, 3))
    if how == 0:
        return draw(damaged(data))
    if how == 1:
        (length,) = struct.unpack_from("<Q", data)
        header = as_text(draw(damaged_document(json.loads(data[8 : 8 + length]))))
        return struct.pack("<Q", len(header)) + header + data[8 + length :]
    return data


class ArtefactInput:
    """What is loaded chooses an allowed action; everything else is an ArtefactError, and then the rules decide."""

    cases = st.tuples(
        damaged_json(CARD) | st.just(json.dumps(CARD).encode()),
        weights(),
        st.sampled_from((0.0, 1.0, -5.0, 1e30, math.nan)),
        st.integers(0, 2**ACTION_COUNT - 1),
    )

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "artefact"
        self.directory.mkdir()

    def check(self, case: tuple[bytes, bytes, float, int]) -> None:
        card, data, value, bits = case
        overwrite(self.directory / "card.json", card)
        overwrite(self.directory / "policy.safetensors", data)
        assert resolve_policy(str(self.directory), None).policy.name
        assert resolve_policy("default", self.directory.parent).policy.name
        try:
            policy = Learned.load(self.directory)
        except ArtefactError as error:
            readable(error)
            return
        mask = [i == HOLD or bool(bits >> i & 1) for i in range(ACTION_COUNT)]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            choice = policy.choose((value,) * len(FEATURES), mask)
        assert mask[choice.action]
        assert "nan" not in choice.detail or choice.action == HOLD

    def close(self) -> None:
        pass
