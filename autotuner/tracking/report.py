"""Writes the report on one run, or on several side by side, as one HTML file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from autotuner.errors import ConfigurationError
from autotuner.tracking.page import page
from autotuner.tracking.report_run import ReportRun

__all__ = ["ReportRun", "write_report"]


def write_report(runs: Sequence[ReportRun], out: Path, title: str = "Training report", notes: Sequence[str] = ()) -> Path:
    """Write the page to ``out`` (a ``.html`` file, or a directory that gets ``report.html``) and return its path.

    The first run is the one that the others are compared with.
    """
    if not runs:
        raise ConfigurationError("a report needs at least one run; got none")
    path = out if out.suffix == ".html" else out / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(page(runs, title, notes), encoding="utf-8")
    os.replace(draft, path)
    return path
