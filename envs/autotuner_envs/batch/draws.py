"""``autotuner_envs.draws`` in machine words."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from autotuner_envs import draws
from autotuner_envs.batch.compiled import compiled

_GOLDEN, _FIRST, _SECOND = np.uint64(draws.GOLDEN), np.uint64(draws.FIRST), np.uint64(draws.SECOND)
_30, _27, _31, _11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)
_PURPOSES = draws.PURPOSES


@compiled
def _mixed(word: Any) -> Any:
    word = (word ^ (word >> _30)) * _FIRST
    word = (word ^ (word >> _27)) * _SECOND
    return word ^ (word >> _31)


@compiled
def _bits(seed: Any, number: int) -> Any:
    return _mixed(_mixed(seed + _GOLDEN) + np.uint64(number) * _GOLDEN)


@compiled
def uniform(seed: Any, moment: int, purpose: int) -> float:
    """A number in [0, 1)."""
    return float(_bits(seed, moment * _PURPOSES + 2 * purpose) >> _11) * 2.0**-53


@compiled
def normal(seed: Any, moment: int, purpose: int) -> float:
    """A standard normal number."""
    first = float(_bits(seed, moment * _PURPOSES + 2 * purpose) >> _11)
    second = float(_bits(seed, moment * _PURPOSES + 2 * purpose + 1) >> _11)
    return math.sqrt(-2.0 * math.log1p(-first * 2.0**-53)) * math.cos(2.0 * math.pi * (second * 2.0**-53))
