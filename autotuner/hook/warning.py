"""The one way in which the hook complains: a warning, never an exception into training."""

from __future__ import annotations

import sys
import warnings


class AutotunerWarning(UserWarning):
    """The hook could not use something that the script or the system gave it; training goes on."""


def warn(message: str) -> None:
    """Warn once, as seen from the script's own line; under ``-W error`` write to stderr instead of raising."""
    try:
        warnings.warn(f"autotuner: {message}", AutotunerWarning, stacklevel=_script_depth())
    except Exception:  # -W error, or somebody's own showwarning: never into training
        if sys.stderr is not None:
            sys.stderr.write(f"AutotunerWarning: {message}\n")


def _script_depth() -> int:
    """The ``stacklevel`` of the innermost caller outside this package (Python 3.11 has no skip_file_prefixes)."""
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("autotuner.hook"):
        depth, frame = depth + 1, frame.f_back
    return depth
