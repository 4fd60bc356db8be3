"""Sleeping between steps, in pieces that keep a device awake."""

from __future__ import annotations

import math
from collections.abc import Callable

NAP_SECONDS = 0.4
"""Longest single sleep: a longer idle lets a GPU clock down."""


def nap(seconds: float, sleep: Callable[[float], None]) -> None:
    """Sleep for ``seconds`` in equal pieces of at most NAP_SECONDS."""
    pieces = math.ceil(seconds / NAP_SECONDS)
    for _ in range(pieces):
        sleep(seconds / pieces)
