"""Writes the report on one run, or on several side by side, as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autotuner.errors import ConfigurationError
from autotuner.hook.files import SHARED, replace_text
from autotuner.tracking.comparison import text_lines
from autotuner.tracking.page import page
from autotuner.tracking.report_run import ReportRun

__all__ = ["Report", "ReportRun", "write_report"]


@dataclass(frozen=True)
class Report:
    """A page that was written; as text it is its path."""

    path: Path
    table_lines: tuple[str, ...]
    """The comparison as aligned text, for a terminal."""

    def __str__(self) -> str:
        return str(self.path)


def write_report(runs: Sequence[ReportRun], out: Path, title: str = "Training report", notes: Sequence[str] = ()) -> Report:
    """Write the page to ``out`` (a ``.html`` file, or a directory that gets ``report.html``).

    The first run is the one that the others are compared with.
    """
    if not runs:
        raise ConfigurationError("a report needs at least one run; got none")
    path = out if out.suffix == ".html" else out / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, page(runs, title, notes), SHARED)
    return Report(path, text_lines(runs))
