"""One typed name for numba's decorator, and a place for machine code that is never stale."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar, cast

import numba

import autotuner

Function = TypeVar("Function", bound=Callable[..., object])


@cache
def sources() -> str:
    """Hash of simulator and controller: what a compiled function, a trained seed or a played arm depends on.

    numba itself notices changes of the outermost function's file only.
    """
    own, product = Path(__file__).parents[1], Path(autotuner.__file__).parent
    parts = (own, product / "controller", product / "diffusion" / "plan.py", product / "telemetry", product / "knobs.py")
    digest = hashlib.sha256()
    for part in parts:
        for path in sorted(path for path in part.rglob("*") if path.suffix in (".py", ".json")) if part.is_dir() else [part]:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
numba.config.CACHE_DIR = str(_CACHE / "autotuner" / "numba" / sources())


def compiled(function: Function) -> Function:
    """``function`` in machine code, kept in the user's cache; IEEE arithmetic as written, so results equal Python's."""
    return cast(Function, numba.njit(cache=True, error_model="numpy")(function))
