"""Reads what a trainer leaves behind: ``result.json`` and the sample grids beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotuner.errors import ConfigurationError

RESULT_FILE = "result.json"


@dataclass(frozen=True)
class LossPoint:
    """The held-out loss at full resolution, at one moment of the run."""

    seconds: float
    step: int
    images: int
    loss: float
    stage: int


@dataclass(frozen=True)
class QualityPoint:
    """The distance of few-step samples from the data, at one moment of the run (lower is better)."""

    seconds: float
    value: float
    sampling_steps: int
    stage: int


@dataclass(frozen=True)
class FinalQuality:
    """The same distance after the budget."""

    who: str
    """``teacher`` or ``student``."""
    steps: int
    value: float


@dataclass(frozen=True)
class Grid:
    """Samples made at one number of steps, as a PNG file."""

    who: str
    steps: int
    path: Path


@dataclass(frozen=True)
class TrainingResult:
    """One ``result.json``; empty when the trainer wrote none."""

    steps: int = 0
    images: int = 0
    peak_bytes: int = 0
    parameters: int | None = None
    final_held_out_loss: float | None = None
    injected_seconds: float | None = None
    """Time that a scripted slowdown took."""
    held_out: tuple[LossPoint, ...] = ()
    quality: tuple[QualityPoint, ...] = ()
    final_quality: tuple[FinalQuality, ...] = ()
    quality_floor: float | None = None
    """Distance that as many real images have."""
    versions: tuple[tuple[str, str], ...] = ()
    seed: int | None = None
    dataset: str = ""
    platform: str = ""
    grids: tuple[Grid, ...] = ()


def read_result(directory: Path) -> TrainingResult:
    """Read a trainer's directory; raises ConfigurationError naming the file when it is missing or damaged."""
    path = directory / RESULT_FILE
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise ConfigurationError(f"no result of a training at {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigurationError(f"{path} is not JSON: {error}") from None
    try:
        return parse(document, directory)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigurationError(f"{path} is not the result of a training: {error!r}") from None


def parse(document: Mapping[str, Any], directory: Path) -> TrainingResult:
    """Understand a ``result.json`` as ``diffusion/result.py`` writes it; a value that was not finite stands there as null."""
    rows = document["evaluations"]
    return TrainingResult(
        steps=document.get("steps", 0),
        images=document.get("images", 0),
        peak_bytes=document.get("peak_bytes", 0),
        parameters=document.get("parameters"),
        final_held_out_loss=document.get("held_out_loss"),
        injected_seconds=document.get("injected_seconds"),
        held_out=tuple(
            LossPoint(row["seconds"], row["step"], row["images"], row["held_out_loss"], row["stage"])
            for row in rows
            if row["held_out_loss"] is not None
        ),
        quality=tuple(
            QualityPoint(row["seconds"], row["quality"], row["quality_steps"], row["stage"])
            for row in rows
            if row["quality"] is not None
        ),
        final_quality=tuple(
            FinalQuality(row["who"], row["steps"], row["quality"])
            for row in document.get("final_qualities", [])
            if row["quality"] is not None
        ),
        quality_floor=document.get("quality_floor"),
        versions=tuple((name, str(version)) for name, version in document.get("versions", {}).items()),
        seed=document.get("config", {}).get("seed"),
        dataset=document.get("data", {}).get("name", ""),
        platform=document.get("platform", ""),
        grids=tuple(Grid(row["who"], row["steps"], directory / row["file"]) for row in document.get("grids", [])),
    )
