"""What ``autotuner run`` tells the process that trains, in environment variables."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

NAME = "AUTOTUNER_RUN_NAME"
KNOBS = "AUTOTUNER_RUN_KNOBS"
START = "AUTOTUNER_RUN_START"
NOTE = "AUTOTUNER_RUN_NOTE"
DEFAULT_KNOBS = ("micro_batch", "pace")


def run_name(environment: Mapping[str, str] = os.environ) -> str:
    """What the run is called: as asked for, else as the script is."""
    return environment.get(NAME) or Path(sys.argv[0] if sys.argv else "").stem or "training"


def offered_knobs(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The knobs that the daemon may be offered."""
    text = environment.get(KNOBS)
    return DEFAULT_KNOBS if text is None else tuple(name for name in text.split(",") if name)


def start_values(environment: Mapping[str, str] = os.environ) -> dict[str, float]:
    """Knob values to begin with, after a restart; empty otherwise."""
    try:
        values = json.loads(environment.get(START) or "{}")
        return {str(name): float(value) for name, value in values.items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}


def note_run(directory: Path | None, environment: Mapping[str, str] = os.environ) -> None:
    """Tell the supervisor which run this process has made."""
    path = environment.get(NOTE)
    if path and directory is not None:
        Path(path).write_text(str(directory), encoding="utf-8")
