"""Random numbers by name: a pure function of the scenario's seed, the slice of time and what the number is for.

A run that ends early or skips a draw changes no other draw, so two implementations of the simulator, or two arms of one
comparison, meet the same noise at the same time. Counter-based as in Salmon et al. 2011 ("Parallel random numbers: as easy as
1, 2, 3"), with the finaliser of SplitMix64 (Steele, Lea and Flood 2014) twice.
"""

from __future__ import annotations

import math

STEP, KILL, FINITE, LOSS, EVALUATION, QUALITY = range(6)
"""What a number is for."""

_WORD = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15
FIRST = 0xBF58476D1CE4E5B9
SECOND = 0x94D049BB133111EB
PURPOSES = 16
"""Numbers a slice may draw: two for each purpose, and room."""


def _mixed(word: int) -> int:
    word = ((word ^ (word >> 30)) * FIRST) & _WORD
    word = ((word ^ (word >> 27)) * SECOND) & _WORD
    return word ^ (word >> 31)


def _bits(seed: int, number: int) -> int:
    return _mixed((_mixed((seed + GOLDEN) & _WORD) + number * GOLDEN) & _WORD)


def uniform(seed: int, moment: int, purpose: int) -> float:
    """A number in [0, 1), the same each time for the same ``seed``, slice ``moment`` and ``purpose``."""
    return (_bits(seed, moment * PURPOSES + 2 * purpose) >> 11) * 2.0**-53


def normal(seed: int, moment: int, purpose: int) -> float:
    """A standard normal number (Box and Muller 1958)."""
    first = _bits(seed, moment * PURPOSES + 2 * purpose) >> 11
    second = _bits(seed, moment * PURPOSES + 2 * purpose + 1) >> 11
    return math.sqrt(-2.0 * math.log1p(-first * 2.0**-53)) * math.cos(2.0 * math.pi * (second * 2.0**-53))
