"""What ``autotuner doctor`` says of one thing."""

from __future__ import annotations

from dataclasses import dataclass

GOOD, NONE, WARN, FAIL = "OK", "NONE", "WARN", "FAIL"
"""NONE is what this machine has not, and that is no fault of anybody."""


@dataclass(frozen=True)
class Finding:
    """One line of the answer."""

    level: str
    subject: str
    text: str
