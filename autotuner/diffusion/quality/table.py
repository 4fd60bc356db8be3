"""A report as lines of text."""

from __future__ import annotations

import math

import numpy as np

from autotuner.diffusion.quality.report import Distances, Report

HEAD = (
    "",
    "steps",
    "NFE",
    "Frechet",
    "kernel",
    "precision",
    "recall",
    "density",
    "coverage",
    "agreement",
    "paired",
    "in features",
)


def lines(report: Report) -> list[str]:
    """The table, row by row; what was not measured is a dash. ``NFE`` are network evaluations for one image."""
    cells = [HEAD, ("real pictures", "", "", *_distances(report.floor), "", "", "")]
    for row in report.rows:
        rest = (row.class_agreement, row.paired_error, row.paired_feature_error)
        cells.append((row.who, str(row.steps), str(row.evaluations), *_distances(row.distances), *map(_number, rest)))
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    texts = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return [f"{report.features}, {report.images} pictures of each kind", *texts, *_paired(report), *_held_out(report)]


def _distances(found: Distances) -> tuple[str, ...]:
    kernel = f"{_number(found.kernel)} ± {_number(found.kernel_standard_error)}"
    shares = (found.precision, found.recall, found.density, found.coverage)
    return (_number(found.frechet), kernel, *map(_number, shares))


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _paired(report: Report) -> list[str]:
    known = report.reference
    if known is None:
        return []
    state = "converged" if known.converged else "NOT CONVERGED"
    return [f"paired with {known.steps} steps of {known.solver} on {known.images} noises: {state}, change {known.change:.2g}"]


def _held_out(report: Report) -> list[str]:
    return [
        f"held-out loss at {resolution} px: {np.nanmean(losses):.4f} ({' '.join(_number(loss) for loss in losses)})"
        for resolution, losses in report.held_out_losses.items()
    ]
