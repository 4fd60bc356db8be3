"""One typed name for numba's decorator."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """``function`` in machine code, kept on disk; IEEE arithmetic as written, so results equal Python's."""
    return cast(Function, numba.njit(cache=True, error_model="numpy")(function))
