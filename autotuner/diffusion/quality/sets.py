"""What two sets of features must have in common before a number may compare them."""

from __future__ import annotations

import numpy as np

from autotuner.errors import AutotunerError


class ComparisonError(AutotunerError):
    """Two sets of pictures do not compare: their counts or their features differ, or there are too few."""


def require_comparable(generated: np.ndarray, real: np.ndarray, least: int = 1) -> None:
    """Raise ComparisonError unless both are features (count, dimensions) of equal shape with ``least`` rows or more.

    Every distance between samples depends on their number, so unequal numbers are refused and never trimmed.
    """
    if generated.ndim != 2 or real.ndim != 2 or generated.shape[1] != real.shape[1]:
        raise ComparisonError(f"features of shapes {generated.shape} and {real.shape}; allowed is (count, dimensions) twice")
    if len(generated) != len(real):
        raise ComparisonError(f"{len(generated)} generated and {len(real)} real pictures; allowed are equal counts")
    if len(generated) < least:
        raise ComparisonError(f"{len(generated)} pictures of each kind; at least {least} are needed here")
