"""Episodes as a file: ``.npz`` (NumPy) or ``.json``, with versions that are checked when it is read."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotuner.controller.actions import ACTION_NAMES
from autotuner.controller.observation import FEATURES, OBSERVATION_VERSION
from autotuner.errors import ArtefactError
from autotuner.knobs import KNOB_NAMES
from autotuner.replay.episode import COLUMNS, Episode

FORMAT = 1
SUFFIXES = (".npz", ".json")


@dataclass(frozen=True)
class EpisodeFile:
    """Runs, and one table of all their decisions; column ``run`` is the index into ``runs``."""

    runs: tuple[dict[str, Any], ...]
    columns: dict[str, list[Any]]


def check_suffix(path: Path) -> None:
    """Raise ArtefactError for a file name that ``write_episodes`` does not know how to write."""
    if path.suffix not in SUFFIXES:
        raise ArtefactError(f"{path}: suffix {path.suffix!r}; allowed: {', '.join(SUFFIXES)}")


def write_episodes(path: Path, episodes: Sequence[Episode]) -> None:
    """Write them all or leave what was there; raises ArtefactError for another suffix, and where the disk refuses."""
    check_suffix(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _write(draft, path.suffix, episodes)
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise ArtefactError(f"{path} cannot be written: {error.strerror or error}") from None


def _write(path: Path, suffix: str, episodes: Sequence[Episode]) -> None:
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for i, episode in enumerate(episodes):
        for name in COLUMNS:
            columns[name] += [i] * episode.decisions if name == "run" else episode.columns[name]
    head = {
        "format": FORMAT, "observation_version": OBSERVATION_VERSION, "features": FEATURES, "actions": ACTION_NAMES,
        "knobs": KNOB_NAMES, "runs": [episode.about for episode in episodes],
    }  # fmt: skip
    if suffix == ".json":
        columns = {name: [_nothing_for_nan(value) for value in values] for name, values in columns.items()}
        path.write_text(json.dumps({**head, "columns": columns}, allow_nan=False) + "\n", encoding="utf-8")
        return
    import numpy as np

    arrays = {name: np.asarray(values) for name, values in columns.items()}
    with path.open("wb") as file:
        np.savez_compressed(file, head=np.asarray(json.dumps(head)), **arrays)  # type: ignore[arg-type]


def read_episodes(path: Path) -> EpisodeFile:
    """Read and check; raises ArtefactError, naming the file, what was found and what is allowed."""
    check_suffix(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8")) if path.suffix == ".json" else _read_npz(path)
    except OSError as error:
        raise ArtefactError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError) as error:
        raise ArtefactError(f"{path} holds no episodes: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ArtefactError(f"{path} holds no episodes of format {FORMAT}")
    found = document.get("observation_version")
    if found != OBSERVATION_VERSION:
        raise ArtefactError(
            f"{path}: episodes of observation version {found!r}; this Autotuner observes version {OBSERVATION_VERSION}"
        )
    for key, expected in (("features", FEATURES), ("actions", ACTION_NAMES), ("knobs", KNOB_NAMES)):
        if tuple(document.get(key, ())) != expected:
            raise ArtefactError(f"{path}: {key} differ from this Autotuner's; run autotuner replay again")
    columns = document.get("columns", {})
    if missing := [name for name in COLUMNS if name not in columns]:
        raise ArtefactError(f"{path}: columns {missing} are missing")
    known = {name: [math.nan if value is None else value for value in columns[name]] for name in COLUMNS}
    return EpisodeFile(tuple(document["runs"]), known)


def _read_npz(path: Path) -> dict[str, Any]:
    import zipfile

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            head: dict[str, Any] = json.loads(str(arrays["head"]))
            return {**head, "columns": {name: arrays[name].tolist() for name in arrays.files if name != "head"}}
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from None


def _nothing_for_nan(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
